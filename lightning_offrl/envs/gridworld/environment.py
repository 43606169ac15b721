"""GridWorld: a Gymnasium environment from a drawing, whose values and distributions are known exactly.

    '#' wall   '.' floor   'S' start (of several, a random one)   'G' goal, ends the episode
    'C' cliff, ends the episode   '^' 'v' '<' '>' floor with wind

A step goes up, left, right or down (actions 0 to 3, so action 3 - a is the opposite of a); into a wall or over the
edge it stays where it is. With probability ``slip`` it goes to one of the two sides instead. Leaving a cell with
wind, it goes where the wind blows instead with probability ``wind``, whatever the action. Every step earns
``step_reward``, one into a goal ``goal_reward`` on top, one into a cliff ``cliff_reward`` on top.

    world = make_environment("offrl/GridWorld-v0").unwrapped         or GridWorld("cliff"), GridWorld(drawing)
    world.mdp.optimal(0.99)                                          all that is exact, see `tabular.TabularMDP`
    world.dataset(policy, 100)                                       episodes at once, the source of a data module

Learning here wants targets that follow faster than by default (`SoftTargetUpdate`, tau 0.05 and not 0.005): a value
moves one cell further in about 1 / tau updates. `configs/discrete_cql_gridworld.yaml` is an example.

Importing this module registers ``offrl/GridWorld-v0`` (four rooms) and ``offrl/GridWorld-<layout>-v0`` for each layout
below, cut after 100 steps; `grid_id` names any other.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from lightning_offrl.envs.gridworld.layouts import LAYOUTS, read_layout, read_lines, size_text
from lightning_offrl.envs.gridworld.picture import ARROWS, MOVES, draw
from lightning_offrl.envs.tabular import TabularMDP
from lightning_offrl.errors import InputError

ACTIONS = ("up", "left", "right", "down")
HORIZON = 100
"""Steps after which the registered environments truncate; a bare `GridWorld` never does."""
ENTRY_POINT = "lightning_offrl.envs.gridworld:GridWorld"


class GridWorld(gymnasium.Env):
    """One grid; the module's docstring says what happens in it.

    Args:
        layout: a name in `LAYOUTS`, or a drawing of lines of equal length (surrounding blank space is cut off).
        observation: ``"one-hot"``, float32 ``[n_states]``; or ``"coordinates"``, float32 ``[2]``: row and column, each
            from -1 (first) to 1 (last).
        step_reward: The reward of every step.
        goal_reward: The additional reward for reaching a goal.
        cliff_reward: The additional reward for falling off a cliff.
        slip: probability that a step goes to the side, half of it to each.
        wind: probability that the wind takes over a step from a cell where it blows.
        render_mode: ``"ansi"``, ``"rgb_array"`` or None.

    Raises:
        InputError: a drawing without start or goal, with lines of unequal length or unknown characters, or with a
            start from which no goal can be reached; a probability outside [0, 1].
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 6}

    def __init__(
        self,
        layout: str = "four-rooms",
        *,
        observation: str = "one-hot",
        step_reward: float = -1.0,
        goal_reward: float = 0.0,
        cliff_reward: float = -100.0,
        slip: float = 0.0,
        wind: float = 0.5,
        render_mode: str | None = None,
    ):
        for name, value in (("slip", slip), ("wind", wind)):
            if not 0.0 <= value <= 1.0:
                raise InputError(f"{name} is a probability from 0 to 1, got {value}")
        if observation not in ("one-hot", "coordinates"):
            raise InputError(f"observation must be 'one-hot' or 'coordinates', got {observation!r}")
        if render_mode not in (None, "ansi", "rgb_array"):
            raise InputError(f"render_mode must be 'ansi', 'rgb_array' or None, got {render_mode!r}")
        self.grid = read_layout(layout)
        given: dict[str, Any] = {"layout": layout, "observation": observation, "step_reward": step_reward}
        given |= {"goal_reward": goal_reward, "cliff_reward": cliff_reward, "slip": slip, "wind": wind}
        self._arguments = {name: value for name, value in given.items() if value != _DEFAULTS[name]}
        self.render_mode = render_mode
        rows, columns = np.nonzero(self.grid != "#")
        self.cells = np.stack([rows, columns], -1)
        """``[n_states, 2]``, row and column of each state; walls are no states, goals and cliffs are."""
        self._state_at = np.full(self.grid.shape, -1)
        self._state_at[rows, columns] = np.arange(len(rows))
        self._signs = self.grid[rows, columns]
        terminal = np.isin(self._signs, ["G", "C"])
        arrival = step_reward + goal_reward * (self._signs == "G") + cliff_reward * (self._signs == "C")
        start = (self._signs == "S") / (self._signs == "S").sum()
        self.mdp = TabularMDP(self._transition(slip, wind), arrival, terminal, start)
        """The same process for exact computation."""
        self._must_be_possible()
        self.observations = np.eye(len(rows), dtype=np.float32)
        """``[n_states, D]``, what is observed in each state."""
        if observation == "coordinates":
            last = np.maximum(np.array(self.grid.shape) - 1, 1)
            self.observations = (2.0 * self.cells / last - 1.0).astype(np.float32)
        low = 0.0 if observation == "one-hot" else -1.0
        self.observation_space = spaces.Box(low, 1.0, self.observations.shape[1:], np.float32)
        self.action_space = spaces.Discrete(len(ACTIONS))
        self._state: int | None = None

    # -- Gymnasium ---------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; ``options={"state": s}`` begins it in that state. ``info["state"]`` is the state."""
        super().reset(seed=seed)
        given = (options or {}).get("state")
        if given is None:
            self._state = int(self.np_random.choice(self.mdp.n_states, p=self.mdp.start))
        elif 0 <= given < self.mdp.n_states and not self.mdp.terminal[given]:
            self._state = int(given)
        else:
            raise InputError(f"state {given} is no place to start: there are {self.mdp.n_states}, some of them the end")
        return self.observations[self._state].copy(), {"state": self._state}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; truncation is left to Gymnasium's ``TimeLimit``."""
        if self._state is None:
            raise InputError("reset the environment before the first step, and after the end of an episode")
        if not self.action_space.contains(action):
            raise InputError(f"actions are integers from 0 to {len(ACTIONS) - 1}, got {action!r}")
        state = self._state
        following = int(self.np_random.choice(self.mdp.n_states, p=self.mdp.transition[state, action]))
        terminated = bool(self.mdp.terminal[following])
        reward = float(self.mdp.step_reward[state, action, following])
        self._shown = following
        self._state = None if terminated else following
        return self.observations[following].copy(), reward, terminated, False, {"state": following}

    def render(self) -> Any:
        """The grid with the agent in it: text for ``"ansi"``, uint8 ``[H, W, 3]`` for ``"rgb_array"``."""
        agent = self._shown if self._state is None else self._state
        if self.render_mode == "ansi":
            return self.text(agent)
        return self.picture(agent=agent) if self.render_mode == "rgb_array" else None

    _shown: int | None = None

    # -- states and policies -----------------------------------------------------------------------------------------

    def state(self, row: int, column: int) -> int:
        """The number of the state at a cell.

        Raises:
            InputError: for a wall, or a cell outside.
        """
        inside = 0 <= row < self.grid.shape[0] and 0 <= column < self.grid.shape[1]
        if not inside or self._state_at[row, column] < 0:
            raise InputError(f"there is no state at row {row}, column {column}: it is a wall or outside")
        return int(self._state_at[row, column])

    def state_of(self, observation: Any) -> np.ndarray:
        """Observations ``[..., D]`` back to states, int64 ``[...]``: the nearest."""
        observation = np.asarray(observation, dtype=np.float32)
        if len(self.observations) == observation.shape[-1] > 2:
            return observation.argmax(-1)
        return np.square(observation[..., None, :] - self.observations).sum(-1).argmin(-1)

    def controller(self, discount: float = 0.99) -> Callable[[Any], np.ndarray]:
        """The optimal policy as a function of raw observations ``[..., D]`` to int64 actions ``[...]``."""
        actions = self.mdp.optimal(discount).policy.argmax(-1)
        return lambda observation: actions[self.state_of(observation)]

    def policy_from_text(self, drawing: str) -> np.ndarray:
        """A policy ``[n_states, 4]`` from arrows ``^ v < >`` at their cells; elsewhere it is uniformly random.

        Raises:
            InputError: a drawing of another size.
        """
        signs = read_lines(drawing)
        if signs.shape != self.grid.shape:
            raise InputError(f"the drawing has {size_text(signs)}, the grid {size_text(self.grid)}")
        policy = self.mdp.uniform()
        for state, sign in enumerate(signs[self.cells[:, 0], self.cells[:, 1]]):
            if sign in ARROWS:
                policy[state] = np.eye(len(ACTIONS))[ARROWS.index(sign)]
        return policy

    def id(self, max_episode_steps: int = HORIZON) -> str:
        """The name of this world wherever the id of an environment is needed; see `grid_id`.

        Args:
            max_episode_steps: when episodes are truncated.
        """
        layout = self._arguments.get("layout", "")
        if max_episode_steps == HORIZON and not set(self._arguments) - {"layout"} and layout in ("", *LAYOUTS):
            return f"offrl/GridWorld-{layout}-v0" if layout else "offrl/GridWorld-v0"
        return grid_id(max_episode_steps=max_episode_steps, **self._arguments)

    def references(self, horizon: int = HORIZON) -> tuple[float, float] | None:
        """The returns that score 0 and 100: exact expectations for random actions and for the optimal policy.

        Args:
            horizon: episodes are truncated after so many steps.

        Returns:
            None where both are equal, which leaves no scale.
        """
        policies = (self.mdp.uniform(), self.mdp.optimal(0.99).policy)
        low, high = (self.mdp.expected_return(policy, horizon) for policy in policies)
        return (low, high) if high > low else None

    def dataset(
        self, policy: np.ndarray, episodes: int, *, horizon: int = HORIZON, seed: int = 0, start: int | None = None
    ) -> dict[str, Any]:
        """Episodes of a policy drawn all at once, as the dictionary that a data module takes for its ``source``.

        Args:
            policy: ``[n_states, 4]``.
            episodes: The number of episodes.
            horizon: episodes are truncated after so many steps, here and where the data's environment is played.
            seed: The seed of the draws.
            start: the state in which all of them begin; None: as the world begins.

        Returns:
            ``observations``, ``next_observations``, ``actions``, ``rewards``, ``terminated``, ``truncated``,
            ``behavior_log_prob``, the numbers of the states as ``infos/state`` and ``infos/next_state``, the spaces,
            the environment's id, its references and a name.
        """
        first = None if start is None else np.eye(self.mdp.n_states)[start]
        drawn = self.mdp.sample_transitions(policy, episodes, horizon, seed, first)
        return {
            "observations": self.observations[drawn["state"]],
            "next_observations": self.observations[drawn["next_state"]],
            "actions": drawn["action"],
            "rewards": drawn["reward"],
            "terminated": drawn["terminated"],
            "truncated": drawn["truncated"],
            "behavior_log_prob": drawn["log_prob"],
            "infos/state": drawn["state"],
            "infos/next_state": drawn["next_state"],
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "environment": self.id(horizon),
            "references": self.references(horizon),
            "name": f"{grid_name(self._arguments, horizon)}, {episodes} episodes with seed {seed}",
        }

    # -- pictures ----------------------------------------------------------------------------------------------------

    def text(self, agent: int | None = None) -> str:
        """The drawing, with '@' where the agent is."""
        signs = self.grid.copy()
        if agent is not None:
            signs[tuple(self.cells[agent])] = "@"
        return "\n".join("".join(line) for line in signs)

    def picture(
        self,
        *,
        values: np.ndarray | None = None,
        policy: np.ndarray | None = None,
        agent: int | None = None,
        cell: int = 32,
    ) -> np.ndarray:
        """The grid as pixels.

        Args:
            values: ``[n_states]``, colors the floor from dark (smallest) to light (largest).
            policy: ``[n_states, 4]``, drawn as arrows as large as their probability.
            agent: The state of the agent.
            cell: pixels a side.

        Returns:
            uint8 ``[rows * cell, columns * cell, 3]``.
        """
        return draw(self.grid, self.cells, self.mdp.terminal, values=values, policy=policy, agent=agent, cell=cell)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _transition(self, slip: float, wind: float) -> np.ndarray:
        n, k = len(self.cells), len(ACTIONS)
        target = self.cells[:, None] + MOVES  # [S, A, 2]
        inside = ((target >= 0) & (target < self.grid.shape)).all(-1)
        reached = self._state_at[tuple(np.where(inside[..., None], target, 0).transpose(2, 0, 1))]
        blocked = ~inside | (reached < 0)
        reached = np.where(blocked, np.arange(n)[:, None], reached)  # [S, A]
        # The direction that a step really takes, given the action: [S, action, direction].
        side = np.array([[abs(int(a @ b)) == 0 for b in MOVES] for a in MOVES]) / 2.0
        direction = np.broadcast_to((1.0 - slip) * np.eye(k) + slip * side, (n, k, k)).copy()
        for state, sign in enumerate(self._signs):
            if sign in ARROWS:
                direction[state] = (1.0 - wind) * direction[state] + wind * np.eye(k)[ARROWS.index(sign)]
        transition = np.zeros((n, k, n))
        for d in range(k):
            np.add.at(transition, (np.arange(n)[:, None], np.arange(k), reached[:, d, None]), direction[:, :, d])
        return transition

    def _must_be_possible(self) -> None:
        step = self.mdp.transition.max(1) > 0.0
        good = self._signs == "G"
        while True:
            more = good | step[:, good].any(-1)
            if (more == good).all():
                break
            good = more
        lost = np.flatnonzero((self.mdp.start > 0.0) & ~good)
        if len(lost):
            row, column = self.cells[lost[0]]
            raise InputError(f"no goal can be reached from the start at row {row}, column {column} of the layout")


_DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(GridWorld).parameters.items()}


def grid_id(layout: str = "four-rooms", *, max_episode_steps: int = HORIZON, **arguments: Any) -> str:
    """The name of a grid of your own wherever the id of an environment is needed: its specification as JSON.

    Args:
        layout: The layout, as for `GridWorld`.
        max_episode_steps: when episodes are truncated.
        arguments: all others of `GridWorld`.
    """
    from gymnasium.envs.registration import EnvSpec

    GridWorld(layout, **arguments)  # refuse here what could not be made later
    spec = EnvSpec(
        "offrl/GridWorld-v0",
        entry_point=ENTRY_POINT,
        max_episode_steps=max_episode_steps,
        kwargs={"layout": layout, **arguments},
    )
    return str(spec.to_json())


def grid_name(arguments: dict[str, Any], max_episode_steps: int | None = HORIZON) -> str:
    r"""A short name of a grid for texts and titles.

    Args:
        arguments: The arguments of `GridWorld`; those left out have their defaults.
        max_episode_steps: when episodes are truncated.

    >>> grid_name({"layout": "cliff", "cliff_reward": -20.0}, 30)
    'GridWorld-cliff (cliff reward -20, 30 steps)'
    >>> grid_name({"layout": "S..\n..G"})
    'GridWorld of 2 x 3 cells'
    """
    layout = arguments.get("layout", "four-rooms")
    name = f"GridWorld-{layout}"
    if layout not in LAYOUTS:
        rows, columns = read_lines(layout).shape
        name = f"GridWorld of {rows} x {columns} cells"
    changed = {k: v for k, v in arguments.items() if k != "layout" and v != _DEFAULTS.get(k)}
    words = [f"{k.replace('_', ' ')} {v:g}" if isinstance(v, int | float) else str(v) for k, v in changed.items()]
    if max_episode_steps is not None and max_episode_steps != HORIZON:
        words.append(f"{max_episode_steps} steps")
    return f"{name} ({', '.join(words)})" if words else name


def register() -> None:
    """Make Gymnasium know ``offrl/GridWorld-v0`` and one id for each layout; done when this module is imported."""
    names: dict[str, dict[str, Any]] = {"offrl/GridWorld-v0": {}}
    names.update({f"offrl/GridWorld-{layout}-v0": {"layout": layout} for layout in LAYOUTS})
    for name, arguments in names.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=ENTRY_POINT, max_episode_steps=HORIZON, kwargs=arguments)


register()
