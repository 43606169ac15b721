"""What if the log lacks something that moved both the actions and what followed? Hidden confounders in evaluation.

Estimates from *fitted* behavior probabilities, fitted values or models assume that the record holds everything that
actions and outcomes have in common. Where it does not, they can all be off by the same amount, agree, and have narrow
intervals: two worlds in which the policy's values differ can leave the same record, so no statistic of it tells. What
can be done instead:

**Look at the weights.** A hidden cause that lasts makes the past tell of the next action, so that with probabilities
fitted to single steps the mean weight of an episode is not one. `eligibility` tests that, and cannot tell it from a
poor fit. A cause that is drawn anew at every step leaves no such trace.

**Look at the log's own probabilities**, if it has them: `unrecorded_cause`. Where one record and action carry two
probabilities, whoever acted knew more than the record says. Weights that divide by these probabilities remain right.

**Ask how strong a hidden cause would have to be**: `sensitivity`. The marginal sensitivity model (Tan, 2006; for
policies Kallus and Zhou, 2018, https://arxiv.org/abs/1805.08593) lets the true probability p of a logged action, given
all that was seen at the bedside, differ from the fitted b by an odds ratio of at most Gamma:

    1 / Gamma <= p / (1 - p) : b / (1 - b) <= Gamma    so that    b / p lies in [b + (1 - b) / Gamma, b + (1 - b) Gamma]

An episode's weight is multiplied by one such factor per confounded decision. The bounds are the smallest and largest
self-normalized estimate (wis) with weights in these intervals: sorted by return, the optimum gives low returns one end
and high returns the other (Zhao, Small and Bhattacharya, 2019, https://arxiv.org/abs/1711.11286, whose bootstrap of
the two bounds gives the interval). Over many decisions the factors multiply and the bounds soon say nothing; with
``decisions`` only so many per episode, whichever they are, are confounded (after Namkoong et al., 2020,
https://arxiv.org/abs/2003.05623, who let one time step be). Gamma cannot be estimated from the log; it is an argument
about who saw what. The bounds are not the narrowest possible: that the true weights average to one in every state is
not used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_offrl.data.episodes import Episodes, leaves
from lightning_offrl.errors import InputError
from lightning_offrl.ope.weighting.intervals import Interval, Resamples, resamples_for
from lightning_offrl.ope.weighting.trajectories import Trajectories

_MOST_NUMBERS = 5_000_000  # of observations that are compared with each other
_MOST_GAMMA = 1e4
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Sensitivity:
    """Where wis could lie if hidden causes were as strong as said.

    Attributes:
        gamma: largest odds ratio between true and assumed probabilities of a logged action.
        low: smallest estimate with such weights.
        high: largest.
        interval: of both together, the sampling of episodes included.
        decisions: how many per episode are confounded; None: all.
    """

    gamma: float
    low: float
    high: float
    interval: Interval
    decisions: int | None


def sensitivity(
    data: Trajectories,
    gamma: float,
    *,
    decisions: int | None = None,
    level: float = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> Sensitivity:
    """Bounds of wis under the marginal sensitivity model.

    Args:
        data: with weights, and the behavior probabilities that they divide by; its clusters are resampled.
        gamma: odds ratio, at least 1; 1: nothing hidden, both bounds are wis.
        decisions: at most so many per episode are confounded; None: all.
        level: of the interval, which covers the value if ``gamma`` is large enough.
        n_boot: resamples of episodes.
        seed: of the resampling.

    Raises:
        InputError: a gamma below 1, no weights, or no decisions.
    """
    low, high = _log_weights(data, gamma, decisions)
    value = data.returns
    ends = _bounds(low, high, value, torch.ones(1, data.n, dtype=torch.float64))
    resamples = Resamples(data.n, resamples_for(level, n_boot), seed, data.together)
    step = max(1, _CHUNK // data.n)
    found = [_bounds(low, high, value, part) for counts in resamples.counts() for part in counts.split(step)]
    tail = (1.0 - level) / 2.0
    lowest = float(torch.cat([each for each, _ in found]).quantile(tail))
    highest = float(torch.cat([each for _, each in found]).quantile(1.0 - tail))
    if resamples.too_few_clusters:
        lowest, highest = -math.inf, math.inf
    interval = Interval(lowest, highest, level, "sensitivity")
    return Sensitivity(gamma, float(ends[0]), float(ends[1]), interval, decisions)


def tipping_point(data: Trajectories, threshold: float, *, decisions: int | None = None) -> float:
    """The smallest gamma at which the bounds of wis no longer exclude a value; inf if none up to 10,000 is.

    Args:
        data: as for `sensitivity`.
        threshold: such as the value of the log's own behavior.
        decisions: likewise.

    Returns:
        To a relative precision of 0.1 %; 1 where wis is the threshold itself.
    """
    once = torch.ones(1, data.n, dtype=torch.float64)

    def holds(gamma: float) -> bool:
        ends = _bounds(*_log_weights(data, gamma, decisions), data.returns, once)
        return float(ends[0]) <= threshold <= float(ends[1])

    low, high = 1.0, _MOST_GAMMA
    if holds(low):
        return low
    if not holds(high):
        return math.inf
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _log_weights(data: Trajectories, gamma: float, decisions: int | None) -> tuple[Tensor, Tensor]:
    """Smallest and largest log weight of each episode, ``[E]`` each."""
    if not 1.0 <= gamma < math.inf:
        raise InputError(f"gamma is an odds ratio of at least 1, got {gamma}")
    if decisions is not None and decisions < 1:
        raise InputError(f"decisions counts those that are confounded, at least 1 per episode, got {decisions}")
    weight = data.log_weights[:, -1]
    if data.behavior_log_prob is None:
        raise InputError("sensitivity needs the behavior's probabilities themselves, not ratios alone")
    b = data.behavior_log_prob.clamp(max=0.0).exp()
    ends = []
    for factor in (1.0 / gamma, gamma):
        logs = torch.where(data.mask, (b + (1.0 - b) * factor).log(), 0.0)
        if decisions is not None and decisions < data.horizon:
            logs = logs.topk(decisions, largest=bool(factor > 1.0)).values
        ends.append(weight + logs.sum(-1))
    return ends[0], ends[1]


def _bounds(low: Tensor, high: Tensor, value: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest weighted mean of ``value`` with log weights between ``low`` and ``high``, ``[R]`` each.

    Args:
        low: ``[E]``.
        high: ``[E]``.
        value: ``[E]``.
        counts: ``[R, E]``, how often each episode counts.
    """
    order = value.argsort()
    top = high.amax()
    if not bool(top.isfinite()):
        raise InputError("every weight is 0: the policy never takes the logged actions")
    small, large = (counts[:, order] * torch.exp(w[order] - top) for w in (low, high))
    value = value[order]

    def split(first: Tensor, second: Tensor) -> Tensor:
        """Weighted means that give the k lowest values the one end and the rest the other, ``[R, E + 1]``."""
        sums = []
        for factor in (value, torch.ones_like(value)):
            ahead = pad((first * factor).cumsum(-1), (1, 0))
            behind = pad((second * factor).flip(-1).cumsum(-1).flip(-1), (0, 1))  # no difference of large sums
            sums.append(ahead + behind)
        return torch.where(sums[1] > 0.0, sums[0] / sums[1], torch.nan)

    lowest = split(large, small).nan_to_num(nan=torch.inf).amin(-1)
    highest = split(small, large).nan_to_num(nan=-torch.inf).amax(-1)
    return lowest, highest


@dataclass(frozen=True)
class UnrecordedCause:
    """The same record and action, with different logged probabilities.

    Attributes:
        share: of the steps compared, those in such a group.
        steps: that were compared: the same observation and action occur more than once.
        factor: root mean square ratio of the probability to its group's (geometric) mean, 1 where nothing is hidden.
    """

    share: float
    steps: int
    factor: float

    def __str__(self) -> str:
        return (
            f"at {self.share:.0%} of {self.steps:,} steps the same observation and action carry different logged "
            f"probabilities (by a factor of {self.factor:.2g}), so whoever acted knew more than the record says"
        )


def unrecorded_cause(episodes: Episodes, *, tolerance: float = 0.01) -> UnrecordedCause | None:
    """Whether logged probabilities depend on something that the observation lacks.

    None is no proof that nothing is hidden: a log without probabilities cannot be asked, nor one in which no
    observation comes twice, and probabilities that somebody *fitted* to the record are functions of it by making.
    What is found may also be memory: a behavior that looks at earlier steps, which harms only estimates that divide
    by probabilities given the last one.

    Args:
        episodes: the log.
        tolerance: differences of log-probabilities up to this are rounding.

    Returns:
        None where the log has no probabilities, or where none differ.
    """
    if "behavior_log_prob" not in episodes.data.keys():
        return None
    names = [name for name in ("observation", "action", "action_mask") if name in episodes.data.keys()]
    width = sum(leaf.numel() for _, leaf in leaves(episodes.data.select(*names)[:1]))
    table = episodes.data.select(*names, "behavior_log_prob")[: max(1, _MOST_NUMBERS // max(width, 1))]
    columns = [leaf.reshape(len(table), -1).double() for _, leaf in leaves(table.select(*names))]
    group = torch.unique(torch.cat(columns, -1), dim=0, return_inverse=True)[1]
    size = torch.bincount(group).double()
    log_prob = table["behavior_log_prob"].double()
    mean = torch.zeros_like(size).index_add_(0, group, log_prob) / size
    off = log_prob - mean[group]
    furthest = torch.zeros_like(size).scatter_reduce_(0, group, off.abs(), "amax")
    compared = size[group] > 1
    steps = int(compared.sum())
    differ = compared & (furthest[group] > tolerance)
    if not bool(differ.any()):
        return None
    spread = math.exp(math.sqrt(float(off[differ].square().mean())))
    return UnrecordedCause(float(differ.sum()) / steps, steps, spread)
