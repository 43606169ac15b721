"""How a policy's returns are distributed, from weighted episodes: quantiles and the mean of the worst, not the mean.

Chandak, Niekum, da Silva, Learned-Miller, Brunskill and Thomas, 2021, https://arxiv.org/abs/2104.12820 (is, wis);
Huang, Leqi, Lipton and Azizzadenesheli, 2022, https://arxiv.org/abs/2209.10444 (dr). With G the discounted return of
an episode and w_t its weight up to step t, w_{-1} = 1:

    is    F(x) = mean w 1{G <= x}
    wis   F(x) = sum w 1{G <= x} / sum w
    dr    F(x) = mean w 1{G <= x} + mean sum_t [ w_{t-1} E_{a ~ pi} F_t(x | h_t, a) - w_t F_t(x | h_t, a_t) ],
          F_t(x | h, a) = Pr(rewards before t + gamma^t Z(s, a) <= x), Z the return from there on, from a model
    wdr   the same, w_t and w_{t-1} each divided by its mean

The masses of ``is`` and ``dr`` need not add up to one, and those of ``dr`` may be negative. The mean is that of the
masses as they are, and so equals the estimate of the same name; quantiles and tails are of the distribution function
made one: never falling, between 0 and 1, and 1 at the largest return.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_offrl.errors import InputError
from lightning_offrl.ope.weighting.importance import PerEpisodeTerms, weighted
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


def corrected_returns(
    data: Trajectories, grid: Tensor, after: Tensor, before: Tensor, *, normalized: bool = True
) -> ReturnDistribution:
    """``wdr``, or ``dr`` if not normalized, on a grid of returns.

    Args:
        data: with weights.
        grid: ``[K]`` ascending; what lies above its last number is counted there.
        after: ``[E, H, K]``, ``F_t(x | h_t, a_t)`` at the logged actions, see `particle_function`; after the end it is
            not used, nor is ``before``.
        before: ``[E, H, K]``, its mean over the policy's actions at the logged states.
        normalized: divide the weights of each step by their mean.

    Raises:
        InputError: there are no weights, or shapes that differ.
    """
    found = corrected_terms(data, grid, after, before, normalized=normalized)
    total = torch.tensor([at.value for at in found], dtype=torch.float64)
    return ReturnDistribution(grid.double(), torch.diff(total, prepend=torch.zeros(1, dtype=torch.float64)))


def corrected_terms(
    data: Trajectories, grid: Tensor, after: Tensor, before: Tensor, *, normalized: bool = True
) -> list[PerEpisodeTerms]:
    """The estimates of ``F(x)`` behind `corrected_returns`, one for each x of the grid; arguments as there."""
    shape = (*data.mask.shape, len(grid))
    if after.shape != shape or before.shape != shape:
        raise InputError(f"the model's functions must be {list(shape)}, got {list(after.shape)}, {list(before.shape)}")
    log_w = data.log_weights
    log_before = torch.cat([torch.zeros_like(log_w[:, :1]), log_w[:, :-1]], -1)
    out = []
    for k, x in enumerate(grid.double()):
        reached = (data.returns.unsqueeze(-1) <= x).double()
        # after the end nothing is left to model: what was returned is known
        taken, drawn = (torch.where(data.mask, f[..., k].double(), reached) for f in (after, before))
        terms = weighted(log_w[:, -1:], reached, normalized)
        terms = terms.combined(weighted(log_before, drawn, normalized))
        out.append(terms.combined(weighted(log_w, taken, normalized).scaled(-1.0)))
    return out


def particle_function(data: Trajectories, grid: Tensor, particles: Tensor, weight: Tensor) -> Tensor:
    """``F_t(x | h_t, .)`` of a model whose return from each step on is a set of weighted numbers.

    Args:
        data: of the logged episodes, for the rewards before each step.
        grid: ``[K]``.
        particles: ``[E, H, P]``, returns from step t on, discounted from there; the quantiles of a fitted
            distributional Q, say.
        weight: ``[E, H, P]``, adds up to one over P.

    Returns:
        ``[E, H, K]`` float64.
    """
    earned = (data.factors * data.reward).cumsum(-1) - data.factors * data.reward
    whole = earned.unsqueeze(-1) + data.factors.unsqueeze(-1) * particles.double()
    return torch.stack([(weight.double() * (whole <= x)).sum(-1) for x in grid.double()], -1)


def check_share(share: float) -> None:
    """Raise an InputError for a share of the episodes that is not above 0 and at most 1."""
    if not 0.0 < share <= 1.0:
        raise InputError(f"a share of the episodes must be above 0 and at most 1, such as 0.1, got {share}")
