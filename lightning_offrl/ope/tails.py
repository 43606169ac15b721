"""The worst episodes of a policy: their mean return and the return at their border, with intervals and checks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_offrl.errors import InputError
from lightning_offrl.ope.checks.weight_diagnostics import Limits, check_weights, effective_sample_size
from lightning_offrl.ope.weighting.intervals import Interval, Resamples, percentile
from lightning_offrl.ope.weighting.return_distribution import (
    ReturnDistribution,
    check_share,
    logged_returns,
    weighted_returns,
)
from lightning_offrl.ope.weighting.trajectories import Trajectories


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
    check_share(share)
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
