"""Files in D4RL's layout: flat HDF5 arrays of all episodes (Fu et al. 2020, https://arxiv.org/abs/2004.07219).

Keys: ``observations``, ``actions``, ``rewards``, ``terminals``, and if present ``timeouts``, ``next_observations``,
``infos/action_log_probs``, ``action_mask`` (or ``infos/action_mask``) and ``next_action_mask`` for discrete actions,
``metadata/env_id``, ``metadata/ref_min_score``, ``metadata/ref_max_score``. Groups instead of arrays are read as
dictionaries. Neither ``d4rl`` nor ``gym`` is needed. D4RL's own files name no environment: pass it to the evaluation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers import arrays
from lightning_offrl.data.readers.checks import usable_log_prob
from lightning_offrl.errors import InputError

VERSION = 3
"""Raised when the same file would be read differently, so that caches of before are not used."""

ENVIRONMENT, REFERENCES = "metadata/env_id", ("metadata/ref_min_score", "metadata/ref_max_score")
METADATA = {ENVIRONMENT, *REFERENCES}

_SMALL, _DENSEST = 1 << 26, 5_000
"""An array above 64 MiB is at most so many times as large as what is stored of it; gzip packs zeros 1,000 to one."""


def read(path: Path, environment: str | None = None, ask: arrays.Ask = "nobody") -> Episodes:
    """All episodes of a file; what happens at their ends is said in `lightning_offrl.data.readers.arrays.from_arrays`.

    Args:
        path: of the file.
        environment: Gymnasium id, in place of the file's.
        ask: see `arrays.Ask`.

    Raises:
        InputError: for a file that is not HDF5, is cut short, lacks an array, or holds arrays that do not fit together.
    """
    import h5py

    try:
        whole = h5py.is_hdf5(path)
        with h5py.File(path, "r") as file:
            found: dict[str, Any] = {}
            for aliases in arrays.NAMES.values():
                for alias in aliases:
                    if alias in file:
                        found[alias] = _load(file[alias])
            environment = environment or _text(file, ENVIRONMENT)
            low, high = (_number(file, key) for key in REFERENCES)
            present = list(file.keys())
    except InputError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as problem:
        if not whole:
            raise InputError(f"{path} is not an HDF5 file; a dataset in D4RL's layout was expected") from problem
        raise InputError(
            f"{path} cannot be read, it seems to be cut short or damaged ({_first_line(problem)}); copy or "
            "download it again"
        ) from problem
    if not found:
        raise InputError(
            f"{path} is not in D4RL's layout: observations, actions, rewards and terminals are needed, it has {present}"
        )
    notes: list[str] = []
    for alias in arrays.NAMES["behavior_log_prob"]:
        if alias in found:
            found[alias] = usable_log_prob(found[alias], alias, notes)
    found["environment"] = environment
    found["references"] = None if low is None or high is None else (low, high)
    episodes = arrays.from_arrays(found, name=path.stem, ask=ask, strict=False)
    episodes.notes.extend(notes)
    return episodes


def unread(path: Path) -> set[str]:
    """Names of what the file holds and `read` leaves out."""
    import h5py

    found: set[str] = set()
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: found.add(name) if isinstance(item, h5py.Dataset) else None)
    known = {alias for aliases in arrays.NAMES.values() for alias in aliases}
    groups = tuple(f"{name}/" for name in known)
    return {name for name in found - known - METADATA if not name.startswith(groups)}


def _load(item: Any) -> Any:
    import h5py

    if isinstance(item, h5py.Group):
        return {key: _load(item[key]) for key in item.keys()}
    stored = item.id.get_storage_size()
    if (item.size or 0) * item.dtype.itemsize > max(_SMALL, _DENSEST * stored):
        raise InputError(
            f"{item.file.filename}: {item.name} claims shape {list(item.shape)}, but {stored:,} bytes are stored; "
            "use another file"
        )
    return item[()]


def _text(file: Any, key: str) -> str | None:
    if key not in file:
        return None
    value = file[key][()]
    return value.decode() if isinstance(value, bytes) else str(value)


def _number(file: Any, key: str) -> float | None:
    return float(file[key][()]) if key in file else None


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().splitlines()[0].strip("'\"") if str(problem).strip() else type(problem).__name__
