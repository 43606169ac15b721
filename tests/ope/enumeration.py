"""Every episode of a small process with its probability: expectations of estimators without sampling error."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from lightning_offrl.ope.weighting.importance import PerEpisodeTerms
from lightning_offrl.ope.weighting.trajectories import Trajectories


@dataclass
class Process:
    """Random process with S states, A actions; ``ends`` are states in which nothing happens any more."""

    start: Tensor  # [S]
    step: Tensor  # [S, A, S]
    reward: Tensor  # [S, A, S]
    behavior: Tensor  # [S, A]
    target: Tensor  # [S, A]
    horizon: int
    discount: float
    ends: tuple[int, ...] = ()

    def backup(self, policy: Tensor) -> tuple[Tensor, Tensor]:
        """Q ``[H, S, A]`` and V ``[H + 1, S]`` of the remaining steps, by dynamic programming."""
        live = torch.ones(len(self.start), dtype=torch.float64)
        live[list(self.ends)] = 0.0
        value = torch.zeros(self.horizon + 1, len(self.start), dtype=torch.float64)
        q = torch.zeros(self.horizon, *policy.shape, dtype=torch.float64)
        for t in reversed(range(self.horizon)):
            q[t] = (self.step * (self.reward + self.discount * value[t + 1])).sum(-1) * live[:, None]
            value[t] = (policy * q[t]).sum(-1)
        return q, value

    def value(self, policy: Tensor) -> float:
        return float(self.start @ self.backup(policy)[1][0])


def random_process(seed: int = 0, ends: tuple[int, ...] = (), horizon: int = 3, discount: float = 0.9) -> Process:
    generator = torch.Generator().manual_seed(seed)

    def simplex(*shape: int) -> Tensor:
        x = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.05
        return x / x.sum(-1, keepdim=True)

    start = simplex(3)
    start[list(ends)] = 0.0
    reward = torch.rand(3, 2, 3, generator=generator, dtype=torch.float64) * 2 - 0.5
    return Process(start / start.sum(), simplex(3, 2, 3), reward, simplex(3, 2), simplex(3, 2), horizon, discount, ends)


@dataclass
class Enumerated:
    probability: Tensor  # [E], under the behavior
    state: Tensor  # [E, H]
    action: Tensor  # [E, H]
    data: Trajectories

    def expectation(self, terms: PerEpisodeTerms) -> float:
        """E of an estimate from a single episode where nothing is normalized: linear in the episodes."""
        assert terms.denominator.shape[0] == 1 or bool((terms.denominator == terms.denominator[:1]).all())
        return float(self.probability @ terms.per_episode)

    def limit(self, terms: PerEpisodeTerms) -> float:
        """What the estimate converges to with infinitely many episodes."""
        bottom = self.probability @ terms.denominator.expand_as(terms.numerator)
        return float(((self.probability @ terms.numerator) / bottom).sum())


def enumerate_episodes(process: Process, behavior: Tensor | None = None, q: Tensor | None = None) -> Enumerated:
    """All episodes; log ratios divide by ``behavior`` (None: the true one), values from ``q`` ``[H, S, A]``."""
    believed = process.behavior if behavior is None else behavior
    n, actions = process.behavior.shape
    rows = []
    for first in range(n):
        for path in product(product(range(actions), range(n)), repeat=process.horizon):
            probability, s, states, acts, rewards, alive = float(process.start[first]), first, [], [], [], []
            ended = first in process.ends
            for a, following in path:
                states.append(s)
                acts.append(a)
                alive.append(not ended)
                if ended:  # nothing happens: one copy of what is left, with probability one
                    probability *= float(a == 0 and following == 0)
                    rewards.append(0.0)
                    continue
                probability *= float(process.behavior[s, a] * process.step[s, a, following])
                rewards.append(float(process.reward[s, a, following]))
                s = following
                ended = s in process.ends
            if probability > 0.0:
                rows.append((probability, states, acts, rewards, alive))
    probability, state, action, reward, mask = (torch.tensor(x) for x in zip(*rows, strict=True))
    probability, reward = (
        torch.tensor([r[0] for r in rows], dtype=torch.float64),
        torch.tensor([r[3] for r in rows], dtype=torch.float64),
    )
    data = Trajectories(
        reward=reward,
        mask=mask,
        discount=process.discount,
        behavior_log_prob=believed[state, action].log(),
        target_log_prob=process.target[state, action].log(),
    )
    if q is not None:
        data = with_values(data, state, action, q, process.target)
    return Enumerated(probability, state, action, data)


def with_values(data: Trajectories, state: Tensor, action: Tensor, q: Tensor, target: Tensor) -> Trajectories:
    """q and v = E_pi q of each logged step, from ``q`` ``[H, S, A]``."""
    t = torch.arange(data.horizon).expand_as(state)
    v = (target * q).sum(-1)
    return replace(data, q=q[t, state, action], v=v[t, state])
