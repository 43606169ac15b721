"""How a policy's returns are distributed, from weighted episodes: quantiles and the mean of the worst, not the mean.

Chandak, Niekum, da Silva, Learned-Miller, Brunskill and Thomas, 2021, https://arxiv.org/abs/2104.12820. With G the
discounted return of an episode and w its weight:

    is    F(x) = mean w 1{G <= x}
    wis   F(x) = sum w 1{G <= x} / sum w

The masses of ``is`` need not add up to one. The mean is that of the masses as they are, and so equals the estimate of
the same name; quantiles and tails are of the distribution function made one: never falling, between 0 and 1, and 1 at
the largest return.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_offrl.errors import InputError
from lightning_offrl.ope.weighting.trajectories import Trajectories


@dataclass(frozen=True)
class ReturnDistribution:
    """Masses on returns.

    Attributes:
        value: ``[K]`` float64, ascending.
        mass: ``[..., K]``, of one estimate or of many on the same returns.
    """

    value: Tensor
    mass: Tensor

    @property
    def mean(self) -> Tensor:
        """``[...]``."""
        return (self.mass * self.value).sum(-1)

    @property
    def cumulative(self) -> Tensor:
        """``[..., K]``: the distribution function at ``value``, made one (see the module)."""
        raw = self.mass.cumsum(-1).clamp(0.0, 1.0).cummax(-1).values
        return torch.cat([raw[..., :-1], torch.ones_like(raw[..., :1])], -1)

    def at(self, x: float) -> Tensor:
        """``Pr(G <= x)``, ``[...]``."""
        place = int(torch.searchsorted(self.value, torch.tensor(x, dtype=torch.float64), right=True))
        return self.cumulative[..., place - 1] if place else torch.zeros_like(self.mass[..., 0])

    def quantile(self, level: float) -> Tensor:
        """The smallest return x with ``F(x) >= level``, ``[...]``.

        Raises:
            InputError: a level outside (0, 1].
        """
        check_share(level)
        # sums of weights reach 0.1 only to rounding
        short = (self.cumulative < level - 1e-12).sum(-1)
        return self.value[short.clamp(max=len(self.value) - 1)]

    def cvar(self, share: float) -> Tensor:
        """Mean return of the worst ``share`` of episodes, an episode across its border in part, ``[...]``.

        ``1 / share`` times the integral of the quantile function from 0 to ``share``; at share 1 the mean.

        Raises:
            InputError: a share outside (0, 1].
        """
        check_share(share)
        upto = self.cumulative.clamp(max=share)
        within = torch.diff(upto, dim=-1, prepend=torch.zeros_like(upto[..., :1]))
        return (within * self.value).sum(-1) / share


def weighted_returns(
    data: Trajectories, *, normalized: bool = True, counts: Tensor | None = None
) -> ReturnDistribution:
    """``wis``, or ``is`` if not normalized.

    Args:
        data: with weights.
        normalized: divide by the mean weight.
        counts: ``[R, E]``, how often each episode counts in each of R resamples; None: once.

    Raises:
        InputError: there are no weights.
    """
    return _masses(data.returns, data.log_weights[:, -1], normalized, counts)


def logged_returns(data: Trajectories, *, counts: Tensor | None = None) -> ReturnDistribution:
    """The returns of the log itself; arguments as of `weighted_returns`."""
    return _masses(data.returns, torch.zeros(data.n, dtype=torch.float64), True, counts)


def _masses(returns: Tensor, log_weight: Tensor, normalized: bool, counts: Tensor | None) -> ReturnDistribution:
    order = returns.argsort()
    log_weight = log_weight[order]
    times = torch.ones(1, len(order), dtype=torch.float64) if counts is None else counts[:, order].double()
    shift = log_weight.amax() if normalized and bool(log_weight.amax().isfinite()) else torch.tensor(0.0)
    weight = times * torch.exp(log_weight - shift)
    mass = weight / (weight if normalized else times).sum(-1, keepdim=True)
    return ReturnDistribution(returns[order], mass.squeeze(0) if counts is None else mass)


def check_share(share: float) -> None:
    """Raise an InputError for a share of the episodes that is not above 0 and at most 1."""
    if not 0.0 < share <= 1.0:
        raise InputError(f"a share of the episodes must be above 0 and at most 1, such as 0.1, got {share}")
