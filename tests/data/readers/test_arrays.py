"""Arrays by name become episodes, whatever they are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lightning_offrl.data.readers import load
from lightning_offrl.data.readers.arrays import from_arrays
from tests.data.readers.lines import at, check_sound, line


def test_one_transition_is_a_dataset() -> None:
    episodes = load(line(1, terminals=at(1, 0)))
    check_sound(episodes)
    assert len(episodes) == 1


def test_random_arrays_are_sound(arrays: dict[str, Any]) -> None:
    episodes = load(arrays)
    check_sound(episodes)
    assert episodes.n_episodes == 6 and len(episodes) == 120 and episodes.notes == []
    assert episodes.spec == {
        "observation_shape": [3],
        "action_kind": "box",
        "action_size": 2,
        "action_low": [-1.0, -1.0],
        "action_high": [1.0, 1.0],
    }
    # Within [-1, 1] nothing changes by so much as a bit.
    np.testing.assert_array_equal(episodes.data["action"].numpy(), arrays["actions"])
    np.testing.assert_array_equal(episodes.data["observation"].numpy(), arrays["observations"])


def test_arguments_and_dictionary_give_the_same(arrays: dict[str, Any]) -> None:
    given = from_arrays(
        {
            "observations": arrays["observations"],
            "actions": arrays["actions"],
            "rewards": arrays["rewards"],
            "terminated": arrays["terminals"],
            "truncated": arrays["timeouts"],
            "next_observations": arrays["next_observations"],
        }
    )
    assert given.fingerprint == load(arrays).fingerprint


def test_columns_of_shape_t_by_one_are_accepted() -> None:
    arrays = line(3, terminals=at(3, 2)[:, None], rewards=np.ones((3, 1)))
    assert load(arrays).data["next", "reward"].shape == (3,)


def test_torch_tensors_and_lists_are_accepted() -> None:
    arrays = line(3, terminals=[False, False, True], rewards=torch.ones(3), observations=torch.arange(3.0)[:, None])
    assert load(arrays).returns().tolist() == [3.0]
