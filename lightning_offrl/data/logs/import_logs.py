"""Logs written as a local Minari dataset, an episode at a time."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_offrl.data.logs.assemble import LogEpisode, episodes
from lightning_offrl.data.logs.files import expand
from lightning_offrl.data.logs.mapping import LogMap, parse_map, read_map
from lightning_offrl.data.logs.notes import ImportNotes
from lightning_offrl.data.logs.order import FOLDER
from lightning_offrl.data.logs.settings import Column, action_count, action_labels
from lightning_offrl.data.logs.tables import Log, survey
from lightning_offrl.data.staging import clear
from lightning_offrl.data.writers.convert import Converted
from lightning_offrl.data.writers.minari import free_path, store
from lightning_offrl.envs.spaces import make_spec
from lightning_offrl.errors import InputError


def import_logs(
    files: Sequence[str | Path] | str | Path,
    settings: str | Path | Mapping[str, Any] | LogMap,
    dataset_id: str | None = None,
    *,
    environment: str | None = None,
    overwrite: bool = False,
) -> Converted:
    """Read logs by a map and write them into Minari's local store.

    The dataset is there whole or not at all; what killed imports left half written there is removed, with a note.
    Names and units of the columns are stored with it, for the dataset report.

    Args:
        files: The ``.parquet`` or ``.csv`` files, or directories of them, in order.
        settings: The path of a YAML map, or its content; see `lightning_offrl.data.logs.EXAMPLE`.
        dataset_id: The new id, ``namespace/name-v0``; None takes the map's, or ``logs/FILE-v0``.
        environment: The Gymnasium id in place of the map's, which may only name what Gymnasium has registered.
        overwrite: Whether a dataset of this id is replaced.

    Raises:
        InputError: with one sentence that names file, row and column, for anything in the logs that the map does not
            allow for; or the setting of the map that is wrong.
    """
    if isinstance(settings, str | Path):
        settings = read_map(settings)
    elif not isinstance(settings, LogMap):
        settings = parse_map(settings)
    paths = expand([files] if isinstance(files, str | Path) else files)
    name = dataset_id or settings.dataset_id or f"logs/{_stem(paths[0])}-v0"
    target, removed = free_path(name, overwrite)
    gone = clear(Path(tempfile.gettempdir()), FOLDER)
    if gone:
        removed.append(f"removed what a killed import had left in {tempfile.gettempdir()}: {', '.join(gone)}")
    named, world = environment or settings.environment, None
    if named is not None:
        from lightning_offrl.envs.make import make_environment

        world = make_environment(named, trusted=environment is not None)
        world.close()
    log, tally = Log(paths, settings), ImportNotes()
    survey(log)
    observation_space, action_space = _spaces(log)
    if world is not None:
        _check_environment(world, observation_space, action_space, named, settings)
    total = _Total()
    metadata: dict[str, Any] = {
        "algorithm_name": "imported by lightning_offrl",
        "description": settings.description or f"Imported from {', '.join(path.name for path in paths[:10])}.",
    }
    if settings.references is not None:
        metadata["ref_min_score"], metadata["ref_max_score"] = settings.references
    if world is not None:
        metadata["eval_env_spec"] = world.spec.to_json()

    def described() -> dict[str, Any]:
        return {**metadata, "columns": {**_columns(log), "notes": tally.notes(log)}}

    buffers = _buffers(log, episodes(log, tally), total)
    store(buffers, observation_space, action_space, None, name, target, described)
    return Converted(name, target, total.episodes, total.steps, [*tally.notes(log), *removed])


def _check_environment(
    environment: Any, observation_space: Any, action_space: Any, named: str | None, settings: LogMap
) -> None:
    """Policies for the log must be able to act in the environment."""
    found = make_spec(observation_space, action_space)
    wanted = make_spec(environment.observation_space, environment.action_space)
    for key, what in (("observation_shape", "observations"), ("action_kind", "actions"), ("action_size", "actions")):
        if found[key] != wanted[key]:
            raise InputError(
                f"environment in {settings.path} is {named}, whose {what} are {wanted[key]}, but the "
                f"map makes {found[key]} of the log; name another environment, or leave it out"
            )


class _Total:
    """What was written."""

    def __init__(self) -> None:
        self.episodes = self.steps = 0


def _stem(path: Path) -> str:
    return re.sub(r"[^\w-]+", "-", path.name.split(".")[0]).strip("-") or "log"


def _spaces(log: Log) -> tuple[Any, Any]:
    from gymnasium import spaces

    columns = log.settings.observation
    width = sum(len(c.categories) if c.categories is not None else 1 for c in columns)
    width += sum(c.indicator for c in columns)
    observation = spaces.Box(-np.inf, np.inf, (width,), np.float32)
    if log.settings.discrete:
        return observation, spaces.Discrete(action_count(log.settings.action, log.settings.path))
    low, high = ([getattr(c, side) for c in log.settings.action] for side in ("low", "high"))
    return observation, spaces.Box(np.array(low), np.array(high), dtype=np.float64)


def _columns(log: Log) -> dict[str, Any]:
    """Names and units, in the order of the numbers; read by the dataset report."""
    observation: list[dict[str, Any]] = []
    for column in log.settings.observation:
        if column.categories is None:
            observation.append({"name": column.name, "unit": column.unit})
        else:
            observation += [
                {"name": f"{column.name} = {value}", "unit": None, "column": column.name, "value": value}
                for value in column.categories
            ]
    observation += [{"name": f"{c.name} is missing", "unit": None} for c in log.settings.observation if c.indicator]
    found: dict[str, Any] = {
        "observation": observation,
        "reward": {"name": log.settings.reward.name, "unit": log.settings.reward.unit},
        "log": [*_times(log), *({"name": c.name, "unit": None, "labels": _labels(c)} for c in log.settings.groups)],
        "files": [path.name for path in log.files],
    }
    if log.settings.discrete:
        found["action_labels"] = action_labels(log.settings.action)
    else:
        found["action"] = [{"name": c.name, "unit": c.unit} for c in log.settings.action]
    return found


def _times(log: Log) -> list[dict[str, Any]]:
    return [] if log.settings.time is None else [{"name": log.settings.time, "unit": "s" if log.in_seconds else None}]


def _labels(column: Column) -> list[str] | None:
    return None if column.categories is None else list(column.categories)


def _buffers(log: Log, found: Iterator[LogEpisode], total: _Total) -> Iterator[Any]:
    from minari.data_collector.episode_buffer import EpisodeBuffer

    timed = log.settings.time is not None
    for number, episode in enumerate(found):
        steps = len(episode.reward)
        infos = {} if episode.log_density is None else {"behavior_log_prob": episode.log_density}
        if episode.action_mask is not None:
            infos["action_mask"] = episode.action_mask
        if timed or len(episode.group):
            aside = [episode.time] if timed else []
            infos["log"] = np.stack([*aside, *(np.full(steps, value) for value in episode.group)], axis=1)
        terminations, truncations = np.zeros(steps, dtype=bool), np.zeros(steps, dtype=bool)
        (terminations if episode.terminated else truncations)[-1] = True
        total.episodes, total.steps = number + 1, total.steps + steps
        yield EpisodeBuffer(
            id=number,
            observations=episode.observation,
            actions=episode.action,
            rewards=episode.reward,
            terminations=terminations,
            truncations=truncations,
            infos=infos,
        )
    if total.episodes == 0:
        raise InputError(
            f"{', '.join(str(path) for path in log.files[:3])} holds no episode with a step in it; rows may be "
            "missing, or every row names another episode"
        )
