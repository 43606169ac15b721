"""The schema of batches: what `check` refuses, scaled actions, TorchRL's layout."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from lightning_offrl.batch import (
    TRANSITION,
    check,
    from_torchrl,
    log_volume,
    nested,
    observation_leaves,
    scale_action,
    to_torchrl,
    unscale_action,
)
from lightning_offrl.errors import InputError

SPEC: dict[str, Any] = {
    "observation_shape": [3],
    "action_kind": "box",
    "action_size": 2,
    "action_low": [-2.0, 0.0],
    "action_high": [2.0, 1.0],
}


def batch(**changes: torch.Tensor) -> TensorDict:
    data = {
        "observation": torch.zeros(4, 3),
        "action": torch.zeros(4, 2),
        "next": {
            "observation": torch.zeros(4, 3),
            "reward": torch.zeros(4),
            "terminated": torch.zeros(4, dtype=torch.bool),
            "truncated": torch.zeros(4, dtype=torch.bool),
        },
        "discount": torch.ones(4),
    }
    return TensorDict({**data, **changes}, batch_size=[4])


def test_a_batch_as_it_should_be_passes() -> None:
    check(batch(), SPEC)
    check(batch().expand(5, 4), SPEC)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"observation": torch.zeros(4, 2)}, r"observation has shape \[4, 2\], expected \[4, 3\]"),
        ({"action": torch.zeros(4, 3)}, r"action has shape \[4, 3\], expected \[4, 2\]"),
        ({"discount": torch.ones(4, 1)}, r"discount has shape \[4, 1\], .*without a trailing 1"),
        ({"action_mask": torch.ones(4, 2)}, "action_mask is torch.float32 .* expected bool"),
    ],
)
def test_what_is_refused(changes: dict[str, torch.Tensor], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check(batch(**changes), SPEC)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(InputError, match="lacks 'mc_return', which this algorithm reads; it has"):
        check(batch(), SPEC, (*TRANSITION, "mc_return"))


def test_actions_there_and_back() -> None:
    action = np.array([[-2.0, 1.0], [1.0, 0.25]])
    assert scale_action(action, SPEC).tolist() == [[-1.0, 1.0], [0.5, -0.5]]
    scaled = scale_action(torch.tensor(action), SPEC)
    torch.testing.assert_close(unscale_action(scaled, SPEC), torch.tensor(action))
    assert log_volume(SPEC) == pytest.approx(math.log(2.0) + math.log(0.5))
    discrete = {**SPEC, "action_kind": "discrete"}
    assert scale_action(3, discrete) == unscale_action(3, discrete) == 3 and log_volume(discrete) == 0.0


def test_torchrl_s_layout_there_and_back() -> None:
    given = batch()
    given["next", "terminated"][1] = True
    theirs = to_torchrl(given)
    assert theirs["next", "reward"].shape == (4, 1) and theirs["next", "done"].tolist() == [[0], [1], [0], [0]]
    back = from_torchrl(theirs)
    assert (back == given).all() and set(back.keys(True)) == set(given.keys(True))
    with pytest.raises(InputError, match="TorchRL's layout would be"):
        from_torchrl(given)


def test_nested_observations() -> None:
    shape = {"body": {"x": [2]}, "camera": [4, 4]}
    assert observation_leaves(shape) == {("body", "x"): [2], ("camera",): [4, 4]}
    assert observation_leaves([3]) == {(): [3]}
    stored = nested({"body": {"x": np.zeros((5, 2))}, "camera": np.zeros((5, 4, 4))}, [5])
    assert stored["body", "x"].shape == (5, 2) and stored.batch_size == (5,)
