"""Behavior policies: their densities are densities, and their controllers control."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_offrl.envs.controllers import (
    CONTROLLERS,
    Behavior,
    behaviors,
    built_in_controller,
    cartpole,
    lunar_lander,
    pendulum,
)
from lightning_offrl.envs.make import environment_spec, make_environment
from lightning_offrl.envs.play import play
from lightning_offrl.errors import InputError

BOX = {"observation_shape": [3], "action_kind": "box", "action_size": 1, "action_low": [-2.0], "action_high": [2.0]}
TWO = {**BOX, "action_size": 2, "action_low": [-1.0, 0.0], "action_high": [1.0, 4.0]}
DISCRETE = {"observation_shape": [4], "action_kind": "discrete", "action_size": 3}
OBSERVATION = np.array([math.cos(0.3), math.sin(0.3), 0.5], dtype=np.float32)


@pytest.mark.parametrize("quality", [0.0, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("reverse", [False, True])
def test_density_integrates_to_one(quality: float, reverse: bool) -> None:
    behavior = Behavior("b", BOX, pendulum, quality, 0.1, reverse)
    step = 4.0 / 4_000
    grid = -2.0 + step * (np.arange(4_000) + 0.5)
    density = np.exp([behavior.log_prob(OBSERVATION, np.array([a])) for a in grid])
    assert density.sum() * step == pytest.approx(1.0, abs=1e-5)


def test_density_in_two_dimensions_is_the_mixture() -> None:
    """Against torch's normal, truncated by hand: half a truncated normal around (0.5, 3), half 1 / volume."""
    behavior = Behavior("b", TWO, lambda observation: np.array([0.5, 3.0]), 0.5, 0.2)
    mean, sigma = torch.tensor([0.5, 3.0], dtype=torch.float64), torch.tensor([0.2, 0.4], dtype=torch.float64)
    low, high = torch.tensor([-1.0, 0.0], dtype=torch.float64), torch.tensor([1.0, 4.0], dtype=torch.float64)
    normal = torch.distributions.Normal(mean, sigma)
    action = torch.tensor([0.7, 2.5], dtype=torch.float64)
    mass = normal.cdf(high) - normal.cdf(low)
    expected = torch.log(0.5 * (normal.log_prob(action).exp() / mass).prod() + 0.5 / 8.0)
    assert behavior.log_prob(OBSERVATION, action.numpy()) == pytest.approx(float(expected), abs=1e-9)


def test_samples_follow_the_density() -> None:
    behavior = Behavior("b", BOX, lambda observation: np.array([1.9]), 0.6, 0.2)  # cut off at the bound
    rng = np.random.default_rng(0)
    draws = [behavior.sample(OBSERVATION, rng) for _ in range(20_000)]
    actions = np.array([float(action[0]) for action, _ in draws])
    assert all(log_prob == behavior.log_prob(OBSERVATION, action) for action, log_prob in draws[:100])
    assert actions.min() >= -2.0 and actions.max() <= 2.0
    edges = np.linspace(-2.0, 2.0, 17)
    seen = np.histogram(actions, edges)[0] / len(actions)
    fine = np.linspace(-2.0, 2.0, 16 * 200, endpoint=False) + 4.0 / (16 * 400)
    density = np.exp([behavior.log_prob(OBSERVATION, np.array([a])) for a in fine])
    expected = density.reshape(16, 200).mean(1) * 0.25
    assert np.abs(seen - expected).max() < 4 * math.sqrt(0.25 / len(actions))


def test_discrete_probabilities_by_hand() -> None:
    behavior = Behavior("b", DISCRETE, lambda observation: np.int64(2), 0.7)
    probabilities = [math.exp(behavior.log_prob(OBSERVATION, a)) for a in range(3)]
    assert probabilities == pytest.approx([0.1, 0.1, 0.8])
    mirrored = replace(behavior, reverse=True)
    assert math.exp(mirrored.log_prob(OBSERVATION, 0)) == pytest.approx(0.8)
    rng = np.random.default_rng(0)
    drawn = np.bincount([behavior.sample(OBSERVATION, rng)[0] for _ in range(5000)], minlength=3) / 5000
    assert drawn == pytest.approx([0.1, 0.1, 0.8], abs=0.03)
    certain = Behavior("b", DISCRETE, lambda observation: np.int64(2), 1.0)
    assert certain.log_prob(OBSERVATION, 2) == 0.0
    assert certain.log_prob(OBSERVATION, 1) == -math.inf


def test_without_noise_there_is_no_density() -> None:
    behavior = Behavior("b", BOX, pendulum, 0.5, 0.0)
    assert not behavior.has_density
    _, log_prob = behavior.sample(OBSERVATION, np.random.default_rng(0))
    assert math.isnan(log_prob)
    assert Behavior("b", BOX, None).has_density
    assert Behavior("b", BOX, None).log_prob(OBSERVATION, np.zeros(1)) == pytest.approx(math.log(0.25))


@pytest.mark.parametrize(
    ("environment", "least"), [("Pendulum-v1", -220.0), ("CartPole-v1", 500.0), ("MountainCarContinuous-v0", 88.0)]
)
def test_controllers_control(environment: str, least: float) -> None:
    env = make_environment(environment)
    behavior = Behavior("c", environment_spec(env), CONTROLLERS[environment], 1.0, 0.0)
    returns = [play(env, behavior, seed=i).rewards.sum() for i in range(8)]
    assert np.mean(returns) >= least


def test_lunar_lander_lands() -> None:
    pytest.importorskip("Box2D", reason="LunarLander needs Box2D")
    env = make_environment("LunarLander-v3")
    spec = environment_spec(env)
    behavior = Behavior("c", spec, CONTROLLERS["LunarLander-v3"])
    assert np.mean([play(env, behavior, seed=i).rewards.sum() for i in range(5)]) > 200.0


def test_lunar_lander_by_hand() -> None:
    """Turn back upright (engine 3 clockwise, 1 the other way), brake a fall, and rest once a leg stands."""
    rest = np.zeros(8)
    assert lunar_lander(rest).tolist() == 0
    leaning, falling, landed = (rest.copy() for _ in range(3))
    leaning[4], falling[3] = 0.3, -1.0
    landed[[4, 6]] = 0.3, 1.0
    assert lunar_lander(np.stack([leaning, -leaning, falling, landed])).tolist() == [3, 1, 2, 0]


def test_a_grid_world_has_its_optimal_policy() -> None:
    name = "offrl/GridWorld-corridor-v0"
    world = make_environment(name).unwrapped
    controller = built_in_controller(name)
    assert controller is not None and controller(world.observations[:7]).tolist() == [2] * 7
    assert built_in_controller("Hopper-v5") is None and built_in_controller("CartPole-v1") is cartpole
    spec = environment_spec(make_environment(name))
    for quality in (0.0, 0.3, 1.0):
        ((_, behavior),) = behaviors(name, spec, quality=quality)
        got = [[math.exp(behavior.log_prob(o, a)) for a in range(4)] for o in world.observations[:7]]
        np.testing.assert_allclose(got, world.mdp.behavior_policy(quality)[:7], atol=1e-12)


def test_mixed_has_all_kinds_and_random_stands_alone() -> None:
    mixture = behaviors("Pendulum-v1", BOX)
    assert sum(share for share, _ in mixture) == pytest.approx(1.0)
    assert [b.reverse for _, b in mixture] == [False, True, False, False]
    assert [b.name for _, b in behaviors("Other-v0", BOX)] == ["random"]
    equal = behaviors("Pendulum-v1", BOX, quality=[0, 1])
    assert [(share, b.quality if b.controller else 0.0) for share, b in equal] == [(0.5, 0.0), (0.5, 1.0)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quality": 1.5}, "from 0"),
        ({"quality": "good"}, "'mixed' or numbers"),
        ({"quality": []}, "'mixed' or numbers"),
        ({"noise": -0.1}, "must not be negative"),
        ({"noise": math.nan}, "must not be negative"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        behaviors("Pendulum-v1", BOX, **arguments)


def test_no_controller() -> None:
    with pytest.raises(InputError, match="no built-in controller for Hopper-v5"):
        behaviors("Hopper-v5", BOX, quality=0.5)
