"""Grids as text, as a picture and as a film."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np

from lightning_offrl.envs.gridworld.environment import GridWorld
from lightning_offrl.envs.video import record

UP, LEFT, RIGHT, DOWN = range(4)


def test_drawings(tmp_path: Path) -> None:
    env = gymnasium.make("offrl/GridWorld-cliff-v0", render_mode="ansi")
    env.reset(seed=0)
    env.step(UP)
    assert env.render().splitlines()[2:] == ["@.........", "SCCCCCCCCG"]
    env.step(DOWN)
    env.step(RIGHT)
    assert env.render().splitlines()[3] == "S@CCCCCCCG"  # where it fell
    world = GridWorld("cliff")
    best = world.mdp.optimal(0.99)
    image = world.picture(values=best.value, policy=best.policy, agent=0, cell=20)
    assert image.shape == (80, 200, 3) and image.dtype == np.uint8
    assert (image[70, 190] == (104, 176, 116)).all() and (image[10, 10] == (226, 129, 42)).all()
    bright = image.astype(int).sum(-1)
    assert bright[2, 182] > bright[2, 2]  # the floor is lighter near the goal
    path, total, frames = record(
        lambda observation: int(world.controller()(observation)), "offrl/GridWorld-cliff-v0", tmp_path / "grid.gif"
    )
    assert total == -11.0 and frames == 12 and path.stat().st_size > 1000
