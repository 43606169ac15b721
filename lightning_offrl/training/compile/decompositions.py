"""Matrix products as a CPU's graph should hold them: biases apart, and no library call for thin ones.

A library adds a bias in a pass of its own before it multiplies, and a call costs some 20 us whatever the size. In a
graph the bias joins the activation's loop, and a product of width one (the head of a value network, and both of its
gradients) is a loop or a sum that joins its neighbors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten


def decompositions(device: torch.device) -> dict[Any, Callable[..., Tensor]]:
    """What `make_fx` replaces while an update is traced for that device; nothing but on a CPU."""
    if device.type != "cpu":  # there libraries fuse the bias, and launching one kernel costs as much as another
        return {}
    return {
        _aten.mm.default: product,
        _aten.bmm.default: product,
        _aten.addmm.default: biased_product,
        _aten.baddbmm.default: biased_product,
    }


def product(one: Tensor, other: Tensor) -> Tensor:
    """``one @ other`` of two or three dimensions; a loop or a sum where a side is 1, accumulated in float32 or wider.

    >>> a, b = torch.arange(6.0).view(3, 2), torch.arange(2.0).view(2, 1)
    >>> torch.equal(product(a, b), a @ b), torch.equal(product(b, a[:1]), b @ a[:1])
    (True, True)
    """
    if other.shape[-2] == 1:  # an outer product
        result = _wide(one) * _wide(other)
    elif other.shape[-1] == 1:
        result = (_wide(one) * _wide(other.mT)).sum(-1, keepdim=True)
    elif one.shape[-2] == 1:
        result = (_wide(one.mT) * _wide(other)).sum(-2, keepdim=True)
    else:
        return NotImplemented
    return result.to(one.dtype)


def biased_product(bias: Tensor, one: Tensor, other: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """``bias + one @ other``.

    >>> bias, a, b = torch.tensor([[0.5]]), torch.arange(6.0).view(3, 2), torch.arange(2.0).view(2, 1)
    >>> torch.equal(biased_product(bias, a, b), torch.addmm(bias, a, b))
    True
    """
    if alpha != 1 or beta != 1:
        return NotImplemented
    thin = product(one, other)
    if thin is NotImplemented:
        thin = torch.bmm(one, other) if one.ndim == 3 else torch.mm(one, other)
    # inductor would turn a sum back into addmm
    return (_wide(thin) - _wide(bias).neg()).to(one.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
