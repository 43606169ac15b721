"""Folders that something is written in before it gets its name, and what killed processes left of them.

A folder is called ``PREFIX-HOST-PID-RANDOM`` and holds a file ``lock``, which its process keeps locked (``flock``) from
the moment the file exists. The system lets go of the lock when the process ends, however it ends, and of no other: so a
folder of this host whose lock can be taken was left behind, and one whose lock is held is being written, whatever has
become of its process number since. Folders of other hosts (on a shared file system a lock may be seen by one host only)
and folders without a lock (of a file system or an operating system that has none) are never touched.

The package ``filelock`` is not used: it makes a lock file before it locks it, so another process could take a folder
that was just begun for one that was left behind.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"


@contextmanager
def staging(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in ``parent``, locked while it is used and removed afterwards.

    Args:
        parent: an existing directory.
        prefix: a leading dot hides it.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}-{_host()}-{os.getpid()}-", dir=parent))
    try:
        # Locked before it has the name that others look for.
        with (folder / f"{LOCK}.new").open("w") as file:
            if _locked(file.fileno()):
                (folder / f"{LOCK}.new").rename(folder / LOCK)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear(parent: Path, prefix: str, rescue: Callable[[Path], None] = lambda folder: None) -> list[str]:
    """Remove the folders that killed processes of this host left in ``parent``.

    Args:
        parent: a directory.
        prefix: as of `staging`.
        rescue: called with each folder before it goes.

    Returns:
        Their names.
    """
    if fcntl is None or not parent.is_dir():
        return []
    gone = []
    for folder in sorted(parent.glob(f"{prefix}-{_host()}-*")):
        try:
            with (folder / LOCK).open("r+") as file:
                if not _locked(file.fileno()):
                    continue
                rescue(folder)
                shutil.rmtree(folder)
        except OSError:  # without a lock, somebody else's, or gone meanwhile
            continue
        gone.append(folder.name)
    return gone


def _host() -> str:
    return re.sub(r"[^\w.]+", "_", socket.gethostname()) or "localhost"


def _locked(handle: int) -> bool:
    """Take the lock of an open file, if it is free."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another process, or a file system without locks
        return False
    return True
