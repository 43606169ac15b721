"""Verdicts on data made to deserve them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers import load
from lightning_offrl.envs.gridworld.environment import GridWorld
from lightning_offrl.envs.gridworld.layouts import STITCH_POLICIES
from lightning_offrl.reports.dataset.advice import command
from lightning_offrl.reports.dataset.verdict import (
    explained_by_policy,
    policy_returns,
    quality,
    recombination,
    scale,
    smallest_clear,
)
from tests.reports.dataset.worlds import judged, level, made, mixture


def test_few_episodes_support_nothing() -> None:
    _, assessment = judged(made(12))
    assert assessment.verdict.kind == "refuse" and level(assessment, "Amount") == "problem"
    assert any("12 different episodes" in sentence for sentence in assessment.verdict.sentences)


def test_one_action_per_state_supports_nothing() -> None:
    _, assessment = judged(made(60, act=lambda s, i, rng: np.clip(0.4 * s[:1], -1, 1)))
    assert assessment.verdict.kind == "refuse"
    assert "always the same was done" in " ".join(assessment.verdict.sentences)


def test_good_data_is_to_be_imitated() -> None:
    """References 0 and 30; every episode returns close to 29.5 with small noise in what it does."""
    arrays = made(
        60,
        act=lambda s, i, rng: np.clip(0.3 * s[:1] + 0.1 * rng.normal(size=1), -1, 1),
        lengths=(30, 31),
        terminal=False,
    )
    measures, assessment = judged({**arrays, "references": (0.0, 30.0)})
    assert assessment.verdict.kind == "imitate" and assessment.verdict.headline == "Behavior cloning is enough"
    assert "--config bc" in command(measures, assessment)
    assert "Conservatism" not in [advice.topic for advice in assessment.advice]


def test_a_mixture_is_worth_learning_from() -> None:
    measures, assessment = judged(mixture())
    assert assessment.verdict.kind == "improve" and measures.policies.number == 2
    assert "which of 2 policies acted explains" in " ".join(assessment.verdict.sentences)
    assert "--config iql" in command(measures, assessment)


def test_stitching_is_seen_where_no_episode_is_better_than_another() -> None:
    world = GridWorld("stitch")
    data = Episodes.join([load(world.dataset(world.policy_from_text(p), 20)) for p in STITCH_POLICIES])
    measures, assessment = judged(data)
    assert assessment.verdict.headline == "There is something to gain, also by recombining episodes"
    assert "--config discrete_bcq" in command(measures, assessment)
    assert level(assessment, "Duplicates") == "warning"  # equal episodes happen in so small a world
    assert "sampling.weight unique" not in command(measures, assessment)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number", "headline"),
    [
        ("hopper_medium-v2", {1}, "one policy"),
        ("hopper_medium_expert-v2", {2}, "something to gain"),
        ("hopper_mixed-v2", {3, 4, 5, 6}, "also by recombining episodes"),
    ],
)
def test_real_data_is_what_its_name_says(shared_data: Path, name: str, number: set[int], headline: str) -> None:
    """One trained policy; two; and those of a whole training run."""
    file = shared_data / "d4rl" / f"{name}.hdf5"
    if not file.is_file():
        pytest.skip(f"no {file}")
    measures, assessment = judged(file)
    assert measures.policies.number in number and headline in assessment.verdict.headline
    assert assessment.verdict.kind == "improve"


def test_measures_that_sentences_share_by_hand() -> None:
    measures, _ = judged({**mixture(), "references": (0.0, 40.0)})
    assert scale(measures) == (0.0, 40.0) and quality(measures) == pytest.approx(measures.returns.mean / 40.0)
    deviation = measures.returns.deviation
    assert smallest_clear(measures) == pytest.approx(3.0 * math.sqrt(2.0 / 80) * deviation)
    assert recombination(measures) == measures.stitching.gain / abs(measures.stitching.single)
    first, second = policy_returns(measures)
    assert first.count == second.count == 40
    # two groups of equal size: half the distance of their means is the deviation between them
    between = ((first.mean - second.mean) / 2) ** 2
    assert explained_by_policy(measures) == pytest.approx(between / (deviation**2 * 79 / 80)) and between > 0
