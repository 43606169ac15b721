"""Collecting a dataset from a real environment with behavior policies, written as a local Minari dataset.

Our own loop rather than Minari's ``DataCollector``, which needs jax: one seed per episode, T + 1 observations, and the
true log density of every action (``infos/behavior_log_prob``, in the environment's units).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_offrl.data.text_table import aligned
from lightning_offrl.data.writers.minari import free_path, store
from lightning_offrl.envs.controllers import Behavior, Controller
from lightning_offrl.envs.make import environment_name, environment_spec, make_environment
from lightning_offrl.envs.play import ActingPolicy, Episode, play_mixture, reference_scores


@dataclass(frozen=True)
class Collected:
    """What `collect` wrote.

    Args:
        dataset_id: The id, which ``--data.source`` takes.
        path: The directory of the dataset.
        returns: The returns ``[E]`` float64 of the episodes.
        lengths: The numbers of steps ``[E]`` int64.
        names: The name of the behavior of each episode.
        references: The mean returns of the random policy and of the controller; None without a controller.
        table: A short text for the terminal.
        action_kind: "box" or "discrete", which decides the algorithms that can learn from it.
    """

    dataset_id: str
    path: Path
    returns: np.ndarray
    lengths: np.ndarray
    names: list[str]
    references: tuple[float, float] | None
    table: str
    action_kind: str = "box"


def collect(
    environment: str,
    dataset_id: str,
    *,
    episodes: int = 150,
    quality: str | float | Sequence[float] = "mixed",
    policy: ActingPolicy | Controller | None = None,
    noise: float = 0.1,
    seed: int = 0,
    overwrite: bool = False,
) -> Collected:
    """Collect episodes and write them as a Minari dataset.

    Args:
        environment: The Gymnasium id.
        dataset_id: The id ``namespace/name-v0``. Minari keeps it in ``MINARI_DATASETS_PATH``, or in
            ``~/.minari``.
        episodes: The number of episodes, which are shared out among the behaviors and shuffled.
        quality: The quality of the behaviors: ``"mixed"``, a number from 0 (random) to 1 (the controller with little
            noise), or several numbers in equal shares; see `lightning_offrl.envs.controllers.behaviors`.
        policy: The policy that plays in place of the built-in controller: a function of one raw observation to an
            action in the environment's units, or a policy that `lightning_offrl.load_policy` returned.
        noise: The standard deviation around the controller's action in half ranges; 0 logs no density for Box actions.
        seed: The seed of everything. Episode i does not depend on how many are collected before or after it, except
            for which behavior it is given.
        overwrite: Whether an existing dataset of this id is replaced.

    Raises:
        InputError: a malformed or existing id, an unknown environment, a quality out of range.
    """
    target, removed = free_path(dataset_id, overwrite)
    env = make_environment(environment, trusted=True)
    try:
        played, mixture = play_mixture(env, environment, episodes, quality, policy, noise, seed)
        spec = environment_spec(env)
        references = reference_scores(environment, env, spec)
    finally:
        env.close()
    shares = "; ".join(f"{share:.0%} {behavior.name}" for share, behavior in mixture)
    metadata: dict[str, Any] = {
        "algorithm_name": "lightning_offrl built-in behavior policies",
        "description": f"Collected by lightning_offrl in {environment_name(environment)}. Episodes: {shares}.",
    }
    if env.spec is not None:
        metadata["eval_env_spec"] = env.spec.to_json()
    if references is not None:
        metadata["ref_min_score"], metadata["ref_max_score"] = references
    buffers = _buffers(played, _has_densities(mixture), _has_masks(played))
    store(buffers, env.observation_space, env.action_space, env.spec, dataset_id, target, lambda: metadata)
    returns = np.array([episode.rewards.sum() for episode in played])
    lengths = np.array([len(episode.rewards) for episode in played])
    names = [episode.behavior for episode in played]
    table = _table(dataset_id, environment, returns, lengths, played, references)
    if not all(behavior.recorded for _, behavior in mixture):
        table += "\nno behavior probabilities were logged: they depend on what the record does not hold"
    table = "\n".join([table, *removed])
    return Collected(dataset_id, target, returns, lengths, names, references, table, spec["action_kind"])


def collect_arrays(
    environment: str,
    *,
    episodes: int = 150,
    quality: str | float | Sequence[float] = "mixed",
    policy: ActingPolicy | Controller | None = None,
    noise: float = 0.1,
    seed: int = 0,
) -> dict[str, Any]:
    """The same episodes in memory, as the dictionary that a data module takes for its ``source``; nothing is written.

    Args:
        environment: The Gymnasium id.
        episodes: The number of episodes.
        quality: The quality of the behaviors, as in `collect`.
        policy: The policy that plays in place of the built-in controller, as in `collect`.
        noise: The standard deviation around the controller's action in half ranges.
        seed: The seed of everything.

    Returns:
        ``observations``, ``next_observations``, ``actions``, ``rewards``, ``terminated``, ``truncated``,
        ``behavior_log_prob``, ``action_mask`` and ``next_action_mask`` (where they exist), with the spaces, the
        environment's id and the references beside them.
    """
    env = make_environment(environment, trusted=True)
    try:
        played, mixture = play_mixture(env, environment, episodes, quality, policy, noise, seed)
        references = reference_scores(environment, env, environment_spec(env))
    finally:
        env.close()
    arrays: dict[str, Any] = {
        "observations": _join([_cut(episode.observations, slice(None, -1)) for episode in played]),
        "next_observations": _join([_cut(episode.observations, slice(1, None)) for episode in played]),
        "actions": _join([episode.actions for episode in played]),
        "rewards": _join([episode.rewards for episode in played]),
        "terminated": _join([episode.terminations for episode in played]),
        "truncated": _join([episode.truncations for episode in played]),
        "observation_space": env.observation_space,
        "action_space": env.action_space,
        "environment": environment,
        "references": references,
        "name": f"{environment_name(environment)} collected with seed {seed}",
    }
    if _has_densities(mixture):
        arrays["behavior_log_prob"] = _join([episode.log_prob for episode in played])
    if _has_masks(played):
        for key, part in (("action_mask", slice(None, -1)), ("next_action_mask", slice(1, None))):
            arrays[key] = _join([_cut(episode.action_mask, part) for episode in played])
    return arrays


def _join(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: _join([value[key] for value in values]) for key in values[0]}
    return np.concatenate(values)


def _cut(value: Any, part: slice) -> Any:
    return {key: _cut(inner, part) for key, inner in value.items()} if isinstance(value, dict) else value[part]


def _has_densities(mixture: list[tuple[float, Behavior]]) -> bool:
    return all(behavior.has_density and behavior.recorded for _, behavior in mixture)


def _has_masks(played: list[Episode]) -> bool:
    return all(episode.action_mask is not None for episode in played)


def _buffers(played: list[Episode], logged: bool, masked: bool) -> Iterator[Any]:
    from minari.data_collector.episode_buffer import EpisodeBuffer

    for i, episode in enumerate(played):
        yield EpisodeBuffer(
            id=i,
            seed=episode.seed,
            observations=episode.observations,
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=episode.terminations,
            truncations=episode.truncations,
            infos=({"behavior_log_prob": episode.log_prob} if logged else {})
            | ({"action_mask": episode.action_mask} if masked else {}),
        )


def _table(
    dataset_id: str,
    environment: str,
    returns: np.ndarray,
    lengths: np.ndarray,
    played: list[Episode],
    references: tuple[float, float] | None,
) -> str:
    rows = [("behavior", "episodes", "mean return", "sd", "mean length")]
    names = np.array([episode.behavior for episode in played])
    n = 1 if np.abs(returns).max() > 1.0 else 3
    groups = [(name, names == name) for name in sorted(set(names.tolist()))]
    groups = [*groups, ("all", np.ones(len(names), dtype=bool))] if len(groups) > 1 else groups
    for name, mask in groups:
        mean, sd = returns[mask].mean(), returns[mask].std()
        rows.append((name, str(mask.sum()), f"{mean:.{n}f}", f"{sd:.{n}f}", f"{lengths[mask].mean():.1f}"))
    lines = [f"{dataset_id}: {len(played)} episodes, {int(lengths.sum())} steps of {environment_name(environment)}"]
    lines += aligned(rows, numbers=True)
    ended = sum(bool(episode.terminations[-1]) for episode in played)
    lines.append(f"{ended} episodes ended in a terminal state, {len(played) - ended} were truncated")
    if references is not None:
        score = 100.0 * (returns.mean() - references[0]) / (references[1] - references[0])
        lines.append(
            f"references: random {references[0]:.{n}f} = score 0, controller {references[1]:.{n}f} = score 100; "
            f"this dataset scores {score:.1f} on average"
        )
    if any(math.isnan(episode.log_prob[0]) for episode in played):
        lines.append("no behavior log density was logged: without noise none exists")
    return "\n".join(lines)
