"""A D4RL file, arrays or `Episodes` written as a local Minari dataset."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_offrl.batch import log_volume, scale_action, unscale_action
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.sources import load, locate
from lightning_offrl.data.sources.arrays import SAME_STATE, differ, read
from lightning_offrl.errors import InputError


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

    The dataset is written under a temporary name and renamed, so that it is there whole or not at all. Observations are
    stored as read (float32, one-hot for numbered states, pictures without loss), actions in the environment's units,
    logged log-densities as ``infos/behavior_log_prob``, masks of legal actions as ``infos/action_mask``.

    Args:
        source: anything that `load` takes.
        dataset_id: ``namespace/name-v0``.
        environment: Gymnasium id; None: what the source says.
        references: raw returns that score 0 and 100; None: what the source says.
        description: stored with the dataset.
        overwrite: replace a dataset of this id.

    Raises:
        InputError: for a malformed or existing id, an environment that does not exist or does not fit, episodes whose
            steps do not follow each other, and all that `load` raises.
    """
    from lightning_offrl.envs.collect import dataset_path

    target = dataset_path(dataset_id)
    if target.exists() and not overwrite:
        raise InputError(
            f"a dataset {dataset_id!r} already exists in {target}; choose another id, or overwrite it (--overwrite)"
        )
    episodes = _read(source, environment)
    notes = list(episodes.notes)
    _check_continuity(episodes)
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
    _write(episodes, actions, action_space, env_spec, dataset_id, target, metadata)
    return Converted(dataset_id, target, episodes.n_episodes, len(episodes), notes)


def _read(source: Any, environment: str | None) -> Episodes:
    # Straight from the file: its environment decides on the bounds of actions, and known references stay out.
    if isinstance(source, Mapping):
        return read(source if environment is None else {**source, "environment": environment})
    if not isinstance(source, str | Path):
        return load(source)
    return locate(source).read(environment)


def _check_continuity(episodes: Episodes) -> None:
    observation, following = (_numpy(episodes.data[key]) for key in ("observation", ("next", "observation")))
    inside = np.ones(len(episodes), dtype=bool)
    inside[(episodes.start + episodes.length - 1).numpy()] = False
    jumps = np.flatnonzero(np.append(differ(following, observation), False) & inside)
    if len(jumps):
        row = int(jumps[0])
        number = int(episodes.episode_index()[row])
        raise InputError(
            f"{episodes.name} cannot be written as a Minari dataset: the next observation of episode {number}, step "
            f"{row - int(episodes.start[number])} is not the observation of the following step (by more than "
            f"{SAME_STATE:g}), but Minari stores each observation once"
        )


def _environment(environment: str | None, episodes: Episodes, notes: list[str]) -> tuple[Any, Any]:
    """Specification and action space of the environment; None where the source names one that cannot be made here."""
    from lightning_offrl.envs.make import make_environment

    name = environment or episodes.environment
    if name is None:
        return None, None
    try:
        env = make_environment(name)
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
    values = single if np.array_equal(again, scaled) else exact
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
    log_prob = data.get("behavior_log_prob", None)
    if log_prob is not None:
        log_prob = log_prob.double().numpy() - log_volume(episodes.spec)
    mask, next_mask = (data.get(key, None) for key in ("action_mask", ("next", "action_mask")))
    for number, (start, length) in enumerate(zip(episodes.start.tolist(), episodes.length.tolist(), strict=True)):
        rows = slice(start, start + length)
        infos = {} if log_prob is None else {"behavior_log_prob": log_prob[rows]}
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


def _write(
    episodes: Episodes,
    actions: np.ndarray,
    action_space: Any,
    env_spec: Any,
    dataset_id: str,
    target: Path,
    metadata: dict[str, Any],
) -> None:
    space = _observation_space(episodes.spec["observation_shape"], episodes.data["observation"])
    store(_buffers(episodes, actions), space, action_space, env_spec, dataset_id, target, lambda: metadata)


def store(
    buffers: Iterator[Any],
    observation_space: Any,
    action_space: Any,
    env_spec: Any,
    dataset_id: str,
    target: Path,
    metadata: Callable[[], dict[str, Any]],
) -> None:
    """Write episodes as a Minari dataset, whole or not at all; one that is there is replaced.

    Args:
        buffers: Minari's ``EpisodeBuffer``, one for each episode; taken one at a time.
        observation_space: Gymnasium space.
        action_space: Gymnasium space.
        env_spec: of the environment, or None.
        dataset_id: ``namespace/name-v0``.
        target: its directory.
        metadata: gives what is to be stored with it; asked when all episodes are written.

    Raises:
        InputError: if the place cannot be written to.
    """
    import minari
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.dataset.minari_storage import MinariStorage
    from minari.namespace import create_namespace, list_local_namespaces

    namespace = parse_dataset_id(dataset_id)[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if namespace is not None and namespace not in list_local_namespaces():
                create_namespace(namespace)
            target.parent.mkdir(parents=True, exist_ok=True)
            # Minari passes over names that begin with a dot.
            temporary = Path(tempfile.mkdtemp(prefix=".converting-", dir=target.parent))
            try:
                storage = MinariStorage.new(
                    temporary / "data",
                    observation_space=observation_space,
                    action_space=action_space,
                    env_spec=env_spec,
                    data_format="hdf5",
                    jpeg_encoding=False,
                )
                storage.update_episodes(buffers)
                storage.update_metadata({"dataset_id": dataset_id, "minari_version": minari.__version__, **metadata()})
                temporary.chmod(0o755)
                if target.exists():
                    aside = Path(tempfile.mkdtemp(prefix=".replaced-", dir=target.parent))
                    target.rename(aside / target.name)
                    temporary.rename(target)
                    shutil.rmtree(aside, ignore_errors=True)
                else:
                    temporary.rename(target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as problem:
        raise InputError(
            f"{dataset_id} cannot be written below {target.parent} ({problem.strerror or problem}); set "
            "MINARI_DATASETS_PATH to a folder with room"
        ) from problem
