"""Episodes played by behavior policies, each with its own seed and the true log density of every action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lightning_offrl.batch import Spec
from lightning_offrl.envs.action_masks import mask_of, stacked
from lightning_offrl.envs.controllers import Behavior, Controller, behaviors, built_in_controller
from lightning_offrl.envs.gridworld.environment import HORIZON, GridWorld
from lightning_offrl.envs.make import check_match, environment_name, environment_spec
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


@runtime_checkable
class ActingPolicy(Protocol):
    """A policy that knows the spaces it was trained for, as `lightning_offrl.load_policy` returns it."""

    spec: Spec

    def act(self, observation: Any) -> Any:
        """One raw observation to an action in the environment's units."""

    def act_scaled(self, observation: Any) -> Any:
        """One raw observation to an action in [-1, 1], which is what an algorithm calls ``act``."""


def play_mixture(
    env: Any,
    environment: str,
    episodes: int,
    quality: str | float | Sequence[float],
    policy: ActingPolicy | Controller | None,
    noise: float,
    seed: int,
) -> tuple[list[Episode], list[tuple[float, Behavior]]]:
    """Episodes of a mixture of behavior policies, in shuffled order, and the mixture.

    Args:
        env: made from ``environment``.
        environment: Gymnasium id.
        episodes: The number of episodes, divided among the behaviors.
        quality: The quality of the behaviors; see `lightning_offrl.envs.controllers.behaviors`.
        policy: A replacement of the controller: a function of one raw observation, or a policy with its spaces.
        noise: standard deviation around the controller's action in half ranges.
        seed: The seed of all random numbers; the number of episodes changes only which behavior plays episode i.

    Raises:
        InputError: for no episode, a quality out of range, or a policy of other spaces.
    """
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


def _controller(policy: ActingPolicy | Controller | None, spec: Spec, environment: str) -> Controller | None:
    if not isinstance(policy, ActingPolicy):
        if policy is not None and not callable(policy):
            raise InputError(
                f"policy must be a function of an observation or a loaded policy, got {type(policy).__name__}; read a "
                "file with lightning_offrl.load_policy"
            )
        return policy
    check_match(policy.spec, spec, environment_name(environment))
    return policy.act


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
