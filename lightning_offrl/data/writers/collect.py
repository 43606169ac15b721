"""Collecting a dataset from a real environment with behavior policies, written as a local Minari dataset.

Our own loop rather than Minari's ``DataCollector``, which needs jax: one seed per episode, T + 1 observations, and the
true log density of every action (``infos/behavior_log_prob``, in the environment's units).
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lightning_offrl.batch import Spec
from lightning_offrl.data.text_table import aligned
from lightning_offrl.envs.action_masks import mask_of, stacked
from lightning_offrl.envs.controllers import Behavior, Controller, behaviors, built_in_controller
from lightning_offrl.envs.gridworld.environment import HORIZON, GridWorld
from lightning_offrl.envs.make import check_match, environment_name, environment_spec, make_environment
from lightning_offrl.envs.sepsis.environment import Sepsis
from lightning_offrl.errors import InputError

REFERENCE_EPISODES = 100
REFERENCE_SEED = 100_000
"""Apart from the seeds of collection and evaluation, and fixed, so that scores on one environment compare."""


@dataclass(frozen=True)
class Episode:
    """One episode as it was: T steps, T + 1 raw observations (a dict of arrays for Dict spaces) and, if any, masks."""

    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    log_prob: np.ndarray
    behavior: str
    seed: int
    action_mask: np.ndarray | None = None


@dataclass(frozen=True)
class Collected:
    """What `collect` wrote.

    Args:
        dataset_id: pass it on as ``--data.source``.
        path: the directory of the dataset.
        returns: ``[E]`` float64.
        lengths: ``[E]`` int64.
        names: behavior of each episode.
        references: (random, controller) mean returns, or None where there is no controller to measure.
        table: a short text.
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
    policy: str | Path | Controller | None = None,
    noise: float = 0.1,
    seed: int = 0,
    overwrite: bool = False,
) -> Collected:
    """Collect episodes and write them as a Minari dataset.

    Args:
        environment: Gymnasium id.
        dataset_id: ``namespace/name-v0``; kept under Minari's directory (``MINARI_DATASETS_PATH``, or ``~/.minari``).
        episodes: how many, shared out among the behaviors and shuffled.
        quality: ``"mixed"``, a number from 0 (random) to 1 (the controller with little noise), or several in equal
            shares; see `behavior.behaviors`.
        policy: an exported ``policy.pt`` or a function of one raw observation to an action in environment units, in
            place of the built-in controller.
        noise: standard deviation around the controller's action in half ranges; 0 logs no density for Box actions.
        seed: of everything; episode i does not depend on how many are collected before or after it, except for
            which behavior it is given.
        overwrite: replace an existing dataset of this id.

    Raises:
        InputError: a malformed or existing id, an unknown environment, a quality out of range.
    """
    target = dataset_path(dataset_id)
    if target.exists() and not overwrite:
        raise InputError(f"dataset {dataset_id} exists already at {target}; choose another id or pass --overwrite")
    env = make_environment(environment, trusted=True)
    try:
        played, mixture = _gather(env, environment, episodes, quality, policy, noise, seed)
        spec = environment_spec(env)
        references = reference_scores(environment, env, spec)
        _write(env, environment, dataset_id, target, played, references, mixture, overwrite)
    finally:
        env.close()
    returns = np.array([episode.rewards.sum() for episode in played])
    lengths = np.array([len(episode.rewards) for episode in played])
    names = [episode.behavior for episode in played]
    table = _table(dataset_id, environment, returns, lengths, played, references)
    if not all(behavior.recorded for _, behavior in mixture):
        table += "\nno behavior probabilities were logged: they depend on what the record does not hold"
    return Collected(dataset_id, target, returns, lengths, names, references, table, spec["action_kind"])


def collect_arrays(
    environment: str,
    *,
    episodes: int = 150,
    quality: str | float | Sequence[float] = "mixed",
    policy: str | Path | Controller | None = None,
    noise: float = 0.1,
    seed: int = 0,
) -> dict[str, Any]:
    """The same episodes in memory, as the dictionary that a data module takes for its ``source``; nothing is written.

    Args:
        environment: as in `collect`, and so are the others.
        episodes: how many.
        quality: of the behaviors.
        policy: in place of the built-in controller.
        noise: around the controller's action.
        seed: of everything.

    Returns:
        ``observations``, ``next_observations``, ``actions``, ``rewards``, ``terminated``, ``truncated``,
        ``behavior_log_prob``, ``action_mask`` and ``next_action_mask`` (where they exist), with the spaces, the
        environment's id and the references beside them.
    """
    env = make_environment(environment, trusted=True)
    try:
        played, mixture = _gather(env, environment, episodes, quality, policy, noise, seed)
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
    if all(behavior.has_density and behavior.recorded for _, behavior in mixture):
        arrays["behavior_log_prob"] = _join([episode.log_prob for episode in played])
    if all(episode.action_mask is not None for episode in played):
        for key, part in (("action_mask", slice(None, -1)), ("next_action_mask", slice(1, None))):
            arrays[key] = _join([_cut(episode.action_mask, part) for episode in played])
    return arrays


def _gather(
    env: Any,
    environment: str,
    episodes: int,
    quality: str | float | Sequence[float],
    policy: str | Path | Controller | None,
    noise: float,
    seed: int,
) -> tuple[list[Episode], list[tuple[float, Behavior]]]:
    if episodes < 1:
        raise InputError(f"a dataset needs at least 1 episode, got {episodes}")
    spec = environment_spec(env)
    controller = _controller(policy, spec, environment)
    mixture = behaviors(environment, spec, quality=quality, policy=controller, noise=noise)
    if policy is None and isinstance(env.unwrapped, Sepsis):  # the clinician sees more than the record holds
        bedside, recorded = env.unwrapped.bedside(), not env.unwrapped.confounded
        mixture = [(p, replace(b, controller=bedside, recorded=recorded) if b.controller else b) for p, b in mixture]
    chosen = _share_out(mixture, episodes, seed)
    return [play(env, b, seed=_episode_seed(seed, i)) for i, b in enumerate(chosen)], mixture


def play(env: Any, behavior: Behavior, *, seed: int) -> Episode:
    """One episode to its end.

    Args:
        env: a Gymnasium environment that ends (it has a time limit or terminal states).
        behavior: who acts.
        seed: resets the environment and seeds the behavior's own draws.
    """
    rng = np.random.default_rng([seed, 1])
    shape = env.action_space.shape if behavior.spec["action_kind"] == "box" else ()
    observation, info = env.reset(seed=seed)
    masks = [mask_of(observation, info, behavior.spec)]
    observations, actions, rewards, log_probs = [observation], [], [], []
    terminations, truncations = [], []
    ended = False
    while not ended:
        action, log_prob = behavior.sample(observation, rng, masks[-1])
        executed = (
            action if shape == () and isinstance(action, int) else action.reshape(shape).astype(env.action_space.dtype)
        )
        observation, reward, terminated, truncated, info = env.step(executed)
        observations.append(observation)
        masks.append(mask_of(observation, info, behavior.spec))
        actions.append(executed)
        rewards.append(float(reward))
        log_probs.append(log_prob)
        terminations.append(bool(terminated))
        truncations.append(bool(truncated))
        ended = terminations[-1] or truncations[-1]
    return Episode(
        _stack(observations),
        np.asarray(actions, dtype=env.action_space.dtype),
        np.asarray(rewards, dtype=np.float64),
        np.asarray(terminations),
        np.asarray(truncations),
        np.asarray(log_probs, dtype=np.float64),
        behavior.name,
        seed,
        stacked(masks),
    )


def dataset_path(dataset_id: str) -> Path:
    """Where Minari keeps this dataset, whether or not it exists.

    Raises:
        InputError: a malformed id. Minari itself finds that out only after writing, and what it leaves behind breaks
            the listing of all other datasets. Or a store that cannot be made.
    """
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage.datasets_root_dir import get_dataset_path

    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as problem:
        raise InputError(
            f"{dataset_id!r} is not a dataset id: it has the form namespace/name-v0 "
            "(letters, digits, - and _; a namespace of at least two characters; a version at the end)"
        ) from problem
    try:
        return Path(get_dataset_path(dataset_id))
    except OSError as problem:
        raise InputError(
            f"{dataset_id} cannot be written: Minari's store {problem.filename} cannot be made ({problem.strerror}); "
            "set MINARI_DATASETS_PATH to a folder"
        ) from problem


def reference_scores(environment: str, env: Any, spec: Spec) -> tuple[float, float] | None:
    """Mean returns of uniformly random actions and of the built-in controller without noise, or None without one.

    The same seeded episodes every time, so the 0-100 scores of two datasets on one environment mean the same; in a
    GridWorld and in Sepsis the exact expectations (None where both are equal, which leaves no scale).
    """
    if isinstance(env.unwrapped, GridWorld):
        return env.unwrapped.references(env.spec.max_episode_steps or HORIZON)
    if isinstance(env.unwrapped, Sepsis):
        mdp, horizon = env.unwrapped.mdp, env.spec.max_episode_steps or HORIZON
        low, high = (mdp.expected_return(policy, horizon) for policy in (mdp.uniform(), mdp.optimal(0.99).policy))
        return (low, high) if high > low else None
    controller = built_in_controller(environment)
    if controller is None:
        return None
    means = []
    for behavior in (Behavior("random", spec, None), Behavior("controller", spec, controller, 1.0, noise=0.0)):
        returns = [play(env, behavior, seed=REFERENCE_SEED + i).rewards.sum() for i in range(REFERENCE_EPISODES)]
        means.append(float(np.mean(returns)))
    return means[0], means[1]


def _controller(policy: str | Path | Controller | None, spec: Spec, environment: str) -> Controller | None:
    if policy is None or not isinstance(policy, str | Path):
        return policy
    from lightning_offrl.policy import load_policy

    loaded = load_policy(policy)
    check_match(loaded.spec, spec, environment_name(environment))
    return loaded.act


def _episode_seed(seed: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0] % (2**31 - 1))


def _share_out(mixture: list[tuple[float, Behavior]], episodes: int, seed: int) -> list[Behavior]:
    """Shares as whole episodes by largest remainder, in a shuffled order."""
    exact = np.array([share for share, _ in mixture]) * episodes
    counts = np.floor(exact + 1e-9).astype(int)
    for i in np.argsort(counts - exact, kind="stable")[: episodes - counts.sum()]:
        counts[i] += 1
    order = np.random.default_rng([seed, 2]).permutation(np.repeat(np.arange(len(mixture)), counts))
    return [mixture[i][1] for i in order]


def _stack(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: _stack([value[key] for value in values]) for key in values[0]}
    return np.stack([np.asarray(value) for value in values])


def _join(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: _join([value[key] for value in values]) for key in values[0]}
    return np.concatenate(values)


def _cut(value: Any, part: slice) -> Any:
    return {key: _cut(inner, part) for key, inner in value.items()} if isinstance(value, dict) else value[part]


def _write(
    env: Any,
    environment: str,
    dataset_id: str,
    target: Path,
    played: list[Episode],
    references: tuple[float, float] | None,
    mixture: list[tuple[float, Behavior]],
    overwrite: bool,
) -> None:
    import minari
    from minari.data_collector.episode_buffer import EpisodeBuffer

    logged = all(behavior.has_density and behavior.recorded for _, behavior in mixture)
    masked = all(episode.action_mask is not None for episode in played)
    buffers = [
        EpisodeBuffer(
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
        for i, episode in enumerate(played)
    ]
    shares = "; ".join(f"{share:.0%} {behavior.name}" for share, behavior in mixture)
    # Replaced only when the new one is complete, so an interruption leaves the old dataset in place.
    aside = target.with_name(f".{target.name}.old")
    if overwrite and target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            minari.create_dataset_from_buffers(
                dataset_id,
                buffers,
                env=env.spec,
                eval_env=env.spec,
                observation_space=env.observation_space,
                action_space=env.action_space,
                algorithm_name="lightning_offrl built-in behavior policies",
                ref_min_score=references[0] if references else None,
                ref_max_score=references[1] if references else None,
                description=f"Collected by lightning_offrl in {environment_name(environment)}. Episodes: {shares}.",
                data_format="hdf5",
                jpeg_encoding=False,
            )
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        if aside.exists():
            aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


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
