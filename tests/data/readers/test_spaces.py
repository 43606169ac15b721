"""Spaces of logged data: given, asked of the environment or inferred, and the arrays in the form of the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_offrl.batch import unscale_action
from lightning_offrl.data.readers import load
from tests.data.readers.lines import at, check_sound, line


def test_actions_are_scaled_and_log_densities_follow() -> None:
    space = spaces.Box(np.array([-2.0, 0.0], dtype=np.float32), np.array([2.0, 10.0], dtype=np.float32))
    actions = np.array([[-2.0, 10.0], [1.0, 2.5]])
    arrays = line(2, actions=actions, terminals=at(2, 1), action_space=space, behavior_log_prob=np.array([0.0, -1.0]))
    episodes = load(arrays)
    torch.testing.assert_close(episodes.data["action"], torch.tensor([[-1.0, 1.0], [0.5, -0.5]]))
    torch.testing.assert_close(unscale_action(episodes.data["action"], episodes.spec), torch.tensor(actions).float())
    # A uniform density on [-2, 2] x [0, 10] is 1/40; on [-1, 1]^2 it is 1/4: ten times as much.
    expected = torch.tensor([0.0, -1.0]) + float(np.log(10.0))
    torch.testing.assert_close(episodes.data["behavior_log_prob"], expected)


def test_a_small_overshoot_is_clipped() -> None:
    actions = np.array([[1.0 + 1e-5], [-1.0 - 1e-5]], dtype=np.float32)
    episodes = load(line(2, actions=actions, terminals=at(2, 1)))
    assert episodes.data["action"].squeeze(-1).tolist() == [1.0, -1.0]


def test_actions_of_any_shape_are_flattened() -> None:
    space = spaces.Box(-1, 1, (2, 2))
    episodes = load(line(3, actions=np.full((3, 2, 2), 0.5), terminals=at(3, 2), action_space=space))
    assert episodes.data["action"].shape == (3, 4)


def test_discrete_actions() -> None:
    episodes = load(line(3, actions=np.array([0, 2, 1]), terminals=at(3, 2)))
    check_sound(episodes)
    assert episodes.spec["action_kind"] == "discrete" and episodes.spec["action_size"] == 3
    assert episodes.data["action"].tolist() == [0, 2, 1] and episodes.data["action"].dtype == torch.int64
    assert "taken as 3" in episodes.notes[0]
    given = load(line(3, actions=np.array([0, 2, 1]), terminals=at(3, 2), action_space=spaces.Discrete(5)))
    assert given.spec["action_size"] == 5 and given.notes == []


def test_the_environment_knows_its_actions() -> None:
    pendulum = load(line(3, actions=np.array([[2.0], [-2.0], [1.0]]), terminals=at(3, 2), environment="Pendulum-v1"))
    assert pendulum.spec["action_high"] == [2.0]
    assert pendulum.data["action"].squeeze(-1).tolist() == [1.0, -1.0, 0.5]
    cart = load(line(3, actions=np.array([0, 0, 0]), terminals=at(3, 2), environment="CartPole-v1"))
    assert cart.spec["action_size"] == 2


def test_a_discrete_observation_is_one_hot() -> None:
    arrays = line(3, terminals=at(3, 2), observation_space=spaces.Discrete(4))
    arrays["observations"], arrays["next_observations"] = np.array([0, 1, 2]), np.array([1, 2, 3])
    episodes = load(arrays)
    check_sound(episodes)
    assert episodes.spec["observation_shape"] == [4]
    assert torch.equal(episodes.data["observation"], torch.eye(4)[:3])
    assert torch.equal(episodes.data["next", "observation"], torch.eye(4)[1:])


@pytest.mark.parametrize("stored", [True, False], ids=["next stored", "next from the following row"])
def test_dictionaries_with_pictures(stored: bool) -> None:
    rng = np.random.default_rng(0)
    path = {
        "camera": rng.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8),
        "body": {"joints": rng.normal(size=(5, 2)), "phase": rng.normal(size=(5, 1)).astype(np.float32)},
    }

    def part(value: Any, rows: slice) -> Any:
        return {k: part(v, rows) for k, v in value.items()} if isinstance(value, dict) else value[rows]

    arrays = line(4, terminals=at(4, 1), timeouts=at(4, 3))
    arrays["observations"] = part(path, slice(0, 4))
    arrays["next_observations"] = part(path, slice(1, 5)) if stored else None
    episodes = load(arrays)
    check_sound(episodes)
    assert episodes.spec["observation_shape"] == {"body": {"joints": [2], "phase": [1]}, "camera": [4, 4, 3]}
    assert len(episodes) == (4 if stored else 3)
    camera = episodes.data["next", "observation", "camera"]
    assert camera.dtype == torch.uint8 and torch.equal(camera[0], torch.as_tensor(path["camera"][1]))
    assert episodes.data["observation", "body", "joints"].dtype == torch.float32
    chosen = episodes.select([episodes.n_episodes - 1])
    assert chosen.data["observation", "camera"].shape == (len(chosen), 4, 4, 3)


def test_pictures_are_copied() -> None:
    pictures = np.zeros((3, 2, 2, 3), dtype=np.uint8)
    pictures.flags.writeable = False
    arrays = line(3, observations=pictures, next_observations=None, terminals=at(3, 2))
    episodes = load(arrays)
    pictures.flags.writeable = True
    pictures[:] = 1
    assert int(episodes.data["observation"].max()) == 0


def test_a_spec_stands_in_for_spaces() -> None:
    spec = {"observation_shape": [1], "action_kind": "box", "action_size": 1, "action_low": [0.0], "action_high": [4.0]}
    episodes = load(line(2, actions=np.array([[4.0], [1.0]]), terminals=at(2, 1), spec=spec))
    assert episodes.spec == spec and episodes.data["action"].squeeze(-1).tolist() == [1.0, -0.5]
