"""An environment that raises on an illegal action, and says in ``info["action_mask"]`` which are legal."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

STATES, ACTIONS = 8, 5


class IllegalAction(RuntimeError):
    """What a real system would not let happen."""


class Forbidding(gymnasium.Env):
    """A ring of states; action a is illegal where 3 divides state + a. After a terminal step nothing is legal.

    Args:
        in_observation: the mask is in a dict observation instead of the info.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, in_observation: bool = False, render_mode: str | None = None) -> None:
        self.in_observation, self.render_mode = in_observation, render_mode
        ring = gymnasium.spaces.Box(0.0, 1.0, (STATES,), np.float32)
        mask = gymnasium.spaces.Box(0, 1, (ACTIONS,), np.int8)
        self.observation_space = gymnasium.spaces.Dict({"ring": ring, "action_mask": mask}) if in_observation else ring
        self.action_space = gymnasium.spaces.Discrete(ACTIONS)
        self.state, self.over = 0, False

    def _seen(self) -> tuple[Any, dict[str, Any]]:
        mask = legal(self.state) & (not self.over)
        ring = np.eye(STATES, dtype=np.float32)[self.state]
        if self.in_observation:
            return {"ring": ring, "action_mask": mask.astype(np.int8)}, {}
        return ring, {"action_mask": mask.astype(np.int8)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state, self.over = int(self.np_random.integers(STATES)), False
        return self._seen()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not legal(self.state)[int(action)]:
            raise IllegalAction(f"action {action} in state {self.state}")
        self.state = (self.state + int(action) + int(self.np_random.integers(2))) % STATES
        self.over = bool(self.np_random.random() < 0.1)
        observation, info = self._seen()
        return observation, float(action), self.over, False, info

    def render(self) -> np.ndarray:
        return np.full((16, 16, 3), 30 * self.state, dtype=np.uint8)


def legal(state: int) -> np.ndarray:
    """Which actions a state allows, ``[5]`` bool."""
    return (state + np.arange(ACTIONS)) % 3 != 0


for _name, _kwargs in (("Forbidding-v0", {}), ("ForbiddingDict-v0", {"in_observation": True})):
    gymnasium.register(f"offrl-tests/{_name}", "tests.envs.forbidding:Forbidding", max_episode_steps=12, kwargs=_kwargs)
INFO, DICT = "offrl-tests/Forbidding-v0", "offrl-tests/ForbiddingDict-v0"
