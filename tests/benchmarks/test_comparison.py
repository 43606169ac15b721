"""The arithmetic of the benchmark's table, by hand."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def comparison(repo: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    import comparison

    return comparison


def a_run(seed: int, curve: list[float], **changes: Any) -> dict[str, Any]:
    run = {"dataset": "d", "algorithm": "iql", "preset": "peer", "seed": seed, "curve": curve}
    run |= {"updates": list(range(10, 10 * len(curve) + 10, 10)), "machine": {"cpu": "X"}, "versions": {"torch": "2"}}
    return run | changes


def test_difference_is_of_means_over_seeds_with_both_errors(comparison: ModuleType) -> None:
    ours = [a_run(seed, [0.0, last]) for seed, last in enumerate((10.0, 12.0, 14.0))]
    peer = [a_run(seed, [0.0, last]) for seed, last in enumerate((9.0, 10.0, 11.0))]
    d, se = comparison.difference(comparison.numbers(ours, "last"), comparison.numbers(peer, "last"))
    assert d == pytest.approx(2.0)
    assert se == pytest.approx(math.sqrt(4 / 3 + 1 / 3))
    d, se = comparison.difference(comparison.numbers(ours, "five"), comparison.numbers(peer, "five"))
    assert (d, se) == pytest.approx((1.0, math.sqrt(4 / 3 + 1 / 3) / 2))


def test_mean_over_cells_divides_by_their_number(comparison: ModuleType) -> None:
    ours = [
        a_run(s, [x], algorithm=a) for a, xs in {"bc": (4.0, 6.0), "iql": (1.0, 3.0)}.items() for s, x in enumerate(xs)
    ]
    peer = [a_run(s, [x], algorithm=a) for a in ("bc", "iql") for s, x in enumerate((2.0, 4.0))]
    table = comparison.cells(ours, peer, "peer")
    assert [c["algorithm"] for c in table] == ["bc", "iql"]
    points, error, units, units_error = comparison.over_cells(table, "last")
    se = math.sqrt(1.0 + 1.0)
    assert (points, error) == pytest.approx(((2.0 - 1.0) / 2, math.sqrt(2 * se**2) / 2))
    assert (units, units_error) == pytest.approx(((2.0 / se - 1.0 / se) / 2, 3.0 / se / 2))


def test_curves_of_other_length_are_refused(comparison: ModuleType) -> None:
    with pytest.raises(ValueError, match="same length"):
        comparison.cells([a_run(0, [1.0])], [a_run(0, [1.0, 2.0])], "peer")


def test_other_presets_stay_out(comparison: ModuleType) -> None:
    assert comparison.cells([a_run(0, [1.0], preset="authors")], [a_run(0, [1.0])], "peer") == []


def test_table_of_the_stored_peer(comparison: ModuleType, repo: Path, tmp_path: Path) -> None:
    """The peer against itself: no difference anywhere, and its own summary's numbers."""
    peer = json.loads((repo / "benchmarks" / "results" / "peer_d3rlpy.json").read_text())
    assert len(peer["runs"]) == 18
    runs = [{**r, "machine": {"cpu": "X"}, "versions": {"d3rlpy": "2.8.1"}} for r in peer["runs"]]
    text = comparison.markdown(runs, peer, [{**runs[0], "seed": 1}])
    assert "| hopper_mixed | bc | last | 3.4 ± 1.2 (3) | 3.4 ± 1.2 (3) | +0.0" in text
    assert "| hopper_medium_expert | iql | mean of five | 21.8 ± 1.8 (3)" in text
    assert "short runs of 50,000" in text and "d3rlpy run again" in text
    comparison.plot(runs, peer, tmp_path / "scores.png")
    assert (tmp_path / "scores.png").stat().st_size > 10_000
    assert "comparison" in sys.modules
