"""Small policies for the tests of direct methods, and episodes of finite processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.envs.tabular import TabularMDP
from lightning_offrl.ope.policies.target import TruncatedNormal, _double, _draw, _lower_tail

BOX = {
    "observation_shape": [3],
    "action_kind": "box",
    "action_size": 2,
    "action_low": [-1.0, -1.0],
    "action_high": [1.0, 1.0],
}
"""The spec of two continuous actions."""
DISCRETE = {"observation_shape": [3], "action_kind": "discrete", "action_size": 4}
"""The spec of four discrete actions."""


class Table:
    """A tabular policy ``[S, A]`` over one-hot observations."""

    is_deterministic = False
    discrete = True

    def __init__(self, table: Any) -> None:
        self.table = torch.as_tensor(table, dtype=torch.float64)

    def probabilities(self, observation: Tensor) -> Tensor:
        return self.table[observation.argmax(-1)]

    def sample(self, observation: Tensor, n: int, generator: torch.Generator) -> Tensor:
        return torch.multinomial(self.probabilities(observation), n, True, generator=generator).T

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        return self.probabilities(observation).gather(-1, action.unsqueeze(-1)).squeeze(-1).log()


class Linear:
    """``a = clip(K s + std * noise)`` in scaled actions."""

    discrete = False

    def __init__(self, gain: Any, std: float = 0.0) -> None:
        self.gain, self.std = torch.as_tensor(gain, dtype=torch.float64), std
        self.is_deterministic = std == 0.0

    def sample(self, observation: Tensor, n: int, generator: torch.Generator) -> Tensor:
        mean = observation.double() @ self.gain.T
        noise = torch.randn(n, *mean.shape, generator=generator, dtype=torch.float64)
        return (mean + self.std * noise).clamp(-1.0, 1.0)

    def log_prob(self, observation: Tensor, action: Tensor) -> None:
        return None

    def probabilities(self, observation: Tensor) -> None:
        return None


def random_mdp(states: int = 4, actions: int = 3, ends: bool = True, seed: int = 0) -> TabularMDP:
    """A process with dense random transitions; with ``ends``, one more state that is terminal."""
    rng = np.random.default_rng(seed)
    n = states + ends
    transition = rng.dirichlet(np.full(n, 0.7), size=(n, actions))
    if ends:  # short episodes would hide what a discount does
        transition[..., -1] *= 0.2
        transition /= transition.sum(-1, keepdims=True)
    terminal = np.arange(n) >= states
    return TabularMDP(transition, rng.normal(size=(n, actions, n)), terminal, np.eye(n)[0] * 0.5 + np.eye(n)[1] * 0.5)


def episodes_of(steps: dict[str, np.ndarray], states: int, actions: int) -> Episodes:
    """What ``sample_transitions`` returned, as episodes with one-hot observations."""
    eye = np.eye(states, dtype=np.float32)
    return from_arrays(
        {
            "observations": eye[steps["state"]],
            "actions": steps["action"].astype(np.int64),
            "rewards": steps["reward"],
            "terminated": steps["terminated"],
            "truncated": steps["truncated"],
            "next_observations": eye[steps["next_state"]],
            "observation_space": spaces.Box(0.0, 1.0, (states,), np.float32),
            "action_space": spaces.Discrete(actions),
        }
    )


def scripted(paths: list[list[tuple[int, int, float]]], states: int, actions: int, terminal: bool = True) -> Episodes:
    """Episodes written out: lists of (state, action, reward); the state after the last step is the last number."""
    columns: dict[str, list[Any]] = {k: [] for k in ("state", "action", "reward", "next_state", "terminated", "cut")}
    for path in paths:
        for t, (state, action, reward) in enumerate(path):
            last = t == len(path) - 1
            columns["state"].append(state)
            columns["action"].append(action)
            columns["reward"].append(reward)
            columns["next_state"].append(state if last else path[t + 1][0])
            columns["terminated"].append(last and terminal)
            columns["cut"].append(last and not terminal)
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    return episodes_of({**arrays, "truncated": arrays["cut"]}, states, actions)


def tabular_case(ends: bool, n: int = 300) -> tuple[Episodes, np.ndarray]:
    """Episodes of a random process with uniform actions, and another policy's table."""
    mdp = random_mdp(ends=ends, seed=11)
    table = mdp.behavior_policy(0.6)
    steps = mdp.sample_transitions(mdp.uniform(), n, 20, seed=3)
    return episodes_of(steps, mdp.n_states, mdp.n_actions), table


class UnderflowingNormal(TruncatedNormal):
    """Inverts a distribution function that is 0 below -8.3: such actions land on the opposite face of the box."""

    @torch.no_grad()
    def sample(self, observation: Any, n: int, generator: torch.Generator) -> Tensor:
        mean, std = _double(self.parameters(observation))
        low, high, sign = _lower_tail(mean, std)
        uniform = _draw(torch.rand, n, mean, generator).clamp(2.0**-53, 1.0 - 2.0**-53)
        left, right = torch.special.ndtr(low), torch.special.ndtr(high)
        near = torch.special.ndtri((left + uniform * (right - left)).clamp(1e-300, 1.0 - 2.0**-53))
        z = torch.where(high > -37.0, near, high + uniform.log() / high.abs().clamp(min=1.0))
        return (mean + std * sign * torch.maximum(torch.minimum(z, high), low)).clamp(-1.0, 1.0)
