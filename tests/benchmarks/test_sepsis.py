"""The sepsis benchmark: what is stored is what the exact parts give, and the page is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lightning_offrl.envs.sepsis.environment import Sepsis


@pytest.fixture(scope="module")
def bench(request: pytest.FixtureRequest) -> ModuleType:
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    patch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import sepsis

    return sepsis


@pytest.fixture
def stored(repo: Path) -> dict[str, Any]:
    return json.loads((repo / "benchmarks" / "results" / "sepsis.json").read_text())


def test_the_stored_page_is_made_of_the_stored_numbers(
    bench: ModuleType, stored: dict[str, Any], repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sepsis_page

    monkeypatch.setattr(sepsis_page, "picture", lambda results: None)
    monkeypatch.setattr(sepsis_page, "save", lambda figure, path: None)
    text = sepsis_page.write(stored, tmp_path)
    assert text == (repo / "benchmarks" / "results" / "sepsis.md").read_text()
    assert max(map(len, (line for line in text.splitlines() if line[:1] not in "|*"))) <= 120


def test_exact_numbers(bench: ModuleType, stored: dict[str, Any]) -> None:
    for hidden, place in ((False, "recorded"), (True, "hidden")):
        ward = Sepsis(hidden_diabetes=hidden, diabetes=stored["diabetes"])
        clinician = ward.clinician(bench.TEMPERATURE, bench.SLIP)
        assert stored[place]["clinician"] == pytest.approx(ward.value(clinician), abs=1e-12)
        if not hidden:  # a perfect fit to a full record is the clinician, wherever somebody ever is
            visited = ward.mdp.visits(clinician, bench.HORIZON).sum(-1) > 0.0
            np.testing.assert_allclose(bench.marginal(ward)[visited], clinician[visited], atol=1e-12)
        for name, policy in bench.near(ward).items():
            one = stored["coverage"][name]
            assert one["exact"] == pytest.approx(ward.value(policy), abs=1e-12)
            found = dict(zip(("wis", "mean_weight", "fqe"), bench.limits(ward, policy), strict=True))
            assert one["limits"][place] == pytest.approx(found, abs=1e-9)
            if not hidden:
                assert (found["wis"], found["mean_weight"]) == pytest.approx((one["exact"], 1.0), abs=1e-12)
                assert found["fqe"] == pytest.approx(one["exact"], abs=1e-4)  # it knows no horizon


def test_the_limit_of_weights_against_many_records(bench: ModuleType) -> None:
    """The recursion for the mean weight and for weighted returns, against drawn admissions."""
    ward = Sepsis(hidden_diabetes=True, diabetes=0.5)
    policy, clinician = bench.near(ward)["as if not diabetic"], ward.clinician(bench.TEMPERATURE, bench.SLIP)
    drawn = ward.mdp.sample_transitions(clinician, 20_000, bench.HORIZON, 5)
    at = drawn["state"], drawn["action"]
    end = np.flatnonzero(drawn["terminated"] | drawn["truncated"])
    begin = np.concatenate([[0], end[:-1] + 1])
    weight = np.exp(np.add.reduceat(np.log(policy[at] / bench.marginal(ward)[at]), begin))
    value = drawn["reward"][end] * bench.DISCOUNT ** (end - begin)  # rewards come at the end only
    wis, mean, _ = bench.limits(ward, policy)
    assert abs(weight.mean() - mean) < 4.0 * weight.std() / np.sqrt(len(weight))
    residual = weight * (value - wis)
    assert abs(residual.mean()) < 4.0 * residual.std() / np.sqrt(len(weight))


def test_what_the_page_claims(stored: dict[str, Any]) -> None:
    hidden = stored["hidden"]
    assert (
        stored["recorded"]["unrecorded_cause"] is None
        and "different logged probabilities" in hidden["unrecorded_cause"]
    )
    assert hidden["clinician_nll"] < hidden["held_out_nll"]
    for one in stored["coverage"].values():
        assert one["limits"]["hidden"]["fqe"] - one["exact"] > 0.01  # the confounding flatters every policy
        assert abs(one["limits"]["hidden"]["mean_weight"] - 1.0) > 0.01
    for policy in hidden["policies"].values():
        rows = policy["fitted"]["rows"].values()
        assert all(row["status"] == "abstains" for row in rows if row["reasons"])
        assert policy["fitted"]["assumption"] or not any(row["status"] == "eligible" for row in rows)
