"""A D4RL file, arrays or `Episodes` written as a local Minari dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_offrl.batch import log_volume, scale_action, unscale_action
from lightning_offrl.data.episodes import Episodes, leaves
from lightning_offrl.data.readers import load, locate
from lightning_offrl.data.readers.arrays import KNOWN, from_arrays
from lightning_offrl.data.readers.borders import SAME_STATE, differ
from lightning_offrl.data.readers.checks import count
from lightning_offrl.data.writers.minari import free_path, store
from lightning_offrl.errors import InputError

STORED = ("observation", "action", "next", "behavior_log_prob", "action_mask", "log")
"""Columns of `Episodes` that a Minari dataset of ours has a place for."""
STORED_NEXT = ("observation", "reward", "terminated", "truncated", "action_mask")


@dataclass
class Converted:
    """A dataset that was written.

    Attributes:
        dataset_id: pass it on as ``--data.source``.
        path: its directory.
        episodes: how many.
        transitions: how many.
        notes: what was cut, fixed or left out.
    """

    dataset_id: str
    path: Path
    episodes: int
    transitions: int
    notes: list[str]

    def __str__(self) -> str:
        head = (
            f"{self.dataset_id}: {self.episodes:,} episodes, {self.transitions:,} transitions, written to {self.path}"
        )
        return "\n".join([head, *(f"  - {note}" for note in self.notes)])


def convert(
    source: Any,
    dataset_id: str,
    *,
    environment: str | None = None,
    references: tuple[float, float] | None = None,
    description: str | None = None,
    overwrite: bool = False,
) -> Converted:
    """Write a dataset into Minari's local store, so that it loads as the same episodes.

    The dataset is written under a temporary name and renamed, so that it is there whole or not at all; what killed
    processes of this computer left half written there is removed, and a note says so. Observations are
    stored as read (float32, one-hot for numbered states, pictures without loss), actions in the environment's units,
    logged log-densities as ``infos/behavior_log_prob``, masks of legal actions as ``infos/action_mask``, times and
    groups of imported logs as ``infos/log``, with the names and units of all columns. What has no place there is left
    out, and a note names it.

    Args:
        source: The dataset, anything that `load` takes.
        dataset_id: The new id, ``namespace/name-v0``.
        environment: The Gymnasium id; None takes what the source says.
        references: The raw returns that score 0 and 100; None takes what the source says.
        description: A text that is stored with the dataset.
        overwrite: Whether a dataset of this id is replaced.

    Raises:
        InputError: for a malformed or existing id, an environment that does not exist or does not fit, episodes whose
            steps (observations or masks) do not follow each other, and all that `load` raises.
    """
    target, removed = free_path(dataset_id, overwrite)
    episodes, unread = _read(source, environment)
    notes = list(episodes.notes)
    _check_continuity(episodes, notes)
    notes += _left_out(episodes, unread)
    env_spec, space = _environment(environment, episodes, notes)
    actions, action_space = _actions(episodes, space)
    references = references or episodes.references
    metadata: dict[str, Any] = {
        "algorithm_name": "converted by lightning_offrl",
        "description": description or f"Converted from {episodes.name}.",
    }
    if env_spec is not None:
        metadata["eval_env_spec"] = env_spec.to_json()
    if references is not None:
        metadata["ref_min_score"], metadata["ref_max_score"] = (float(value) for value in references)
    if episodes.columns:
        metadata["columns"] = episodes.columns
    space = _observation_space(episodes.spec["observation_shape"], episodes.data["observation"])
    buffers = _buffers(episodes, actions)
    store(buffers, space, action_space, env_spec, dataset_id, target, lambda: metadata)
    return Converted(dataset_id, target, episodes.n_episodes, len(episodes), [*notes, *removed])


def _read(source: Any, environment: str | None) -> tuple[Episodes, set[str]]:
    """The episodes, and the names of what they leave unread in the source."""
    # Straight from the file: its environment decides on the bounds of actions, and known references stay out.
    if isinstance(source, Mapping):
        unread = {str(key) for key in source} - KNOWN
        return from_arrays(source if environment is None else {**source, "environment": environment}), unread
    if not isinstance(source, str | Path):
        return load(source), set()
    place = locate(source)
    return place.read(environment, ask=True), place.reader.unread(place.path)


def _check_continuity(episodes: Episodes, notes: list[str]) -> None:
    """Minari stores each observation, and each mask, once: those of the next step must be those after this one."""
    data = episodes.data
    observation, following = (_numpy(data[key]) for key in ("observation", ("next", "observation")))
    inside = np.ones(len(episodes), dtype=bool)
    inside[(episodes.start + episodes.length - 1).numpy()] = False
    jumps = [("observation", np.append(differ(following, observation), False), f" (by more than {SAME_STATE:g})")]
    if "action_mask" in data.keys():
        mask, after = data["action_mask"].numpy(), data["next", "action_mask"].numpy()
        jumps.append(("action mask", np.append((after[:-1] != mask[1:]).any(1), False), ""))
    for what, jump, much in jumps:
        rows = np.flatnonzero(jump & inside)
        if len(rows):
            row = int(rows[0])
            number = int(episodes.episode_index()[row])
            raise InputError(
                f"{episodes.name} cannot be written as a Minari dataset: the next {what} of episode {number}, step "
                f"{row - int(episodes.start[number])} is not the {what} of the following step{much}, but Minari stores "
                f"each {what} once"
            )
    unequal = int((np.append(differ(following, observation, 0.0), False) & inside).sum())
    if unequal:
        notes.append(
            f"left out: {count(unequal, 'next observation')} that differed from the following step's by rounding (less "
            f"than {SAME_STATE:g}); the following step's stand there"
        )


def _left_out(episodes: Episodes, unread: set[str]) -> list[str]:
    """A sentence on what the new dataset will not have, if anything: columns, and ``unread``, what is in files beside.

    Minari's infos would take more, but nothing would read it again.
    """
    paths = {path[:2] for path, _ in leaves(episodes.data)}
    lost = {".".join(p) for p in paths if p[0] not in STORED or p[0] == "next" and p[1] not in STORED_NEXT} | unread
    out = sorted(lost)
    if not _finite_log_prob(episodes):
        out.append("behavior_log_prob (not all of its numbers are finite)")
    if "log" in episodes.data.keys() and not episodes.columns.get("log"):
        out.append("log (its columns have no names)")
    return [f"left out of the new dataset: {', '.join(out)}"] if out else []


def _finite_log_prob(episodes: Episodes) -> bool:
    log_prob = episodes.data.get("behavior_log_prob", None)
    return log_prob is None or bool(log_prob.isfinite().all())


def _environment(environment: str | None, episodes: Episodes, notes: list[str]) -> tuple[Any, Any]:
    """Specification and action space of the environment; None where the source names one that cannot be made here."""
    from lightning_offrl.envs.make import make_environment

    name = environment or episodes.environment
    if name is None:
        return None, None
    try:
        env = make_environment(name, trusted=environment is not None)
    except InputError as problem:
        if environment is not None:
            raise
        notes.append(f"the environment was left out of the dataset: {problem}")
        return None, None
    env_spec, space = env.spec, env.action_space
    env.close()
    size = int(np.prod(space.shape)) if hasattr(space, "low") else int(getattr(space, "n", 0))
    kind = "box" if hasattr(space, "low") else "discrete"
    if (kind, size) != (episodes.spec["action_kind"], episodes.spec["action_size"]):
        raise InputError(
            f"{name} does not fit the data: its actions are {kind} of size {size}, those of {episodes.name} "
            f"{episodes.spec['action_kind']} of size {episodes.spec['action_size']}"
        )
    return env_spec, space


def _actions(episodes: Episodes, space: Any) -> tuple[np.ndarray, Any]:
    """Actions in the environment's units, and their space."""
    from gymnasium import spaces

    spec, scaled = episodes.spec, episodes.data["action"].numpy()
    if spec["action_kind"] == "discrete":
        return scaled, spaces.Discrete(spec["action_size"])
    low, high = np.asarray(spec["action_low"]), np.asarray(spec["action_high"])
    exact = unscale_action(scaled.astype(np.float64), spec)
    if space is not None and not (np.array_equal(space.low.ravel(), low) and np.array_equal(space.high.ravel(), high)):
        raise InputError(
            f"{episodes.name} was read with the action bounds {low.tolist()} to {high.tolist()}, but the environment "
            f"has {space.low.ravel().tolist()} to {space.high.ravel().tolist()}; read it with action_space set to the "
            "environment's"
        )
    # float32 as environments log them, unless reading it back would not give the same numbers.
    single = exact.astype(np.float32)
    again = np.clip(scale_action(single.astype(np.float64), spec), -1.0, 1.0).astype(np.float32)
    bounds = np.array([low, high])
    values = single if np.array_equal(again, scaled) and np.array_equal(bounds.astype(np.float32), bounds) else exact
    return values, spaces.Box(low.astype(values.dtype), high.astype(values.dtype), dtype=values.dtype.type)


def _observation_space(shape: Any, value: Any) -> Any:
    from gymnasium import spaces

    if isinstance(shape, dict):
        return spaces.Dict({key: _observation_space(inner, value[key]) for key, inner in shape.items()})
    if value.dtype == torch.uint8:
        return spaces.Box(0, 255, tuple(shape), np.uint8)
    return spaces.Box(-np.inf, np.inf, tuple(shape), np.float32)


def _numpy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.numpy()
    return {key: _numpy(inner) for key, inner in value.items()}


def _with_last(observation: Any, following: Any, first: int, last: int) -> Any:
    """The T + 1 observations (or masks) of one episode."""
    if isinstance(observation, dict):
        return {key: _with_last(observation[key], following[key], first, last) for key in observation}
    return np.concatenate([observation[first : last + 1], following[last : last + 1]])


def _buffers(episodes: Episodes, actions: np.ndarray) -> Iterator[Any]:
    from minari.data_collector.episode_buffer import EpisodeBuffer

    data = episodes.data
    observation, following = _numpy(data["observation"]), _numpy(data["next", "observation"])
    reward, terminated, truncated = (data["next", key].numpy() for key in ("reward", "terminated", "truncated"))
    log_prob = data.get("behavior_log_prob", None) if _finite_log_prob(episodes) else None
    log = data.get("log", None) if episodes.columns.get("log") else None
    if log_prob is not None:
        log_prob = log_prob.double().numpy() - log_volume(episodes.spec)
    mask, next_mask = (data.get(key, None) for key in ("action_mask", ("next", "action_mask")))
    for number, (start, length) in enumerate(zip(episodes.start.tolist(), episodes.length.tolist(), strict=True)):
        rows = slice(start, start + length)
        infos = {} if log_prob is None else {"behavior_log_prob": log_prob[rows]}
        if log is not None:
            infos["log"] = log[rows].numpy()
        if mask is not None:
            infos["action_mask"] = _with_last(mask.numpy(), next_mask.numpy(), start, start + length - 1)
        yield EpisodeBuffer(
            id=number,
            observations=_with_last(observation, following, start, start + length - 1),
            actions=actions[rows],
            rewards=reward[rows],
            terminations=terminated[rows],
            truncations=truncated[rows],
            infos=infos,
        )
