"""The study of rankings computes what the package computes, on processes whose values it knows."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from lightning_offrl.ope.direct.estimate import multiplicities
from lightning_offrl.ope.weighting.intervals import Resamples, from_refits, resampled_interval
from lightning_offrl.ope.weighting.registry import ESTIMATORS


@pytest.fixture
def ranking(repo: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    return importlib.import_module("ranking")


@pytest.mark.parametrize("name", ["random process", "bandit", "cliff"])
def test_estimates_and_bounds_are_the_packages(ranking: ModuleType, name: str) -> None:
    of = ranking.PROBLEMS[name](np.random.default_rng(3), 6)
    log = ranking.draw(of, 200, 5)
    shared = Resamples(200, 1000, 0)
    found = ranking.evaluated(of, log, next(iter(shared.counts())), "fitted", np.random.default_rng(0))
    fits, tables = ranking.fitted(of, log, multiplicities(200, ranking.REFITS, 0).numpy(), False)
    low = found.lower(torch.full((6,), 0.025, dtype=torch.float64))
    assert bool(found.weighed.any()) and not bool(found.weighed.all())
    for policy in range(6):
        data = ranking.seen_by(of, log, policy, tables[policy])
        for e, estimator in enumerate(ranking.ESTIMATORS):
            value = float(found.values[policy, e])
            if estimator == "fqe":
                expected = from_refits(fits[policy, 0], torch.from_numpy(fits[policy, 1:]))
                assert value == fits[policy, 0]
            elif not bool(found.weighed[policy]):
                assert np.isnan(value)
                continue
            else:
                terms = ESTIMATORS[estimator].terms(data)
                expected = resampled_interval(terms, shared)[0]
                assert value == pytest.approx(terms.value, rel=1e-10)
            assert float(low[policy, e]) == pytest.approx(expected.low, rel=1e-9), estimator


def test_a_fit_to_a_large_log_finds_the_exact_values(ranking: ModuleType) -> None:
    of = ranking.PROBLEMS["random process"](np.random.default_rng(3), 6)
    log = ranking.draw(of, 20_000, 5)
    values, q = ranking.fitted(of, log, np.ones((1, 20_000)), False)
    assert np.abs(values[:, 0] - of.values).max() < 0.05 * np.ptp(of.values)
    assert np.abs(q - of.q).max() < 0.15 * np.ptp(of.q)


def test_a_choice_is_judged_by_hand(ranking: ModuleType) -> None:
    """Three policies worth 1, 2, 3, behavior 1.5: the smallest bound chooses 2, the representative 3."""

    class Of:
        values, behavior_value = np.array([1.0, 2.0, 3.0, 0.0]), 1.5

    nan = float("nan")
    values = torch.full((4, 6), nan, dtype=torch.float64)
    values[:3, 1], values[:3, 2] = torch.tensor([1.0, 2.0, 2.5]).double(), torch.tensor([1.0, 2.0, 3.0]).double()
    draws = torch.linspace(-1.0, 1.0, 1000).double()
    resampled = torch.full((4, 6, 1000), nan, dtype=torch.float64)
    for policy, spread in enumerate((0.1, 0.1, 2.0)):
        resampled[policy, 1], resampled[policy, 2] = values[policy, 1] + spread * draws, values[policy, 2] + 0.1 * draws
    refits = torch.full((4, ranking.REFITS, 6), nan, dtype=torch.float64)
    found = ranking.Found(values, resampled, refits, torch.tensor([True, True, True, False]))
    row = ranking.judged(Of(), found)
    assert row["eligible"] == 3 and row["regret"]["smallest lower bound"] == pytest.approx(0.5)
    assert row["regret"]["lower bound of the representative_estimate"] == 0.0 and not any(row["harm"].values())
    assert row["claim"]["lower bound of the representative_estimate|representative_estimate"] is False
    assert all(row["covered"].values()) and row["size"]["paired differences to all rivals together"] == pytest.approx(
        1 / 3
    )
