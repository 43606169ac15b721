"""Multi-layer perceptrons whose weights may carry leading dimensions: ensemble members N, before them seeds S."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_offrl.rng import RandomStreams


def full_precision(x: Tensor) -> Tensor:
    """At least float32: network heads leave autocast here, before any distribution or loss sees them."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class StackedLinear(nn.Module):
    """``y = x W + b``, once, or independently for every index of the leading dimensions.

    Initialized like ``torch.nn.Linear``: uniform in +-1/sqrt(inputs), independently for every member.

    Args:
        inputs: features in.
        outputs: features out.
        lead: leading dimensions of the weights, ``()`` or ``(N,)``. Stacking seeds puts S before them.

    Shapes:
        weight ``[*lead, inputs, outputs]``, x ``[*lead, B, inputs]`` (broadcast to lead), y ``[*lead, B, outputs]``.
    """

    def __init__(self, inputs: int, outputs: int, lead: Sequence[int] = ()) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(*lead, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(*lead, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor, members: int | None = None) -> Tensor:
        """Apply the layer; ``members`` computes the first so many ensemble members only."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if weight.ndim == 2:
            return F.linear(x, weight.mT, bias)
        if members is not None:
            weight, bias = weight[..., :members, :, :], bias[..., :members, :]
        lead = weight.shape[:-2]
        if len(lead) == 1:
            return torch.baddbmm(bias.unsqueeze(-2), x.expand(*lead, *x.shape[-2:]), weight)
        rows = x.expand(*lead, *x.shape[-2:]).reshape(-1, *x.shape[-2:])
        out = torch.baddbmm(bias.reshape(-1, 1, bias.shape[-1]), rows, weight.reshape(-1, *weight.shape[-2:]))
        return out.view(*lead, *out.shape[-2:])


class StackedLayerNorm(nn.Module):
    """Layer normalization over features with one gain and bias per ensemble member and seed.

    Shapes:
        gain, bias ``[*lead, F]``; x and result ``[*lead, B, F]``.
    """

    def __init__(self, features: int, lead: Sequence[int] = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*lead, features))
        self.bias = nn.Parameter(torch.zeros(*lead, features))

    def forward(self, x: Tensor, members: int | None = None) -> Tensor:
        """Normalize each row, then apply gain and bias."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if members is not None and weight.ndim > 1:
            weight, bias = weight[..., :members, :], bias[..., :members, :]
        return F.layer_norm(x, x.shape[-1:]) * weight.unsqueeze(-2) + bias.unsqueeze(-2)


class Dropout(nn.Module):
    """Dropout whose masks come from `RandomStreams`, so that resuming and stacked seeds stay exact."""

    def __init__(self, rate: float, draws: RandomStreams) -> None:
        super().__init__()
        self.rate, self.draws = rate, draws

    def forward(self, x: Tensor) -> Tensor:
        """Zero each entry with probability ``rate`` and rescale the rest, in training mode only."""
        if not self.training or self.rate == 0.0:
            return x
        keep = self.draws.uniform(x.shape, x) >= self.rate
        return x * keep.to(x.dtype) / (1.0 - self.rate)


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        inputs: features in.
        hidden: widths of the hidden layers.
        outputs: features out.
        lead: ``()``, or ``(N,)`` for N independent members.
        layer_norm: normalize after each hidden linear layer, before its ReLU.
        dropout: rate after each hidden ReLU; needs ``draws``.
        draws: The random stream of the dropout masks.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        lead: Sequence[int] = (),
        layer_norm: bool = False,
        dropout: float = 0.0,
        draws: RandomStreams | None = None,
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden, outputs]
        self.linear = nn.ModuleList(StackedLinear(i, o, lead) for i, o in zip(widths, widths[1:], strict=False))
        self.norm = nn.ModuleList(StackedLayerNorm(h, lead) for h in hidden) if layer_norm else None
        self.dropout = Dropout(dropout, draws) if dropout and draws is not None else None

    def forward(self, x: Tensor, members: int | None = None) -> Tensor:
        """``[*lead, B, inputs]`` to ``[*lead, B, outputs]``, in full precision at the head."""
        last = len(self.linear) - 1
        for i, linear in enumerate(self.linear):
            x = linear(x, members)
            if i == last:
                break
            if self.norm is not None:
                x = self.norm[i](x, members)
            x = F.relu(x)
            if self.dropout is not None:
                x = self.dropout(x)
        return full_precision(x)


def stack_parameters(modules: Sequence[nn.Module]) -> nn.Module:
    """The first of several equally built modules, with all their parameters stacked in front: ``[S, ...]`` each."""
    module, singles = modules[0], [dict(one.named_parameters()) for one in modules]
    for key in singles[0]:
        owner, _, leaf = key.rpartition(".")
        stacked = torch.stack([single[key].detach() for single in singles])
        setattr(module.get_submodule(owner), leaf, nn.Parameter(stacked))
    return module
