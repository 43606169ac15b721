"""The problems of ``ranking.py``: processes that are known exactly, candidate policies, and logs with their weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_offrl.envs.gridworld.environment import GridWorld
from lightning_offrl.envs.sepsis.environment import Sepsis
from lightning_offrl.envs.tabular import TabularMDP
from lightning_offrl.ope.weighting.trajectories import Trajectories

Array = np.ndarray


@dataclass(frozen=True)
class Problem:
    """One process, who logged, and whom to choose among.

    Attributes:
        mdp: the process.
        behavior: ``[S, A]``.
        policies: ``[P, S, A]``.
        horizon: steps that count.
        discount: gamma.
        values: ``[P]``, exact.
        q: ``[P, H, S, A]``, exact, by the step at which one stands.
    """

    mdp: TabularMDP
    behavior: Array
    policies: Array
    horizon: int
    discount: float
    values: Array
    q: Array

    @property
    def behavior_value(self) -> float:
        """Exact value of who logged."""
        v, _ = self.mdp.finite_horizon_value(self.behavior, self.horizon, self.discount)
        return float(self.mdp.start @ v[self.horizon])


def problem(mdp: TabularMDP, behavior: Array, horizon: int, discount: float, n: int, rng: Any) -> Problem:
    """With ``n`` candidates, at least five.

    The first ones are the behavior tilted by its own Q and by chance, ``pi proportional to b exp(strength (towards x
    advantage + noise))``, the noise one to three times the spread of the advantage, ``towards`` 1, 0.5 or -0.5, the
    strength such that the effective sample size is a drawn share of the episodes (0.12 to 0.9). The last four are two
    near-duplicates of the first (97 % of it, 3 % of another), one whose share is 0.02, so that it is often not
    eligible, and one that always takes an action which the log hardly shows.
    """
    _, q = mdp.policy_value(behavior, discount)
    advantage = q - (behavior * q).sum(-1, keepdims=True)
    visits = mdp.visits(behavior, horizon)
    live = visits.sum(-1) > 0.0
    advantage = np.where(live[:, None], advantage, 0.0)
    scale = np.sqrt((visits * advantage**2).sum() / visits.sum())

    def tilted(share: float, towards: float, noise: float) -> Array:
        direction = towards * advantage / scale + noise * rng.standard_normal(advantage.shape)
        low, high = 0.0, 50.0
        for _ in range(40):
            middle = 0.5 * (low + high)
            found = _tilt(behavior, direction, middle)
            squares = (found**2 / np.where(behavior > 0.0, behavior, 1.0)).sum(-1)
            wide = float(visits.sum(-1)[live] @ np.log(squares[live])) < -np.log(share)
            low, high = (middle, high) if wide else (low, middle)
        return _tilt(behavior, direction, low)

    policies = []
    for i in range(n - 4):
        share = float(np.exp(rng.uniform(np.log(0.12), np.log(0.9))))
        policies.append(tilted(share, (1.0, 0.5, -0.5)[i % 3], rng.choice([1.0, 2.0, 3.0])))
    other = tilted(0.3, 1.0, 1.0)
    policies += [0.97 * policies[0] + 0.03 * mixed for mixed in (other, behavior)]
    policies.append(tilted(0.02, rng.choice([0.5, -0.5]), 2.0))
    rare = np.where(behavior > 0.0, behavior, np.inf) * np.exp(0.5 * rng.standard_normal(behavior.shape))
    policies.append(mdp.deterministic(rare.argmin(-1)))
    values, qs = [], []
    for policy in policies:
        v, own = mdp.finite_horizon_value(policy, horizon, discount)
        values.append(mdp.start @ v[horizon])
        qs.append(own[::-1])
    return Problem(mdp, behavior, np.stack(policies), horizon, discount, np.array(values), np.stack(qs))


def _tilt(behavior: Array, direction: Array, strength: float) -> Array:
    with np.errstate(divide="ignore"):
        logits = np.log(behavior) + strength * direction
    soft = np.exp(logits - logits.max(-1, keepdims=True))
    return soft / soft.sum(-1, keepdims=True)


def random_mdp(rng: Any, n: int) -> Problem:
    """20 states, 4 actions, 10 steps; every action leads to one of four states; rewards depend on the next state."""
    states, actions = 20, 4
    transition = np.zeros((states, actions, states))
    for s in range(states):
        for a in range(actions):
            transition[s, a, rng.choice(states, 4, replace=False)] = rng.dirichlet(np.ones(4))
    reward = np.broadcast_to(rng.standard_normal(states), transition.shape)
    start = np.full(states, 1.0 / states)
    mdp = TabularMDP(transition, reward, np.zeros(states, dtype=bool), start)
    behavior = rng.dirichlet(2.0 * np.ones(actions), states)
    return problem(mdp, 0.95 * behavior + 0.05 / actions, 10, 0.95, n, rng)


def bandit(rng: Any, n: int) -> Problem:
    """30 contexts, 6 actions, a success or none."""
    contexts, actions = 30, 6
    chance = 0.05 + 0.4 * rng.beta(1.0, 2.0, (contexts, actions))
    transition = np.zeros((contexts + 2, actions, contexts + 2))
    transition[:contexts, :, contexts], transition[:contexts, :, contexts + 1] = 1.0 - chance, chance
    transition[contexts:, :, contexts] = 1.0
    reward = np.zeros((1, 1, contexts + 2))
    reward[..., -1] = 1.0
    start = np.append(rng.dirichlet(np.ones(contexts)), [0.0, 0.0])
    mdp = TabularMDP(transition, reward, np.arange(contexts + 2) >= contexts, start)
    behavior = rng.dirichlet(np.ones(actions), contexts + 2)
    return problem(mdp, 0.9 * behavior + 0.1 / actions, 1, 1.0, n, rng)


def grid(rng: Any, n: int) -> Problem:
    """The cliff with slips, walked by one who takes the best step in half of the cases; 20 steps."""
    mdp = GridWorld("cliff", slip=0.1).mdp
    return problem(mdp, mdp.behavior_policy(0.5, 0.95), 20, 0.95, n, rng)


def sepsis(rng: Any, n: int) -> Problem:
    """The ward and its clinician, 15 steps."""
    ward = _ward()
    return problem(ward.mdp, ward.clinician(), 15, 0.99, n, rng)


@cache
def _ward() -> Sepsis:
    return Sepsis()


PROBLEMS: dict[str, Callable[[Any, int], Problem]] = {
    "random process": random_mdp,
    "bandit": bandit,
    "cliff": grid,
    "sepsis": sepsis,
}


@dataclass(frozen=True)
class Log:
    """Episodes of a problem's behavior, padded.

    Attributes:
        reward: ``[n, H]`` float64, 0 after the end.
        mask: ``[n, H]`` bool.
        state: ``[n, H]`` int64, 0 after the end.
        action: ``[n, H]`` int64, 0 after the end.
        following: ``[n, H]`` int64, the next state, 0 after the end.
    """

    reward: Array
    mask: Array
    state: Array
    action: Array
    following: Array


def draw(of: Problem, episodes: int, seed: int) -> Log:
    """One log."""
    flat = of.mdp.sample_transitions(of.behavior, episodes, of.horizon, seed)
    episode = flat["episode"]
    time = np.arange(len(episode)) - np.searchsorted(episode, episode)
    shape = (episodes, of.horizon)
    names = ("reward", "state", "action", "next_state")
    out = [np.zeros(shape, dtype=flat[name].dtype) for name in names]
    mask = np.zeros(shape, dtype=bool)
    mask[episode, time] = True
    for name, table in zip(names, out, strict=True):
        table[episode, time] = flat[name]
    reward, state, action, following = out
    return Log(reward, mask, state, action, following)


def fitted(of: Problem, log: Log, counts: Array, optimistic: bool) -> tuple[Array, Array]:
    """Every candidate's value in a process counted from the log, and again in resamples of its episodes.

    Half an observation is added to each state and action: that nothing changes and the mean reward of the log comes
    (or, optimistic, half-way from it to the reward that one step in ten exceeds), which is all that is known of what
    the log lacks.

    Args:
        of: the problem.
        log: drawn from it.
        counts: ``[1 + R, n]``, how often each episode counts; first all of them once.
        optimistic: as said.

    Returns:
        Values ``[P, 1 + R]``, and the Q of the first fit ``[P, H, S, A]``.
    """
    n_states, n_actions = of.mdp.n_states, of.mdp.n_actions
    rows, steps = np.nonzero(log.mask)
    at = (rows, steps)
    pair = log.state[at] * n_actions + log.action[at]
    place = pair * n_states + log.following[at]
    seen = log.reward[at]
    prior = float(seen.mean())
    prior += 0.5 * (float(np.quantile(seen, 0.9)) - prior) if optimistic else 0.0
    values, tables = [], []
    for count in counts:
        weight = count[rows]
        moved = np.bincount(place, weight, n_states * n_actions * n_states).reshape(n_states, n_actions, n_states)
        earned = np.bincount(pair, weight * seen, n_states * n_actions).reshape(n_states, n_actions)
        moved[np.arange(n_states), :, np.arange(n_states)] += 0.5
        total = moved.sum(-1)
        moved, reward = moved / total[..., None], (earned + 0.5 * prior) / total
        moved[of.mdp.terminal], reward[of.mdp.terminal] = 0.0, 0.0
        v = np.zeros((len(of.policies), n_states))
        q = np.empty((of.horizon, len(of.policies), n_states, n_actions))
        for t in reversed(range(of.horizon)):
            q[t] = reward + of.discount * (moved.reshape(-1, n_states) @ v.T).T.reshape(-1, n_states, n_actions)
            v = (of.policies * q[t]).sum(-1)
        values.append(count @ v[:, log.state[:, 0]].T / count.sum())
        tables.append(q if not tables else None)
    return np.stack(values, -1), np.moveaxis(tables[0], 0, 1)


def seen_by(of: Problem, log: Log, policy: int, table: Array | None) -> Trajectories:
    """A log as one of the candidates sees it.

    Args:
        of: the problem.
        log: drawn from it.
        policy: number of the candidate.
        table: ``[H, S, A]``, what is believed to be its Q; None: no values at all.
    """
    pi = of.policies[policy]
    with np.errstate(divide="ignore"):
        ratio = np.log(pi[log.state, log.action]) - np.log(of.behavior[log.state, log.action])
    q = v = None
    if table is not None:
        time = np.arange(of.horizon)
        q, v = table[time, log.state, log.action], (table * pi).sum(-1)[time, log.state]
    return Trajectories(
        reward=_tensor(log.reward),
        mask=torch.from_numpy(log.mask),
        discount=of.discount,
        log_ratio=_tensor(np.where(log.mask, ratio, 0.0)),
        q=None if q is None else _tensor(q),
        v=None if v is None else _tensor(v),
    )


def _tensor(x: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64))
