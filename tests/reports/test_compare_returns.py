from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_offrl.reports.compare_returns import Difference, EvaluatedPolicy, difference, judge


def sample(mean: float, seed: int, n: int = 20, spread: float = 10.0) -> list[float]:
    values = np.random.default_rng(seed).normal(size=n)
    return (mean + spread * (values - values.mean()) / values.std(ddof=1)).tolist()


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
    verdict = judge(sample(0.0, 0), EvaluatedPolicy("BC", sample(1.0, 1)), [EvaluatedPolicy("X", sample(50.0, 2))])
    assert verdict.clear and verdict.best == "X"
    assert "50 more than the average episode" in verdict.sentences[0]
    assert "standard errors" in verdict.sentences[0]


def test_no_winner_is_made_up() -> None:
    verdict = judge(sample(0.0, 0), EvaluatedPolicy("BC", sample(1.0, 1)), [EvaluatedPolicy("X", sample(2.0, 2))])
    assert not verdict.clear
    assert verdict.headline.startswith("No algorithm clearly")


def test_beating_the_data_alone_is_not_enough() -> None:
    verdict = judge(sample(0.0, 0), EvaluatedPolicy("BC", sample(50.0, 1)), [EvaluatedPolicy("X", sample(51.0, 2))])
    assert not verdict.clear


@pytest.mark.parametrize(("second", "said"), [(49.0, "too little to call one of them better"), (20.0, "comes next")])
def test_the_runner_up_is_compared(second: float, said: str) -> None:
    learners = [EvaluatedPolicy("X", sample(50.0, 2)), EvaluatedPolicy("Y", sample(second, 3))]
    verdict = judge(sample(0.0, 0), EvaluatedPolicy("BC", sample(1.0, 1)), learners)
    assert said in verdict.sentences[1]


def test_one_episode_proves_nothing() -> None:
    assert not Difference(100.0, float("nan")).clear
    assert not judge([0.0], EvaluatedPolicy("BC", [1.0]), [EvaluatedPolicy("X", [50.0])]).clear
