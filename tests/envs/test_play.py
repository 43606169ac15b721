"""Episodes played by behavior policies: what is in them, how they are shared out, and their reference returns."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_offrl.envs import play as module
from lightning_offrl.envs.controllers import Behavior, behaviors, pendulum
from lightning_offrl.envs.make import environment_spec, make_environment
from lightning_offrl.envs.play import play, play_mixture, reference_scores
from lightning_offrl.errors import InputError


def test_an_episode_holds_one_observation_more_than_steps_and_true_densities() -> None:
    env = make_environment("Pendulum-v1", trusted=True)
    spec = environment_spec(env)
    behavior = Behavior("controller", spec, pendulum, 0.7, noise=0.2)
    episode = play(env, behavior, seed=3)
    assert episode.observations.shape == (201, 3) and episode.actions.shape == (200, 1)
    assert episode.truncations.tolist() == [False] * 199 + [True] and not episode.terminations.any()
    for t in (0, 57, 199):
        expected = behavior.log_prob(episode.observations[t], episode.actions[t])
        assert episode.log_prob[t] == pytest.approx(expected, abs=1e-12)
    again = play(env, behavior, seed=3)
    assert (again.actions == episode.actions).all() and (play(env, behavior, seed=4).actions != episode.actions).any()


def test_episodes_are_shared_out_by_largest_remainder() -> None:
    env = make_environment("CartPole-v1", trusted=True)
    played, mixture = play_mixture(env, "CartPole-v1", 8, "mixed", None, 0.1, 0)
    counts = {behavior.name: sum(e.behavior == behavior.name for e in played) for _, behavior in mixture}
    assert sum(counts.values()) == 8
    for share, behavior in mixture:
        assert abs(counts[behavior.name] - 8 * share) < 1
    assert [name for _, b in behaviors("CartPole-v1", environment_spec(env)) for name in [b.name]] == list(counts)


def test_reference_returns_are_those_of_fixed_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFERENCE_EPISODES", 3)
    env = make_environment("Pendulum-v1", trusted=True)
    spec = environment_spec(env)
    low, high = reference_scores("Pendulum-v1", env, spec)
    random = [play(env, Behavior("random", spec, None), seed=module.REFERENCE_SEED + i).rewards.sum() for i in range(3)]
    assert low == np.mean(random) and high > low
    assert reference_scores("Acrobot-v1", make_environment("Acrobot-v1", trusted=True), spec) is None


def test_a_policy_is_a_function_or_loaded() -> None:
    env = make_environment("Pendulum-v1", trusted=True)
    with pytest.raises(InputError, match="got str; read a file with lightning_offrl.load_policy"):
        play_mixture(env, "Pendulum-v1", 1, 1.0, "policy.pt", 0.1, 0)
    with pytest.raises(InputError, match="at least 1 episode, got 0"):
        play_mixture(env, "Pendulum-v1", 0, 1.0, None, 0.1, 0)
