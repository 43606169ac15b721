"""Gymnasium spaces described in plain values, and observations in the form of the batch."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from lightning_offrl.envs.spaces import encode_observation, make_spec, without_mask
from lightning_offrl.errors import InputError

BOX = spaces.Box(-1.0, 1.0, (2,))


def test_spaces_in_plain_values() -> None:
    nested = spaces.Dict({"camera": spaces.Box(0, 255, (4, 4, 3), np.uint8), "body": spaces.Dict({"x": BOX})})
    assert make_spec(nested, spaces.Box(np.array([[-2.0], [0.0]]), np.array([[2.0], [1.0]]), dtype=np.float64)) == {
        "observation_shape": {"body": {"x": [2]}, "camera": [4, 4, 3]},
        "action_kind": "box",
        "action_size": 2,
        "action_low": [-2.0, 0.0],
        "action_high": [2.0, 1.0],
    }
    assert make_spec(spaces.Discrete(5), spaces.Discrete(3)) == {
        "observation_shape": [5],
        "action_kind": "discrete",
        "action_size": 3,
    }


@pytest.mark.parametrize(
    ("observation", "action", "said"),
    [
        (spaces.Text(3), BOX, "observation space Text is not supported"),
        (spaces.Dict({"a": spaces.Text(3)}), BOX, "observation.a space Text is not supported"),
        (BOX, spaces.MultiDiscrete([2, 2]), "action space MultiDiscrete is not supported"),
        (BOX, spaces.Discrete(3, start=1), "counted from 0, these start at 1"),
        (BOX, spaces.Box(-np.inf, np.inf, (1,)), "must have finite bounds"),
    ],
)
def test_what_is_refused(observation: spaces.Space, action: spaces.Space, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_spec(observation, action)


def test_a_mask_of_legal_actions_is_no_part_of_the_observation() -> None:
    mask = spaces.Box(0, 1, (3,), np.int8)
    both = spaces.Dict({"x": BOX, "action_mask": mask})
    assert without_mask(both, spaces.Discrete(3)) == spaces.Dict({"x": BOX})
    for other in (BOX, spaces.Discrete(4)):  # continuous actions, or another number of them
        assert without_mask(both, other) is both
    alone = spaces.Dict({"action_mask": mask})
    assert without_mask(alone, spaces.Discrete(3)) is alone


def test_observations_in_the_form_of_the_batch() -> None:
    assert encode_observation(np.array([2, 4]), spaces.Discrete(3, start=2)).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert encode_observation(1.5, spaces.Box(0.0, 2.0, ())).tolist() == [1.5]
    vector = encode_observation(np.array([0.1, 0.2]), BOX)
    assert vector.dtype == np.float32
    picture = np.zeros((2, 2, 3), np.uint8)
    assert encode_observation(picture, spaces.Box(0, 255, (2, 2, 3), np.uint8)).dtype == np.uint8
    both = spaces.Dict({"b": BOX, "a": spaces.Discrete(2)})
    assert list(encode_observation({"a": 1, "b": [0.0, 1.0]}, both)) == ["a", "b"]
