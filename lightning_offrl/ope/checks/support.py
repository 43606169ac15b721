"""Does the log show what the policy does? Two detectors that ask the *policy's own* actions, not the logged ones.

Weights cannot tell alone: where the log lacks what the policy does, the weights of what it has are tame, the effective
sample size is large, and the estimate is wrong. (Their mean falls below 1, which `eligibility` tests; but a small
missing share hides in the spread of the weights.)

`unseen_share` needs the behavior's density. It draws the policy's actions at the logged states and multiplies their
ratios along each episode: an episode of the policy whose weight exceeds n is one that a log of n episodes holds less
than once on average, and importance sampling with n episodes misses just that part (Chatterjee and Diaconis, 2018,
theorem 1.1). Limits: states are those of the log, so it does not see where the policy would lead; a *fitted* density
says about actions far from the data what its family says.

`far_share` needs nothing but logs and policy: how many of the policy's actions lie farther from what was logged in the
most similar states than logged actions of other episodes do. Limits: similarity is Euclidean distance of standardized
observations, so it weakens with irrelevant numbers among them; by construction a hundredth of the log's own actions
count as far, so shares below about two hundredths cannot be told from none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_offrl.data.episodes import Episodes, leaves
from lightning_offrl.errors import InputError
from lightning_offrl.ope.checks.neighbors import nearest
from lightning_offrl.ope.policies import masked as legal
from lightning_offrl.ope.policies.target import TargetPolicy

FAR_QUANTILE = 0.99
"""Logged actions beyond this quantile of their own distances count as far: the base rate is 1 minus it."""


@dataclass(frozen=True)
class Support:
    """Share of what the policy does that the log does not show.

    Attributes:
        share: of the policy's episodes (`unseen_share`) or actions (`far_share`).
        error: its standard error.
        base: the share that would be there with full support.
        per_step: ``[H]``, the share of unseen actions at each step (`unseen_share`), else empty.
        what: words for the table.
    """

    share: float
    error: float
    base: float
    per_step: tuple[float, ...]
    what: str

    def reason(self, limit: float) -> str | None:
        """Why weighted estimates abstain, or None: the share exceeds the base by the limit, and by three errors."""
        excess = self.share - self.base
        if excess <= limit or excess <= 3.0 * self.error:
            return None
        return f"{self.share:.0%} of {self.what}"


def unseen_share(
    episodes: Episodes,
    policy: TargetPolicy,
    behavior: TargetPolicy,
    *,
    horizon: int | None = None,
    draws: int = 8,
    max_steps: int = 50_000,
    seed: int = 0,
) -> Support:
    """Share of the policy's episodes that have a weight above the number of logged episodes.

    Args:
        episodes: logged data.
        policy: A policy with a density.
        behavior: with a density: the true one, or a fit.
        horizon: steps that count; None: all.
        draws: artificial episodes per logged one: each keeps its states, with actions of the policy.
        max_steps: so many logged steps are used, of episodes drawn at random (of 30 episodes at least).
        seed: The seed of the draws.

    Raises:
        InputError: a policy without density.
    """
    generator = torch.Generator().manual_seed(seed)
    longest = int(episodes.length.max()) if horizon is None else min(horizon, int(episodes.length.max()))
    rows, mask, _ = _first_rows(episodes, horizon, max(30, max_steps // longest), generator)
    observation, allowed = episodes.data["observation"][rows[mask]], legal.legal_actions(episodes, rows[mask])
    total = torch.zeros(draws, *mask.shape, dtype=torch.float64)
    for k, action in enumerate(legal.sample(policy, observation, draws, generator, allowed)):
        top, bottom = (legal.log_prob(one, observation, action, allowed) for one in (policy, behavior))
        if top is None or bottom is None:
            raise InputError("the share of unseen episodes needs densities of both policies; use far_share instead")
        total[k][mask] = (top - bottom).double()
    limit = math.log(episodes.n_episodes)
    unseen = (total.sum(-1) > limit).double()  # [draws, E]
    per_step = ((total > limit) & mask).double().sum((0, 1)) / (draws * mask.sum(0)).clamp(min=1)
    by_episode = unseen.mean(0)
    error = float(by_episode.std() / math.sqrt(len(by_episode))) if len(by_episode) > 1 else math.inf
    return Support(
        float(unseen.mean()),
        error,
        0.0,
        tuple(per_step.tolist()),
        f"the policy's episodes would not be seen in a log of {episodes.n_episodes:,}",
    )


def far_share(
    episodes: Episodes,
    policy: TargetPolicy,
    *,
    horizon: int | None = None,
    neighbors: int = 50,
    queries: int = 1000,
    pool: int = 10_000,
    draws: int = 4,
    seed: int = 0,
) -> Support:
    """Share of the policy's actions that lie far from what was logged in similar states.

    For a logged state, take the nearest logged states of *other* episodes, and the smallest distance from an action to
    the actions taken there. Far is what exceeds the 99 % quantile of that distance for the logged actions themselves.
    Discrete actions have distance 0 or 1.

    Args:
        episodes: logged data, two episodes or more.
        policy: Any policy.
        horizon: only states of the first steps; None: all.
        neighbors: how many of the nearest states.
        queries: states asked about.
        pool: states searched for neighbors.
        draws: actions of the policy per state.
        seed: The seed of all draws.

    Raises:
        InputError: fewer than two episodes.
    """
    if episodes.n_episodes < 2:
        raise InputError("the distance to other episodes needs at least two episodes")
    generator = torch.Generator().manual_seed(seed)
    rows, mask, which = _first_rows(episodes, horizon, max(pool, queries), generator)
    flat, owner = rows[mask], which.unsqueeze(-1).expand_as(mask)[mask]
    asked = torch.randperm(len(flat), generator=generator)[:queries]
    searched = torch.randperm(len(flat), generator=generator)[:pool]
    features = _features(episodes, flat)
    apart = owner[asked], owner[searched]
    _, near = nearest(features[asked], features[searched], neighbors, apart=apart)
    taken = episodes.data["action"][flat[searched]][near]  # [Q, K, A] or [Q, K]
    usable = near >= 0
    own = _gap(episodes.data["action"][flat[asked]], taken, usable)
    limit = own.quantile(FAR_QUANTILE)
    allowed = legal.legal_actions(episodes, flat[asked])
    action = legal.sample(policy, episodes.data["observation"][flat[asked]], draws, generator, allowed)
    gaps = torch.stack([_gap(one, taken, usable) for one in action])
    far = (gaps > limit).double().mean(0)
    base = float((own > limit).double().mean())
    count = len(asked)
    # of the share, and of the quantile that it is compared with
    error = math.sqrt(float(far.var()) / count + (1.0 - FAR_QUANTILE) * FAR_QUANTILE / count)
    return Support(
        float(far.mean()),
        error,
        base,
        (),
        f"the policy's actions are farther from the log than {FAR_QUANTILE:.0%} of its own actions in similar states",
    )


def _first_rows(
    episodes: Episodes, horizon: int | None, max_episodes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ``[E', H]``, which of them are steps, and the numbers of the episodes ``[E']``."""
    which = torch.randperm(episodes.n_episodes, generator=generator)[:max_episodes].sort().values
    steps = int(episodes.length[which].max())
    column = torch.arange(steps if horizon is None else min(horizon, steps))
    mask = column < episodes.length[which].unsqueeze(-1)
    return torch.where(mask, episodes.start[which].unsqueeze(-1) + column, 0), mask, which


def _features(episodes: Episodes, rows: Tensor) -> Tensor:
    """Standardized numbers of the observations, ``[len(rows), D]`` float32; constant ones are left out."""
    table = episodes.data.select("observation")[rows]
    columns = torch.cat([leaf.reshape(len(rows), -1).float() for _, leaf in leaves(table)], -1)
    spread = columns.std(0)
    moving = spread > 1e-6 * columns.abs().amax(0).clamp(min=1e-12)
    return (columns[:, moving] - columns[:, moving].mean(0)) / spread[moving]


def _gap(action: Tensor, taken: Tensor, usable: Tensor) -> Tensor:
    """Smallest distance ``[Q]`` from ``[Q, A]`` (or ``[Q]``) to ``[Q, K, A]`` (``[Q, K]``) where usable."""
    if action.ndim == 1:
        gap = (action.unsqueeze(-1) != taken).double()
    else:
        gap = (action.double().unsqueeze(1) - taken.double()).norm(dim=-1)
    return torch.where(usable, gap, torch.inf).amin(-1)
