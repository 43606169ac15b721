"""How a checkpoint reaches the disk: whole or not at all.

Lightning's own writer goes through a temporary name too, but neither forces the bytes to the disk before the rename nor
says in words what happened when the disk is full or a file was cut.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from lightning_offrl.errors import InputError
from lightning_offrl.training import old_names


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary name in the same directory, forces it to disk, then renames.

    A kill or a full disk at any moment leaves the previous file of that name as it was. Reading uses
    ``weights_only=True`` unless told otherwise, and turns a damaged file into one sentence. Paths with a scheme
    (``s3://...``) are left to Lightning's writer.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            InputError: if the file system refuses (disk full, no permission); what was at ``path`` before is unharmed.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        buffer = BytesIO()  # torch's own file writer turns "disk full" into an opaque RuntimeError
        torch.save(checkpoint, buffer)
        write_atomically(path, buffer.getbuffer(), what="the checkpoint")

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Args:
            path: the file.
            map_location: as in ``torch.load``; everything to the CPU by default.
            weights_only: refuse to unpickle code. ``None`` means yes.

        Raises:
            InputError: if the file does not exist, is cut or damaged, or holds more than plain data and tensors.
        """
        if "://" in str(path):
            checkpoint: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only is not False)
            return checkpoint
        return read_checkpoint(path, map_location=map_location, weights_only=weights_only is not False)


def read_checkpoint(path: str | Path, *, map_location: Any = "cpu", weights_only: bool = True) -> dict[str, Any]:
    """The dictionary in a checkpoint file; raises `InputError` as `AtomicCheckpointIO.load_checkpoint` does."""
    if not os.path.isfile(path):
        raise InputError(
            f"no checkpoint at {path}: give the path of a .ckpt file, such as runs/NAME/checkpoints/last.ckpt"
        )
    damaged = (
        f"{path} is damaged or was cut short while it was copied ({os.path.getsize(path):,} bytes): use an earlier "
        "checkpoint of the run, its step=N.ckpt files are independent of each other"
    )
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > os.path.getsize(path):  # torch.save does not compress
                raise InputError(
                    f"{path} claims to hold more than its {os.path.getsize(path):,} bytes: torch.save did not "
                    "write it; use another file"
                )
            if archive.testzip() is not None:  # torch.load does not compare checksums
                raise InputError(damaged)
        checkpoint = torch.load(path, map_location=map_location, weights_only=weights_only)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds Python objects besides tensors and plain values, so it is not one of this package's "
            "checkpoints; if you trust whoever made it, load it from Python with weights_only=False"
        ) from error
    except InputError:
        raise
    except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise InputError(damaged) from error
    if not isinstance(checkpoint, dict):
        raise InputError(
            f"{path} holds a {type(checkpoint).__name__}, expected the dictionary of a Lightning checkpoint"
        )
    return old_names.checkpoint(checkpoint, str(path))


def write_atomically(path: str | Path, data: bytes | memoryview, *, what: str = "the file") -> None:
    """Replace the content of ``path`` in one step: temporary name, fsync, rename.

    Args:
        path: target; its directory is made if it is missing.
        data: the whole new content.
        what: subject of the error sentence.

    Raises:
        InputError: if the file system refuses; the previous content is unharmed and nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary.exists():  # its folder may be a file
            temporary.unlink()
        kept = "; the previous one there is unharmed" if path.exists() else ""
        raise InputError(
            f"{what} could not be written to {path} ({error.strerror or error}){kept}: free space or make the "
            "directory writable, then resume from the last checkpoint"
        ) from error
    if hasattr(os, "O_DIRECTORY"):  # the rename itself must survive a power cut too
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        except OSError:  # some network file systems cannot; the rename has happened all the same
            pass
        finally:
            os.close(directory)
