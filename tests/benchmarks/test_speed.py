"""The speed benchmark's turns, ratios and page; that its competitors run is for ``make bench`` to show."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def speed(repo: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    import speed

    return speed


FAKE = """
import sys, time
sys.path.insert(0, {workers!r})
from turns import Turns

made = 0

def update():
    global made
    made += 1
    print("chatter of the program under test")
    open({counter!r}, "w").write(str(made))
    until = time.process_time() + 0.001
    while time.process_time() < until:
        pass

Turns().serve(update, warm=3, hello="there")
"""


def cell(**medians: float) -> dict[str, Any]:
    """A cell whose competitors take these times, in three rounds of 0.9, 1 and 1.1 times as long."""
    return {
        "algorithm": "iql",
        "batch_size": 256,
        "width": 256,
        "quick": False,
        "data": "none",
        "machine": {
            "cpu": "a CPU",
            "family, model, stepping": ["1", "2", "3"],
            "matrix instructions": ["avx2"],
            "load_average": 0.5,
            "system": "a system",
        },
        "versions": {"torch": "1"},
        "compile_seconds": {"ours fp32": {"cold": 20.0, "warm": 3.0}},
        "competitors": {
            name.replace("_", " "): {
                "about": {"mflop": 500.0, "products": 30},
                "updates_per_turn": 10,
                "turns": [{"cpu": f * ms, "wall": 2 * f * ms} for f in (0.9, 1.1, 1.0)],
            }
            for name, ms in medians.items()
        },
        "parts": {
            "ours fp32": {
                "parts": {
                    "total": 4.0,
                    "training_step": 3.95,
                    "update": 3.9,
                    "graph": 3.8,
                    "sampling": 0.01,
                    "prepare": 0.01,
                    "logging": 0.01,
                },
                "alone": {"adam": 0.2, "targets": 0.1},
            }
        },
    }


def test_a_competitor_makes_what_it_is_told_and_times_it(speed: ModuleType, tmp_path: Path):
    counter = tmp_path / "made"
    script = tmp_path / "fake.py"
    script.write_text(FAKE.format(workers=str(speed.WORKERS), counter=str(counter)))
    competitor = speed.Competitor([sys.executable, str(script)], tmp_path / "log", {})
    assert competitor.about == {"hello": "there"} and counter.read_text() == "3"
    took = competitor.turn(20)
    assert counter.read_text() == "23"
    assert 1.0 <= took["cpu"] < 3.0 and took["wall"] >= took["cpu"] * 0.9
    competitor.choose_updates(seconds=0.02)
    assert 8 <= competitor.updates <= 20 and competitor.updates % 2 == 0
    competitor.end()
    assert competitor.process.returncode == 0
    assert "chatter" in (tmp_path / "log").read_text()


def test_a_competitor_that_breaks_says_why(speed: ModuleType, tmp_path: Path):
    with pytest.raises(RuntimeError, match="no such thing"):
        speed.Competitor([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path / "log", {})


def test_ratios_and_goals_are_of_medians(speed: ModuleType, tmp_path: Path):
    """9 ms against 4 ms is 2.25 times as fast, whatever the order of the rounds; 2 ms products are half of it."""
    speed_page = speed.speed_page
    result = cell(ours_fp32=4.0, d3rlpy_fp32=9.0, floor_fp32=2.0)
    assert speed_page.ratio(result, "d3rlpy fp32", "ours fp32") == pytest.approx((2.25, 2.25, 2.25))
    shuffled = copy.deepcopy(result)
    shuffled["competitors"]["ours fp32"]["turns"].reverse()
    middle, low, high = speed_page.ratio(shuffled, "d3rlpy fp32", "ours fp32")
    assert middle == pytest.approx(2.25) and low < 2.25 < high
    table = speed_page.cell_table(result)
    assert "| ours fp32 | 4.000 (3.600 to 4.400) | 8.000 | 2.25 (2.25 to 2.25) | 50 % |" in table
    assert "500 MFLOP, 250 GFLOP/s" in table
    goals = "\n".join(speed_page.goal_lines([result]))
    assert "| IQL: ours fp32 against d3rlpy fp32 | at least 1.8 | 2.25 (2.25 to 2.25) | reached |" in goals
    assert "| at most 1.5 | 2.00 (2.00 to 2.00) | **missed** |" in goals
    assert "| at most 3 % | 2.5 % | reached |" in goals
    page, plot = speed_page.write_page([result], tmp_path / "speed")
    assert plot.stat().st_size > 5_000
    text = page.read_text()
    assert "(speed.png)" in text and "ours fp32 20 s, 3 s" in text and "| 4.000 | 3.800 | 0.100 |" in text


def test_every_cell_has_its_competitors(speed: ModuleType, tmp_path: Path):
    args = speed.parser().parse_args(["--peer", "p", "--corl", "c"])
    names = speed.commands(args, tmp_path / "data", "cql", 256, 256, tmp_path).keys()
    kinds = {name.rpartition(" ")[0] for name in names}
    assert kinds == {"ours", "by hand", "d3rlpy", "CORL", "floor"}
    assert {"ours fp32", "ours medium", "ours bf16", "floor bf16", "d3rlpy medium"} <= names
    assert not any(name.startswith("CORL") for name in speed.commands(args, tmp_path, "cql", 256, 512, tmp_path))
