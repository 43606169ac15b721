"""The demonstrations on grids: what is stored is what the exact parts give, and a smaller run shows the same again."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def grid(request: pytest.FixtureRequest) -> ModuleType:
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    patch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import gridworld

    return gridworld


@pytest.fixture
def stored(repo: Path) -> dict[str, Any]:
    return json.loads((repo / "benchmarks" / "results" / "gridworld" / "results.json").read_text())


def last(part: dict[str, Any], key: str) -> np.ndarray:
    """One number per seed at the end of training."""
    return np.array(part["points"][-1][key])


def test_the_stored_page_is_made_of_the_stored_numbers(
    grid: ModuleType, stored: dict[str, Any], repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gridworld_page

    monkeypatch.setattr(gridworld_page, "draw", lambda results, folder: None)
    text = gridworld_page.write(stored, tmp_path)
    assert text == (repo / "benchmarks" / "results" / "gridworld" / "README.md").read_text()
    assert "nan" not in text and "TABLE" not in text


def test_the_pictures_can_be_drawn(grid: ModuleType, stored: dict[str, Any], tmp_path: Path) -> None:
    import gridworld_plots

    gridworld_plots.draw(stored, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bound.png", "missing_action.png", "stitch.png"]


def test_what_is_stored_of_tables_is_computed_again(grid: ModuleType, stored: dict[str, Any]) -> None:
    world = grid.GridWorld(**grid.CLIFF)
    source = world.dataset(grid.without_action(world.mdp.uniform(), grid.LEFT), 400)
    log = grid.read_log(world, source)
    assert not log.seen[:, grid.LEFT].any()
    for name, values in grid.fixed_points(world, log).items():
        assert values == pytest.approx(stored["missing_action"]["fixed_points"][name], rel=1e-5, abs=1e-9)
    assert grid.weight_scan(world, log)["eq_4"] == pytest.approx(stored["missing_action"]["scan"]["eq_4"], rel=1e-4)


def test_divergence_is_told_from_drift(grid: ModuleType) -> None:
    from gridworld_page import diverges, growth

    def points(*largest: float) -> list[dict[str, Any]]:
        return [{"largest_q": [1.0, 0.0], "smallest_q": [-value, 2.0]} for value in largest]

    assert growth(points(5.0, 20.0, 20.0, 21.0)) == (20.0, 21.0)
    assert not diverges(points(5.0, 20.0, 20.0, 21.0), 0.99)
    assert diverges(points(5.0, 20.0, 20.0, 31.0), 0.99) and diverges(points(100.0, 121.0, 121.0), 0.99)


def test_numbers_as_text(grid: ModuleType) -> None:
    from gridworld_plots import number, spread

    assert (number(-10.468), number(0.5, 1)) == ("\N{MINUS SIGN}10.47", "0.5")
    assert spread([1.0, 1.0]) == "1.00" and spread([1.0, 2.0], 1) == "1.5 (1.0 to 2.0)"


def check_missing_action(part: dict[str, Any]) -> None:
    """What the page claims about the cliff, of stored results or of a new run."""
    behavior, optimum, learners = part["behavior"]["value"], part["optimum"]["value"], part["learners"]
    naive = learners["DQN"]
    # It stands still (-100 of at most -10.5): worse than random, although its Q promises more than any policy has.
    assert (last(naive, "value") < -99.0).all() and behavior > -25.0
    assert (last(naive, "claim") > -2.0).all() and (last(naive, "in_data") < 0.5).all()
    for name in ("BCQ", "IQL", "CQL"):
        assert (last(learners[name], "value") > behavior + 10.0).all(), name
        assert (last(learners[name], "in_data") == 1.0).all(), name
    assert (last(learners["BCQ"], "value") > optimum - 2.0).all()
    # Networks of one-hot states end where a table does.
    for name, off in (("BCQ", 0.3), ("IQL", 1.0), ("CQL", 1.0)):
        assert last(learners[name], "claim") == pytest.approx(part["fixed_points"][name]["claim"], abs=off), name
    # With a goal reward only, the same learner on the same steps is optimal.
    assert last(part["goal_only"], "value") == pytest.approx(part["goal_only"]["optimum"])
    assert part["goal_only"]["behavior"] < 0.1 < part["goal_only"]["optimum"]


def check_bound(part: dict[str, Any]) -> None:
    """The bound without any tolerance on random data, and a single action that lies above its value."""
    assert part["bound_of_table"]["margin"] > 0.5
    for run in part["bound"]:
        assert run["share_below"] == 1.0 and run["margin"] > 0.0
        pair = run["worst_pair"]
        assert pair["exact"] == pytest.approx(-21.0) and pair["q"] > pair["exact"] + 0.25
        assert run["pairs_above"] >= part["bound_of_table"]["pairs_above"] == 9


def check_stitch(part: dict[str, Any]) -> None:
    """Who reaches the goal from the start, which no trajectory of the data does; policies of half the training."""
    from gridworld_page import arrivals

    assert part["trajectories_from_start"] == 2 and part["of_these_arrived"] == 0
    share = {name: arrivals(learner["points"]) for name, learner in part["learners"].items()}
    assert share["DQN"] == 0.0 and share["BC"] < 0.3
    assert share["BCQ"] > 0.7 and min(share["IQL"], share["CQL"]) > 0.95
    for name in ("IQL", "CQL"):
        assert last(part["learners"][name], "return") == pytest.approx(-10.0), name  # the shortest way


def test_the_stored_results_show_what_the_page_claims(grid: ModuleType, stored: dict[str, Any]) -> None:
    check_missing_action(stored["missing_action"])
    check_bound(stored["missing_action"])
    check_stitch(stored["stitch"])
    for run in stored["good_data"]["bound"]:  # where the page's bound fails, and is said to
        assert run["share_below"] < 0.5 and run["margin"] < -0.5
    slow, fast, huber, square = stored["settings"]["runs"]
    at_1000 = [{p["updates"]: p["return"] for p in run["points"]}[1000] for run in (slow, fast)]
    assert max(at_1000[0]) == -100.0 and min(at_1000[1]) == -10.0
    assert last(square, "claim") == pytest.approx(square["table"], abs=1.0)
    assert (last(huber, "claim") < huber["table"] - 20.0).all()


@pytest.mark.slow
def test_a_smaller_run_shows_the_missing_action_and_the_bound(grid: ModuleType) -> None:
    part = grid.missing_action(updates=2_000, seeds=3)
    check_missing_action(part)
    check_bound(part)


@pytest.mark.slow
def test_a_smaller_run_stitches(grid: ModuleType) -> None:
    check_stitch(grid.stitch(updates=1_000, seeds=3))
