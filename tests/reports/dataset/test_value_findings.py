"""The checks of rewards, actions, observations and drift."""

from __future__ import annotations

import numpy as np

from lightning_offrl.reports.dataset.advice import command
from tests.reports.dataset.worlds import judged, level, made


def test_drift_of_returns() -> None:
    measures, assessment = judged(made(60, reward=lambda s, a, i, rng: float(i > 30), lengths=(30, 31)))
    assert level(assessment, "Drift of returns") == "warning" and measures.drift[0].size > 1
    _, assessment = judged(made(60, lengths=(30, 31)))
    assert level(assessment, "Drift of returns") == "fine"


def test_sparse_rewards() -> None:
    measures, assessment = judged(made(60, reward=lambda s, a, i, rng: float(rng.random() < 0.02)))
    assert level(assessment, "Rewards") == "warning"
    assert {"antmaze", "[7,1]"} <= set(command(measures, assessment).split())


def test_a_reward_for_staying_alive_is_named() -> None:
    """A reward of 1 at every step but one: the length explains nearly all of the return, 1 per step."""
    measures, assessment = judged(made(40, reward=lambda s, a, i, rng: float(rng.random() > 0.01)))
    found = next(one for one in assessment.findings if one.topic == "What is rewarded")
    assert found.level == "warning" and "staying alive" in found.sentence
    assert measures.rewards.per_step is not None and abs(measures.rewards.per_step - 1.0) < 0.1


def test_actions_at_their_bounds_and_far_from_them() -> None:
    _, assessment = judged(made(40, act=lambda s, i, rng: np.sign(rng.normal(size=1))))
    assert level(assessment, "Action saturation") == "warning" and level(assessment, "Action range") == "none"
    _, assessment = judged(made(40, act=lambda s, i, rng: rng.uniform(-0.4, 0.4, 1)))
    assert level(assessment, "Action saturation") == "fine" and level(assessment, "Action range") == "warning"


def test_actions_that_were_never_taken() -> None:
    arrays = made(40, act=lambda s, i, rng: rng.integers(0, 2, 1))
    arrays["actions"] = 2 * arrays["actions"][:, 0].astype(np.int64)  # 0 and 2 of three
    _, assessment = judged(arrays)
    found = next(one for one in assessment.findings if one.topic == "Unused actions")
    assert found.level == "warning" and found.sentence.startswith("1 action of 3 were never taken")


def test_a_constant_number_of_the_observation() -> None:
    arrays = made(40)
    for key in ("observations", "next_observations"):
        arrays[key] = np.concatenate([arrays[key], np.ones((len(arrays[key]), 1))], 1)
    _, assessment = judged(arrays)
    found = next(one for one in assessment.findings if one.topic == "Constant observations")
    assert found.level == "warning" and "1 number that never changes" in found.sentence
