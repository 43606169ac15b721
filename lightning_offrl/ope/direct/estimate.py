"""The result of a direct method, and what direct methods share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lightning_offrl.data.bootstrap import times_drawn
from lightning_offrl.data.clusters import Clusters
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.returns import monte_carlo_return
from lightning_offrl.errors import InputError
from lightning_offrl.ope.policies.masked import legal_actions

if TYPE_CHECKING:
    from lightning_offrl.ope.policies.target import TargetPolicy


@dataclass
class DirectEstimate:
    """The estimate of a direct method. All values are discounted returns in the data's raw rewards.

    Attributes:
        method: The name of the method.
        value: The estimate of V, the mean of ``per_initial_state``.
        per_initial_state: ``[E]`` float64, V at the first state of each of ``episodes``. Its spread is that of first
            states, *not* the uncertainty of the value.
        q: A function from episodes to Q^pi of every logged pair, ``[T]`` float64.
        v: A function from raw observations ``[B, ...]``, and legal actions ``[B, n]`` where the log has masks, to
            V^pi, ``[B]`` float64.
        replicates: ``[R]`` float64, the value of R refits to bootstrap resamples of the episodes, or None.
        counts: ``[R, E]`` float64, how often each episode is in these resamples, or None.
        per_seed: ``[seeds]`` float64, the estimates of the fits to the data itself whose mean is ``value``, or None.
        diagnostics: Numbers by name.
        flags: Sentences that say why the estimate is not to be relied on; none where nothing was found.
        return_quantiles: ``[m]`` float64, quantiles ``(i + 1/2) / m`` of the discounted return, where the method has a
            distribution of it, or None.
        episodes: ``[E]`` int64, the episodes that ``per_initial_state`` belongs to; None: all, in order.
        horizon: The number of steps that count; None: whole episodes.
        clusters: ``[E]`` int64, the clusters that were resampled whole; None: refits are to resamples of episodes.
    """

    has_values: ClassVar[bool] = True
    """Whether ``q`` and ``v`` give values."""
    method: str
    value: float
    per_initial_state: Tensor
    q: Callable[[Episodes], Tensor]
    v: Callable[..., Tensor]
    replicates: Tensor | None = None
    counts: Tensor | None = None
    per_seed: Tensor | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    return_quantiles: Tensor | None = None
    episodes: Tensor | None = None
    horizon: int | None = None
    clusters: Tensor | None = None

    def standard_error(self) -> float | None:
        """Standard deviation of the refits; None with fewer than two."""
        if self.replicates is None or len(self.replicates) < 2:
            return None
        return float(self.replicates.std())


def first_observations(episodes: Episodes, index: Tensor | None = None) -> Any:
    """Raw first observations of the episodes (of those in ``index``), ``[E, ...]``."""
    rows = episodes.start if index is None else episodes.start[index]
    return episodes.data["observation"][rows]


def first_masks(episodes: Episodes) -> Tensor | None:
    """Legal actions at the first observations ``[E, n]``, or None."""
    return legal_actions(episodes, episodes.start)


def multiplicities(n_episodes: int, replicates: int, seed: int, clusters: Clusters | None = None) -> Tensor:
    """How often each episode counts: once in the data itself (row 0), then in ``replicates`` bootstrap resamples.

    These are the first resamples of estimates from weights with the same seed (`ope.weighting.intervals.Resamples`).

    Returns:
        ``[1 + replicates, E]`` float64; every row adds up to E, unless ``clusters`` are drawn, whole, of several sizes.
    """
    units = n_episodes if clusters is None else clusters.n
    drawn = times_drawn(units, replicates, torch.Generator().manual_seed(seed))
    once = torch.ones(1, n_episodes, dtype=torch.float64)
    return torch.cat([once, drawn if clusters is None else clusters.spread(drawn)])


def largest_return(episodes: Episodes, discount: float) -> tuple[Tensor, float]:
    """Discounted returns ``[E]`` float64, and the largest, with all that a cut episode might still have earned."""
    reward = episodes.data["next", "reward"].double()
    returns = monte_carlo_return(reward, episodes.start, episodes.length, discount)[episodes.start].double()
    cut = ~episodes.data["next", "terminated"][episodes.start + episodes.length - 1]
    top = max(float(reward.max()), 0.0) / (1.0 - discount) if discount < 1.0 else 0.0
    return returns, float((returns + cut * discount ** episodes.length.double() * top).max())


def check_estimand(policy: TargetPolicy, episodes: Episodes, discount: float) -> None:
    """Refuse a discount out of range and a policy over the other kind of actions."""
    if not 0.0 <= discount <= 1.0:
        raise InputError(f"the discount must be in [0, 1], got {discount}")
    kind = episodes.spec["action_kind"]
    if policy.discrete != (kind == "discrete"):
        name = "discrete" if policy.discrete else "continuous"
        raise InputError(f"the policy has {name} actions, but those of {episodes.name} are {kind}; check the policy")


def chunks(rows: int, each: int, size: int = 32_768) -> Iterator[slice]:
    """Slices of at most ``size / each`` rows."""
    step = max(1, size // each)
    for begin in range(0, rows, step):
        yield slice(begin, min(begin + step, rows))
