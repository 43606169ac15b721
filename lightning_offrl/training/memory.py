"""Freed memory stays with the process while it trains on a CPU."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # malloc.h
_OWN_SETTINGS = (
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TOP_PAD_",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
)
_LARGEST = 2**25
"""Bytes from which glibc maps a block by itself, once its own moving threshold is as high as it gets."""


def keep_freed_memory() -> bool:
    """Let glibc keep the memory of one update's activations for the next update; true if it does from now on.

    By default it returns large blocks to the system as soon as they are free, and the next update takes a page fault
    for every 4 KiB of them: a quarter of CQL's time and a seventh of SAC-N's at batch 256, half of CQL's at 1,024,
    whose blocks are mapped one by one however high the threshold. So nothing is mapped alone and nothing is given back
    until `give_back_memory`. What is kept is one update's peak. Nothing happens where there is no glibc, or where the
    environment sets its allocator.
    """
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(_MMAP_MAX, 0)) and bool(libc.mallopt(_TRIM_THRESHOLD, -1))


def give_back_memory() -> None:
    """End `keep_freed_memory`: free memory goes back to the system, now and later, as far as glibc does by default."""
    libc = _glibc()
    if libc is not None:
        for setting, value in ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, _LARGEST), (_TRIM_THRESHOLD, 2 * _LARGEST)):
            libc.mallopt(setting, value)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if its allocator is glibc's and the environment leaves it alone."""
    if any(name in os.environ for name in _OWN_SETTINGS):
        return None
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version, libc.mallopt, libc.malloc_trim  # noqa: B018 (other libraries' mallopt differs)
    except (AttributeError, OSError, TypeError):
        return None
    return libc
