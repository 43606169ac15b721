"""The report of the Hopper benchmark of direct methods, on records made up so that its numbers are known."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def page(repo: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    import ope_hopper_direct_page

    return ope_hopper_direct_page


def record(name: str, truth: float, error: float, fqe: float, mb: float, flags: tuple[str, ...] = ()) -> dict:
    estimates = {
        "fqe": {"value": fqe, "replicates": [fqe - 1.0, fqe, fqe + 1.0], "flags": list(flags)},
        "mb": {"value": mb, "replicates": [mb - 1.0, mb, mb + 1.0], "flags": []},
    }
    for estimate in estimates.values():
        estimate |= {"diagnostics": {}, "cpu_seconds": 1.0}
    return {
        "policy": name,
        "truth": truth,
        "truth_error": error,
        "behavior_mean": 50.0,
        "episodes": 10,
        "transitions": 100,
        "dataset": "made up",
        "settings": {"updates": 5, "refits": 3, "layer_norm": True},
        "model": {"updates": 5, "cpu_seconds": 1.0, "explained": 0.9, "worst": 0.8},
        "estimates": estimates,
    }


# c and d differ by less than two standard errors of their difference (2 * 1.41): in truth they are one rank
RECORDS = [
    record("a", 10.0, 0.1, 12.0, 90.0),
    record("b", 20.0, 0.1, 21.0, 70.0),
    record("c", 30.0, 1.0, 99.0, 50.0, ("far off",)),
    record("d", 32.0, 1.0, 35.0, 60.0),
]


def test_ties_errors_coverage_and_flags_by_hand(page: ModuleType) -> None:
    found = page.summary(RECORDS)
    assert found["tied_groups"] == [["a"], ["b"], ["c", "d"]]
    # ranks of fqe 1 2 4 3 and of mb 4 3 1 2 against 1 2 3.5 3.5
    assert found["fqe"]["spearman"] == pytest.approx(4.5 / (5.0 * 4.5) ** 0.5)
    assert found["mb"]["spearman"] == pytest.approx(-4.5 / (5.0 * 4.5) ** 0.5)
    assert found["fqe"]["spearman_untied"] == pytest.approx(0.8)
    assert found["fqe"]["mean_absolute_error"] == pytest.approx((2 + 1 + 69 + 3) / 4)
    assert found["fqe"]["unflagged"] == 3 and found["fqe"]["mean_absolute_error_unflagged"] == pytest.approx(6 / 3)
    assert found["fqe"]["spearman_unflagged"] == pytest.approx(1.0)  # a, b and d
    assert found["fqe"]["spearman_lower"] == found["fqe"]["spearman"]  # all intervals are equally wide
    assert found["mean_absolute_error_of_the_data"] == pytest.approx((40 + 30 + 20 + 18) / 4)
    # Student's t for 3 refits of standard deviation 1: half a width of 4.30
    assert found["fqe"]["covered"] == 3 and found["mb"]["covered"] == 0
    assert found["fqe"]["chosen"] == "c" and found["fqe"]["regret_at_1"] == pytest.approx(2.0 / 22.0)


def test_the_page_says_which_numbers_are_flagged(page: ModuleType, tmp_path: Path) -> None:
    said = page.markdown({"made up": RECORDS}, {})
    assert "| c | 30.0 ± 1.0 | 99.0 [95, 103] ⚑1 | +230% |" in said and "1. c, fqe: far off." in said
    assert "Tied in truth: c = d" in said
    assert "evaluation: flagged are 1 of the 2 that are off by more than 10 %, and 0 of the other 2" in said
    page.plot({"made up": RECORDS, "another": RECORDS[:1]}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_the_pessimistic_ranking_is_of_those_that_have_it(page: ModuleType) -> None:
    assert "pessimistic" not in page.summary(RECORDS)
    low = [{**r, "pessimistic": {"value": v, "flags": []}} for r, v in zip(RECORDS, (1.0, 3.0, 2.0, 4.0), strict=True)]
    found = page.summary(low)
    assert found["pessimistic"]["spearman"] == pytest.approx(3.0 / (5.0 * 4.5) ** 0.5)  # 1 3 2 4 against 1 2 3.5 3.5
    assert found["pessimistic"]["chosen"] == "d" and found["pessimistic"]["regret_at_1"] == 0.0
    assert "the truth: d 4, c 2, b 3, a 1." in page.markdown({"made up": low}, {})
    low[3].pop("pessimistic")
    found = page.summary(low)
    assert found["pessimistic"]["policies"] == 3 and found["pessimistic"]["spearman"] == pytest.approx(0.5)


def test_old_numbers_stand_beside_new_ones(page: ModuleType) -> None:
    """Of the policies that have both: a, flagged and right before, off now, and b, which did not move."""
    before = {"made up": [record("a", 10.0, 0.1, 10.0, 90.0, ("doubtful",)), RECORDS[1]]}
    said = page.markdown({"made up": RECORDS, "alone": RECORDS[:1]}, before)
    assert "| made up | 2 | 35.0 | FQE | 0.5 → 1.5 | 1.0 (1) → 1.5 (2) | 1.00 → 1.00 | 0, 0 → 1, 0 | 1 → 0 |" in said
    assert "| +20% (was +0%) | 90.0 [86, 94] | +800% |" in said and "## alone" in said
    assert "| alone |" not in said


def test_the_report_reads_what_is_there(page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "OUT", tmp_path)
    with pytest.raises(SystemExit, match="no results"):
        page.report()
    for folder, records in (
        ("direct/made up", RECORDS[:2]),
        ("direct/one", RECORDS[:1]),
        ("direct/before/one", RECORDS),
    ):
        (tmp_path / folder).mkdir(parents=True)
        for one in records:
            (tmp_path / folder / f"{one['policy']}.json").write_text(json.dumps(one))
    page.report()
    numbers = json.loads((tmp_path / "hopper_direct.json").read_text(), parse_constant=pytest.fail)
    assert list(numbers["logs"]) == ["made up", "one"] and list(numbers["before"]) == ["one"]
    assert numbers["logs"]["made up"]["summary"]["fqe"]["mean_absolute_error"] == pytest.approx(1.5)
    assert (tmp_path / "hopper_direct.png").stat().st_size > 10_000
