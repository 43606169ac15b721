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
from lightning_offrl.ope.checks.weight_diagnostics import Limits, check_weights, effective_sample_size
from lightning_offrl.ope.weighting.importance import PerEpisodeTerms, weighted
from lightning_offrl.ope.weighting.intervals import Interval, Resamples, percentile
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
        _check_share(level)
        # sums of weights reach 0.1 only to rounding
        short = (self.cumulative < level - 1e-12).sum(-1)
        return self.value[short.clamp(max=len(self.value) - 1)]

    def cvar(self, share: float) -> Tensor:
        """Mean return of the worst ``share`` of episodes, an episode across its border in part, ``[...]``.

        ``1 / share`` times the integral of the quantile function from 0 to ``share``; at share 1 the mean.

        Raises:
            InputError: a share outside (0, 1].
        """
        _check_share(share)
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


@dataclass(frozen=True)
class Tail:
    """The worst episodes, as the weights or the log tell.

    Attributes:
        name: "naive" (the log itself), "wis" or "is".
        share: of the episodes.
        cvar: mean return of the worst ``share``.
        quantile: the return that a share of ``share`` stays at or below.
        cvar_interval: percentile bootstrap over episodes or clusters; None where it abstains.
        quantile_interval: the same.
        ess: effective number of the episodes at or below the quantile.
        reasons: why it abstains; empty if it does not.
    """

    name: str
    share: float
    cvar: float
    quantile: float
    cvar_interval: Interval | None
    quantile_interval: Interval | None
    ess: float
    reasons: tuple[str, ...] = ()

    @property
    def eligible(self) -> bool:
        """No reason to abstain."""
        return not self.reasons


def tail(
    data: Trajectories,
    share: float,
    *,
    name: str = "wis",
    level: float = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
    limits: Limits | None = None,
    reasons: tuple[str, ...] | None = None,
) -> Tail:
    """Quantile and mean of the worst episodes, with intervals.

    The weights must pass what `check_weights` asks, and the tail must rest on enough of them by itself: the effective
    sample size of the episodes in it is held to the same limit, and so is the effective number of their clusters.

    Args:
        data: with weights, unless ``name`` is "naive"; its clusters are resampled.
        share: of the episodes, in (0, 1].
        name: "wis", "is" or "naive".
        level: of the intervals.
        n_boot: resamples of episodes.
        seed: of the resampling.
        limits: when to abstain; None: the defaults.
        reasons: why nothing that rests on the weights may be shown; None: what `check_weights` says.

    Raises:
        InputError: there are no weights, or a share outside (0, 1].
    """
    _check_share(share)
    if name not in ("naive", "wis", "is"):
        raise InputError(f"the tail of {name!r} is not known; there are naive, wis and is")
    limits = limits or Limits()
    if name == "naive":
        reasons = ()
    elif reasons is None:
        reasons = check_weights(data, limits).reasons

    def distribution(counts: Tensor | None = None) -> ReturnDistribution:
        if name == "naive":
            return logged_returns(data, counts=counts)
        return weighted_returns(data, normalized=name == "wis", counts=counts)

    found = distribution()
    worst = data.returns <= found.quantile(share)
    log_weight = torch.zeros(data.n, dtype=torch.float64) if name == "naive" else data.log_weights[:, -1]
    ess = effective_sample_size(log_weight[worst])
    if ess < limits.ess and name != "naive":
        reasons += (f"effective sample size {ess:.1f} in the worst {share:.4g} (at least {limits.ess:g} are needed)",)
    if data.together is not None and name != "naive":
        holding = effective_sample_size(data.together.log_sums(torch.where(worst, log_weight, -torch.inf)))
        if holding < limits.clusters:
            reasons += (
                f"effective number of clusters {holding:.1f} in the worst {share:.4g} (at least {limits.clusters:g} "
                "are needed)",
            )
    both: tuple[Interval | None, Interval | None] = (None, None)
    resamples = Resamples(data.n, n_boot, seed, data.together)
    if not reasons and resamples.enough:
        drawn = [distribution(counts) for counts in resamples.counts()]
        both = (
            percentile(torch.cat([d.cvar(share) for d in drawn]), level),
            percentile(torch.cat([d.quantile(share) for d in drawn]), level),
        )
    return Tail(name, share, float(found.cvar(share)), float(found.quantile(share)), *both, ess, reasons)


def _check_share(share: float) -> None:
    if not 0.0 < share <= 1.0:
        raise InputError(f"a share of the episodes must be above 0 and at most 1, such as 0.1, got {share}")
