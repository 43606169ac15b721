"""Layouts of grids: those that come with the package, and drawings that cannot be one."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_offrl.data.readers import load
from lightning_offrl.envs.gridworld.environment import GridWorld
from lightning_offrl.envs.gridworld.layouts import STITCH_HALVES
from lightning_offrl.errors import InputError


def test_halves_that_reach_the_goal_only_together() -> None:
    world = GridWorld("stitch")
    first, second = (world.policy_from_text(text) for text in STITCH_HALVES)
    one = load(world.dataset(first, 1, horizon=30))
    other = load(world.dataset(second, 1, horizon=30, start=world.state(0, 4)))
    assert one.returns().tolist() == [-30.0] and not one.data["next", "terminated"].any()
    assert other.returns().tolist() == [-9.0] and other.data["next", "terminated"].sum() == 1
    assert other.data["observation"][0].argmax() == world.state(0, 4)
    assert world.mdp.expected_return(second, 9) == -9.0  # from the start it only wanders
    there = np.eye(world.mdp.n_states)[world.state(0, 4)]
    seen = np.maximum(world.mdp.visits(first, 30), world.mdp.visits(second, 30, there)) > 0
    allowed = np.where(seen, world.mdp.optimal(0.99).action_value, -np.inf)
    assert world.mdp.expected_return(world.mdp.deterministic(allowed.argmax(-1)), 50) == -10.0


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("clif", "there is no layout 'clif': name one of corridor"),
        ("", "the drawing is empty"),
        ("..G", "has no start; mark one with S"),
        ("S..", "has no goal; mark one with G"),
        ("S..\n..G.", "the first has 3 characters, line 2 has 4"),
        ("S.x\n..G", "has 'x' at row 0, column 2"),
        ("S#G", "no goal can be reached from the start at row 0, column 0"),
        ("SCG\n.#S", "no goal can be reached from the start at row 0, column 0"),
        (3, "or a drawing, got int"),
    ],
)
def test_bad_layouts(layout: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        GridWorld(layout)
