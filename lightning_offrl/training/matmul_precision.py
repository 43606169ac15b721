"""How float32 matrices are multiplied on a CPU, and when another way is as exact and faster."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

MatmulPrecision = Literal["auto", "highest", "high", "medium"]
WORTH_IT = 2**21
"""Multiplications in one product from which oneDNN's fixed cost of some 15 us is won back."""


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


def choose(asked: MatmulPrecision, parameters: Iterable[Tensor], batch_size: int) -> str | None:
    """The precision to set while training; None leaves what is set.

    Args:
        asked: as the user set it.
        parameters: of all networks.
        batch_size: rows of a product.
    """
    if asked != "auto":
        return asked
    single = (p for p in parameters if p.dtype == torch.float32)
    if torch.get_float32_matmul_precision() != "highest" or largest(single, batch_size) < WORTH_IT:
        return None
    return "medium" if medium_is_exact_and_faster() else None


def largest(parameters: Iterable[Tensor], batch_size: int) -> int:
    """Multiplications in the largest product of these networks with a batch."""
    return max((p.shape[-2] * p.shape[-1] * batch_size for p in parameters if p.ndim >= 2), default=0)


def _vendor() -> str:
    """The CPU's maker as Linux gives it; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
