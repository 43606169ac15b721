"""Support coverage against policies of which it is known how much lies where the log has actions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers import load
from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.diagnostics.support import VAESupport, coverage_level, neighbor_support
from lightning_offrl.envs.gridworld.environment import GridWorld
from lightning_offrl.errors import InputError
from lightning_offrl.ope.policies.target import Deterministic, Tabular


class Uniform:
    """Every number of the action uniform from ``low`` to ``high``."""

    is_deterministic = False
    discrete = False

    def __init__(self, low: float, high: float, size: int = 1) -> None:
        self.low, self.high, self.size = low, high, size

    def sample(self, observation: Tensor, n: int, generator: torch.Generator) -> Tensor:
        drawn = torch.rand(n, len(observation), self.size, generator=generator, dtype=torch.float64)
        return self.low + (self.high - self.low) * drawn

    def log_prob(self, observation: Tensor, action: Tensor) -> None: ...

    def probabilities(self, observation: Tensor) -> None: ...


def log_of(behavior: object, states: int = 2, actions: int = 1, steps: int = 4_000, length: int = 4) -> Episodes:
    generator = torch.Generator().manual_seed(0)
    observation = torch.randn(steps, states, generator=generator)
    action = behavior.sample(observation, 1, generator)[0]
    return from_arrays(
        {
            "observations": observation.numpy(),
            "actions": action.float().numpy(),
            "rewards": np.zeros(steps, dtype=np.float32),
            "terminated": (torch.arange(1, steps + 1) % length == 0).numpy(),
            "next_observations": observation.numpy(),
            "observation_space": spaces.Box(-math.inf, math.inf, (states,)),
            "action_space": spaces.Box(-1.0, 1.0, (actions,)),
        }
    )


HALF = log_of(Uniform(-1.0, 0.0))


@pytest.mark.parametrize(("low", "high", "inside"), [(-1.0, 0.0, 1.0), (-1.0, 1.0, 0.5), (-0.25, 0.75, 0.25)])
def test_share_of_a_uniform_policy_inside_the_log(low: float, high: float, inside: float) -> None:
    """99 % of what lies inside, nothing of what lies outside (but for its edge)."""
    by_distance = neighbor_support(HALF, Uniform(low, high))
    error = 3.0 * by_distance.numbers["support_knn_error"]
    assert by_distance.value == pytest.approx(0.99 * inside, abs=error + 0.03)
    found = VAE.diagnose(Uniform(low, high))
    assert found.value == pytest.approx(0.99 * inside, abs=0.1)
    assert by_distance.level == {1.0: "ok", 0.5: "alarm", 0.25: "alarm"}[inside]


VAE = VAESupport(HALF, updates=400)


def test_a_vae_sees_the_hole_in_a_ring() -> None:
    """Actions on a circle: its center and its outside are both far, although the center is the mean action."""

    class Ring(Uniform):
        def sample(self, observation: Tensor, n: int, generator: torch.Generator) -> Tensor:
            angle = 2.0 * math.pi * torch.rand(n, len(observation), generator=generator, dtype=torch.float64)
            return 0.6 * torch.stack([angle.cos(), angle.sin()], -1)

    episodes = log_of(Ring(0.0, 0.0, 2), actions=2)
    vae = VAESupport(episodes)
    assert vae.diagnose(Ring(0.0, 0.0, 2)).value > 0.95
    for point in ((0.0, 0.0), (0.3, 0.0), (0.9, 0.0)):
        assert vae.diagnose(Deterministic(lambda o, p=point: torch.tensor(p).expand(len(o), 2))).value < 0.05
        assert (
            neighbor_support(episodes, Deterministic(lambda o, p=point: torch.tensor(p).expand(len(o), 2))).value < 0.05
        )


def test_support_depends_on_the_state() -> None:
    """The behavior goes where the first number of the state points; the opposite is not supported there."""

    class Signed(Uniform):
        def sample(self, observation: Tensor, n: int, generator: torch.Generator) -> Tensor:
            size = super().sample(observation, n, generator)
            return size * observation[:, :1].sign()

    episodes = log_of(Signed(0.4, 0.6))
    vae = VAESupport(episodes, updates=400)
    for detector in (lambda p: neighbor_support(episodes, p), vae.diagnose):
        assert detector(Signed(0.4, 0.6)).value > 0.95
        assert detector(Signed(-0.6, -0.4)).value < 0.15


def test_discrete_actions_are_supported_where_they_were_taken() -> None:
    """One-hot states: the policy's share of state-action pairs that the log holds in other episodes."""
    world = GridWorld("open")
    behavior = world.mdp.uniform()
    behavior[:, 0], behavior[:, 3] = 0.0, 0.5  # never up
    arrays = world.dataset(behavior, 200, horizon=40)
    episodes = load(arrays)
    assert neighbor_support(episodes, Tabular(behavior)).value > 0.97
    up = np.zeros_like(behavior)
    up[:, 0] = 1.0
    assert neighbor_support(episodes, Tabular(up)).value == 0.0
    half = neighbor_support(episodes, Tabular(0.5 * up + 0.5 * behavior)).value
    assert half == pytest.approx(0.5, abs=0.05)
    with pytest.raises(InputError, match="continuous actions"):
        VAESupport(episodes)


def test_a_vae_repeats_and_moves_no_random_state() -> None:
    state = torch.random.get_rng_state()
    again = VAESupport(HALF, updates=400)
    assert again.threshold == VAE.threshold and bool((torch.random.get_rng_state() == state).all())
    assert coverage_level(math.nan) == "unknown" and coverage_level(0.9) == "caution"
