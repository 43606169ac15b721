"""What training changes on a CPU: how float32 matrices are multiplied, and where freed memory goes.

Both hold for the whole process, so `tuned` sets them and puts them back.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

MatmulPrecision = Literal["auto", "highest", "high", "medium"]
WORTH_IT = 2**21
"""Multiplications in one product from which oneDNN's fixed cost of some 15 us is won back."""

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
_keeping = 0
"""How many runs keep freed memory: a fit inside a callback of another run must not end that run's."""


@contextmanager
def tuned(precision: str | None, keep_memory: bool) -> Iterator[None]:
    """Multiply and keep memory as training wants it, and afterwards as before, also after an exception.

    Args:
        precision: of float32 products, as in ``torch.set_float32_matmul_precision``; None leaves what is set.
        keep_memory: see `keep_freed_memory`.
    """
    global _keeping
    before = torch.get_float32_matmul_precision()
    kept = keep_memory and keep_freed_memory()
    _keeping += kept
    if precision is not None:
        torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        _keeping -= kept
        if kept and not _keeping:
            give_back_memory()
        if precision is not None:
            torch.set_float32_matmul_precision(before)


def memory_is_kept() -> bool:
    """Whether `tuned` keeps freed memory at this moment."""
    return _keeping > 0


@cache
def medium_is_exact_and_faster() -> bool:
    """Whether torch's "medium" is full float32 on this CPU, and by a faster library than "highest".

    "medium" lets oneDNN multiply in bfloat16, which it does only on CPUs with matrix units for it (Intel's AMX). On
    AMD's CPUs with AVX-512 it multiplies in float32, twice as fast as MKL, which does not use AVX-512 there. The answer
    depends on the CPU and on torch, not on a clock, so that a resumed run multiplies as before.
    """
    if _vendor() != "AuthenticAMD" or "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 256, 256, generator=generator).unbind(0)
    exact = one.double() @ other.double()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        error = float(((one @ other).double() - exact).abs().max() / exact.abs().max())
    finally:
        torch.set_float32_matmul_precision(before)
    return error < 1e-5  # bfloat16 products: 3e-3


def precision_to_set(asked: MatmulPrecision, parameters: Iterable[Tensor], batch_size: int) -> str | None:
    """The precision to set while training; None leaves what is set.

    Args:
        asked: as the user set it.
        parameters: of all networks.
        batch_size: rows of a product.
    """
    if asked != "auto":
        return asked
    single = (p for p in parameters if p.dtype == torch.float32)
    if torch.get_float32_matmul_precision() != "highest" or largest_product(single, batch_size) < WORTH_IT:
        return None
    return "medium" if medium_is_exact_and_faster() else None


def largest_product(parameters: Iterable[Tensor], batch_size: int) -> int:
    """Multiplications in the largest product of these networks with a batch."""
    return max((p.shape[-2] * p.shape[-1] * batch_size for p in parameters if p.ndim >= 2), default=0)


def _vendor() -> str:
    """The CPU's maker as Linux gives it; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


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
