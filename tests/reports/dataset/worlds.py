"""Datasets made so that what a report should find in them is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers import load
from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.envs.gridworld.environment import GridWorld
from lightning_offrl.envs.gridworld.layouts import STITCH_POLICIES
from lightning_offrl.reports.dataset.advice import Assessment, assess
from lightning_offrl.reports.dataset.measure import DatasetMeasures, measure


def walks(episodes: int, length: int, act: Any, *, seed: int = 0, size: int = 3) -> Episodes:
    """Random walks of a state on which ``act(state, number of the episode, rng)`` [-1, 1] has no influence."""
    rng = np.random.default_rng(seed)
    observation, action = [], []
    for i in range(episodes):
        state = np.cumsum(0.3 * rng.normal(size=(length + 1, size)), 0)
        state = np.tanh(state / 2)
        observation.append(state)
        action.append(np.stack([act(s, i, rng) for s in state[:-1]]))
    path = np.stack(observation).astype(np.float32)
    actions = np.concatenate(action)
    return from_arrays(
        {
            "observations": path[:, :-1].reshape(-1, size),
            "actions": np.clip(actions, -1, 1).astype(np.float32) if actions.dtype.kind == "f" else actions,
            "rewards": np.ones(episodes * length, dtype=np.float32),
            "terminated": np.zeros(episodes * length, dtype=bool),
            "truncated": np.tile(np.arange(length) == length - 1, episodes),
            "next_observations": path[:, 1:].reshape(-1, size),
        }
    )


def stitch(episodes: int = 5) -> Episodes:
    world = GridWorld("stitch")
    return Episodes.join([load(world.dataset(world.policy_from_text(text), episodes)) for text in STITCH_POLICIES])


def states_of(episodes: Episodes) -> list[int]:
    return episodes.data["observation"].argmax(-1).tolist()


def discounted(steps: int, discount: float = 0.99) -> float:
    return -(1 - discount**steps) / (1 - discount)


def made(
    episodes: int = 60,
    act: Callable[[np.ndarray, int, np.random.Generator], np.ndarray] | None = None,
    reward: Callable[[np.ndarray, np.ndarray, int, np.random.Generator], float] | None = None,
    terminal: bool = True,
    lengths: tuple[int, int] = (20, 40),
    seed: int = 0,
) -> dict[str, Any]:
    """Episodes of a point that is pushed around, with actions and rewards to order."""
    rng = np.random.default_rng(seed)
    act = act or (lambda s, i, rng: np.clip(0.4 * s[:1] + 0.3 * rng.normal(size=1), -1, 1))
    reward = reward or (lambda s, a, i, rng: float(1.0 - a[0] ** 2))
    out: dict[str, list[Any]] = {k: [] for k in ("observations", "next_observations", "actions", "rewards", "ends")}
    for i in range(episodes):
        state, length = rng.normal(size=2), int(rng.integers(*lengths))
        for t in range(length):
            action = np.asarray(act(state, i, rng), dtype=np.float64)
            following = 0.9 * state + 0.2 * np.array([action[0], -action[0]]) + 0.02 * rng.normal(size=2)
            for key, value in zip(
                out, (state, following, action, reward(state, action, i, rng), t == length - 1), strict=True
            ):
                out[key].append(value)
            state = following
    arrays = {key: np.array(value) for key, value in out.items()}
    ends = arrays.pop("ends")
    return {**arrays, "terminated": ends & terminal, "truncated": ends & (not terminal)}


def broken() -> dict[str, Any]:
    """One deterministic policy at its bounds, no terminal marked, every reward 1, a third of the episodes copied."""
    arrays = made(
        40, act=lambda s, i, rng: np.array([0.9999]), reward=lambda *_: 1.0, terminal=False, lengths=(20, 60), seed=1
    )
    first = int(np.flatnonzero(arrays["truncated"])[19]) + 1
    return {key: np.concatenate([value, value[:first]]) for key, value in arrays.items()}


def mixture() -> dict[str, Any]:
    """A good and a bad policy in equal shares, recognisable by their actions."""
    return made(
        80,
        act=lambda s, i, rng: np.clip((0.1 if i % 2 else 0.8) + 0.15 * rng.normal(size=1), -1, 1),
        lengths=(30, 31),
        terminal=False,
    )


def judged(arrays: Any) -> tuple[DatasetMeasures, Assessment]:
    measures = measure(arrays)
    return measures, assess(measures)


def level(assessment: Assessment, topic: str) -> str:
    """Level of the first finding on a topic."""
    return next((one.level for one in assessment.findings if one.topic == topic), "none")
