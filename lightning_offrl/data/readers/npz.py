"""NumPy archives (``.npz``) that hold the arrays which `lightning_offrl.data.readers.arrays.from_arrays` reads.

The texts ``name`` and ``environment`` and the two numbers ``references`` may stand beside them.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers.arrays import KNOWN, Ask, from_arrays
from lightning_offrl.errors import InputError

VERSION = 2
"""Raised when the same file would be read differently, so that caches of before are not used."""


def read(path: Path, environment: str | None = None, ask: Ask = "nobody") -> Episodes:
    """All episodes of a file.

    Args:
        path: of the file.
        environment: Gymnasium id, in place of the file's.
        ask: see `Ask`.

    Raises:
        InputError: for a damaged file, and all that `from_arrays` raises.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, MemoryError, zlib.error) as problem:
        raise InputError(f"{path} cannot be read as an .npz of numeric arrays ({problem})") from problem
    for key in ("name", "environment"):
        if key in found:
            found[key] = str(found[key])
    if environment is not None:
        found["environment"] = environment
    return from_arrays(found, name=path.stem, ask=ask)


def unread(path: Path) -> set[str]:
    """Names of what the file holds and `read` leaves out."""
    with np.load(path, allow_pickle=False) as file:
        return set(file.files) - KNOWN
