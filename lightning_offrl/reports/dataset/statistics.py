"""Plain facts of a dataset: returns and lengths, endings, rewards, actions, imbalance, drift.

Each function takes `Episodes` and returns a frozen dataclass of numbers; nothing is judged here (see `advice`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.reports.dataset.states import Scale

SATURATED = 0.99
"""Share of half the action's range beyond which an action counts as saturated."""


@dataclass(frozen=True)
class Summary:
    """Of numbers ``[n]``; ``error`` is the standard error of the mean, nan for fewer than two."""

    count: int
    mean: float
    error: float
    deviation: float
    smallest: float
    quarter: float
    median: float
    three_quarters: float
    largest: float


def summary(values: Tensor) -> Summary:
    """Summarize ``[n]`` numbers (n at least 1)."""
    array = values.double().numpy()
    quarters = np.quantile(array, [0.25, 0.5, 0.75])
    deviation = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    return Summary(
        count=len(array),
        mean=float(array.mean()),
        error=deviation / len(array) ** 0.5 if len(array) > 1 else float("nan"),
        deviation=deviation,
        smallest=float(array.min()),
        quarter=float(quarters[0]),
        median=float(quarters[1]),
        three_quarters=float(quarters[2]),
        largest=float(array.max()),
    )


@dataclass(frozen=True)
class Endings:
    """How episodes end.

    Attributes:
        terminal: episodes that ended in a terminal state.
        cut: episodes that were truncated.
        longest: steps of the longest episode.
        cut_at_longest: cut episodes that have exactly that length.
        terminal_at_longest: terminal episodes that have exactly that length.
        one_length: all episodes have the same length.
        into_start: terminal episodes whose last next observation is exactly the first observation of the next episode.
        continued: cut episodes whose last next observation is exactly the first observation of the next episode.
        one_start: all episodes begin in the same observation.
    """

    terminal: int
    cut: int
    longest: int
    cut_at_longest: int
    terminal_at_longest: int
    one_length: bool
    into_start: int
    continued: int
    one_start: bool


def endings(episodes: Episodes, state: Tensor, next_state: Tensor) -> Endings:
    """Audit of the ends; ``state`` and ``next_state`` are `row_hashes` of the (next) observations ``[T]``."""
    last = episodes.start + episodes.length - 1
    terminal = episodes.data["next", "terminated"][last]
    longest = int(episodes.length.max())
    at_longest = episodes.length == longest
    first = state[episodes.start]
    follows = next_state[last][:-1] == first[1:]
    return Endings(
        terminal=int(terminal.sum()),
        cut=int((~terminal).sum()),
        longest=longest,
        cut_at_longest=int((at_longest & ~terminal).sum()),
        terminal_at_longest=int((at_longest & terminal).sum()),
        one_length=bool((episodes.length == longest).all()),
        into_start=int((follows & terminal[:-1]).sum()),
        continued=int((follows & ~terminal[:-1]).sum()),
        one_start=bool((first == first[0]).all()),
    )


@dataclass(frozen=True)
class Rewards:
    """Rewards per step.

    Attributes:
        steps: summary over all steps.
        zero: share of steps with reward 0.
        distinct: different values.
        at_end: share of the non-zero rewards that stand in the last step of an episode.
        size: mean absolute reward, times 1 / (1 - discount): the size of the values to be learned.
        length_explains: share of the variance of returns that the lengths explain (squared correlation), None where
            either does not vary.
        per_step: slope of that line: return gained per step of length.
    """

    steps: Summary
    zero: float
    distinct: int
    at_end: float
    size: float
    length_explains: float | None
    per_step: float | None


def rewards(episodes: Episodes, discount: float) -> Rewards:
    """Sparsity and scale of the rewards."""
    reward = episodes.data["next", "reward"].double()
    nonzero = reward != 0
    last = torch.zeros(len(reward), dtype=torch.bool)
    last[episodes.start + episodes.length - 1] = True
    returns, length = episodes.returns(), episodes.length.double()
    explains = slope = None
    if episodes.n_episodes > 2 and float(length.std()) > 0 and float(returns.std()) > 0:
        both = torch.stack([length, returns])
        explains = float(torch.corrcoef(both)[0, 1]) ** 2
        slope = float(torch.cov(both)[0, 1] / length.var())
    return Rewards(
        steps=summary(reward),
        zero=float((~nonzero).double().mean()),
        distinct=len(torch.unique(reward)),
        at_end=float((nonzero & last).sum() / nonzero.sum().clamp(min=1)),
        size=float(reward.abs().mean()) / (1.0 - discount),
        length_explains=explains,
        per_step=slope,
    )


@dataclass(frozen=True)
class Actions:
    """Use of the action space.

    Attributes:
        saturated: continuous: share of steps beyond 99 % of the range, per dimension; else None.
        any_saturated: continuous: share of steps with at least one such dimension; discrete: 0.
        constant: continuous: dimensions that never change; discrete: 1 if only one action was ever taken, else 0.
        reach: continuous: largest absolute action per dimension, in half ranges; else None.
        mean: continuous: mean per dimension, in half ranges; else None.
        share: discrete: share of each action; else None.
        never: discrete: actions never taken; continuous: 0.
    """

    saturated: tuple[float, ...] | None
    any_saturated: float
    constant: int
    reach: tuple[float, ...] | None
    mean: tuple[float, ...] | None
    share: tuple[float, ...] | None
    never: int


def actions(episodes: Episodes) -> Actions:
    """How the action space is used."""
    action = episodes.data["action"]
    if episodes.spec["action_kind"] == "discrete":
        count = torch.bincount(action, minlength=int(episodes.spec["action_size"]))
        share = (count.double() / len(action)).tolist()
        never = int((count == 0).sum())
        return Actions(None, 0.0, int(max(share) == 1.0), None, None, tuple(share), never)
    beyond = action.abs() > SATURATED
    return Actions(
        saturated=tuple(beyond.double().mean(0).tolist()),
        any_saturated=float(beyond.any(1).double().mean()),
        constant=int((action.amax(0) == action.amin(0)).sum()),
        reach=tuple(action.abs().amax(0).tolist()),
        mean=tuple(action.double().mean(0).tolist()),
        share=None,
        never=0,
    )


@dataclass(frozen=True)
class Imbalance:
    """How unequally the data is spread.

    Attributes:
        best_tenth: mean return of the tenth of the episodes with the highest returns (one at least).
        best_tenth_error: its standard error (nan for one episode).
        best_tenth_steps: share of all steps that these hold.
        upper_spread: square root of the mean of ``max(G - mean G, 0)^2``, as a share of the range of returns: the
            positive-sided deviation of Hong et al. 2023, https://arxiv.org/abs/2306.13085.
        longest_tenth_steps: share of all steps in the tenth of the episodes that are longest.
        effective_episodes: ``(sum l)^2 / sum l^2`` over the lengths l: as many equally long episodes hold the data.
    """

    best_tenth: float
    best_tenth_error: float
    best_tenth_steps: float
    upper_spread: float
    longest_tenth_steps: float
    effective_episodes: float


def imbalance(episodes: Episodes) -> Imbalance:
    """Over returns and lengths."""
    returns, length = episodes.returns(), episodes.length.double()
    tenth = max(1, round(episodes.n_episodes / 10))
    best = returns.argsort(descending=True)[:tenth]
    top = summary(returns[best])
    span = float(returns.max() - returns.min())
    above = float((returns - returns.mean()).clamp(min=0.0).square().mean().sqrt())
    return Imbalance(
        best_tenth=top.mean,
        best_tenth_error=top.error,
        best_tenth_steps=float(length[best].sum() / length.sum()),
        upper_spread=above / span if span > 0 else 0.0,
        longest_tenth_steps=float(length.sort(descending=True).values[:tenth].sum() / length.sum()),
        effective_episodes=float(length.sum() ** 2 / length.square().sum()),
    )


@dataclass(frozen=True)
class Change:
    """First against last third of the episodes in their stored order.

    Attributes:
        name: of what changed.
        first: mean over the first third.
        last: mean over the last third.
        error: standard error of the difference, over episodes.
        deviation: standard deviation over all episodes, to judge the size of the difference.
    """

    name: str
    first: float
    last: float
    error: float
    deviation: float

    @property
    def z(self) -> float:
        """The difference in standard errors; 0 where nothing varies, infinite where only the thirds differ."""
        apart = self.last - self.first
        if self.error > 0:
            return apart / self.error
        return math.copysign(math.inf, apart) if abs(apart) > 1e-6 * self.deviation else 0.0

    @property
    def size(self) -> float:
        """The difference in standard deviations over episodes."""
        return (self.last - self.first) / self.deviation if self.deviation > 0 else 0.0


def drift(episodes: Episodes, scale: Scale) -> list[Change]:
    """Changes of the return, the length, and the mean of every number of the observation and action, largest z first.

    An episode counts as one, whatever its length. Fewer than 6 episodes are not compared. Observations are in their
    standard deviations over steps.
    """
    count = episodes.n_episodes
    if count < 6:
        return []
    number, length = episodes.episode_index(), episodes.length[:, None]
    states = scale(episodes.data["observation"])
    means = torch.zeros(count, states.shape[1]).index_add_(0, number, states) / length
    rows: list[tuple[str, Tensor]] = [("return", episodes.returns()), ("length", episodes.length.double())]
    rows += [(f"observation {i}", means[:, i].double()) for i in range(states.shape[1])]
    action = episodes.data["action"]
    if action.ndim == 1:
        action = torch.nn.functional.one_hot(action, int(episodes.spec["action_size"]))
        label = "share of action"
    else:
        label = "action"
    means = torch.zeros(count, action.shape[1]).index_add_(0, number, action.float()) / length
    rows += [(f"{label} {i}", means[:, i].double()) for i in range(action.shape[1])]
    third = count // 3
    out = []
    for name, values in rows:
        first, last = values[:third], values[-third:]
        error = float((first.var() / third + last.var() / third).sqrt())
        out.append(Change(name, float(first.mean()), float(last.mean()), error, float(values.std())))
    return [out[0], *sorted(out[1:], key=lambda change: -abs(change.z))]
