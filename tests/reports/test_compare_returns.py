from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_offrl.reports.compare_returns import (
    Difference,
    EvaluatedPolicy,
    ReturnComparison,
    compare_returns,
    difference,
    standard_error,
)


def sample(mean: float, seed: int, n: int = 20, spread: float = 10.0) -> list[float]:
    values = np.random.default_rng(seed).normal(size=n)
    return (mean + spread * (values - values.mean()) / values.std(ddof=1)).tolist()


def compared(imitation: float, learner: float) -> ReturnComparison:
    """Data of mean 0 beside an imitation and a learner of these means."""
    policies = EvaluatedPolicy("BC", sample(imitation, 1)), EvaluatedPolicy("X", sample(learner, 2))
    return compare_returns(sample(0.0, 0), policies[0], policies[1:])


def test_standard_error() -> None:
    assert standard_error([1.0, 3.0]) == pytest.approx(1.0)
    assert np.isnan(standard_error([1.0]))


def test_unpaired_errors_add_in_squares() -> None:
    apart = difference(sample(5.0, 0), sample(2.0, 1, n=5), paired=False)
    assert apart.mean == pytest.approx(3.0)
    assert apart.error == pytest.approx(math.sqrt(100 / 20 + 100 / 5))


def test_pairs_take_out_what_the_starts_share() -> None:
    starts = np.random.default_rng(0).normal(scale=100.0, size=20)
    first, second = (starts + sample(1.0, 1, spread=1.0)).tolist(), starts.tolist()
    assert difference(first, second, paired=True).error < 1.0 < difference(first, second, paired=False).error
    with pytest.raises(ValueError, match="paired samples need one value per episode in both, got 2 and 3"):
        difference([1.0, 2.0], [1.0, 2.0, 3.0], paired=True)


def test_a_clear_winner_is_named_with_its_numbers() -> None:
    comparison = compared(1.0, 50.0)
    assert comparison.clear and comparison.best == "X"
    assert "50 more than the average episode" in comparison.sentences[0]
    assert "standard errors" in comparison.sentences[0]


def test_no_winner_is_made_up() -> None:
    comparison = compared(1.0, 2.0)
    assert not comparison.clear
    assert comparison.headline.startswith("No algorithm clearly")


def test_beating_the_data_alone_is_not_enough() -> None:
    comparison = compared(50.0, 51.0)
    assert not comparison.clear


@pytest.mark.parametrize(("second", "said"), [(49.0, "too little to call one of them better"), (20.0, "comes next")])
def test_the_runner_up_is_compared(second: float, said: str) -> None:
    learners = [EvaluatedPolicy("X", sample(50.0, 2)), EvaluatedPolicy("Y", sample(second, 3))]
    comparison = compare_returns(sample(0.0, 0), EvaluatedPolicy("BC", sample(1.0, 1)), learners)
    assert said in comparison.sentences[1]


def test_one_episode_proves_nothing() -> None:
    assert not Difference(100.0, float("nan")).clear
    assert not compare_returns([0.0], EvaluatedPolicy("BC", [1.0]), [EvaluatedPolicy("X", [50.0])]).clear
