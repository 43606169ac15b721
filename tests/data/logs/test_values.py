"""Cells of a log become numbers: missing ones filled, units converted, categories numbered; by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from lightning_offrl.batch import unscale_action
from lightning_offrl.data.logs.import_logs import import_logs
from lightning_offrl.data.readers import load
from tests.data.logs.log_files import imported, table


def test_missing_values_by_hand(tmp_path: Path) -> None:
    """last carries on within an episode, mean is that of the log (in the map's unit), a number is itself."""
    rows = [
        ["a", "", 32, "x", 1, 1, 0],
        ["a", 4, "", "", 1, "", 0],
        ["a", "-999", 212, "y", 1, 3, 1],
        ["b", "", "", "y", 1, 4, 0],
        ["b", 8, "", "x", 1, 5, 1],
    ]
    settings = {
        "episode": "e",
        "observation": [
            {"column": "o", "missing": ["last", "mean", "indicator"]},
            {"column": "temp", "unit": "degF", "to": "degC", "missing": "mean"},
            {"column": "kind", "categories": "auto", "missing": "indicator"},
        ],
        "action": {"column": "a", "low": 0, "high": 2},
        "reward": {"column": "r", "missing": 7, "scale": 2},
        "terminated": "end",
        "missing_values": [-999],
    }
    done = import_logs(table(tmp_path / "log.csv", "e o temp kind a r end", rows), settings, "test/log-v0")
    data = load("test/log-v0").data
    # o, temp, kind = x, kind = y, o is missing, kind is missing
    want = [
        [6.0, 0.0, 1.0, 0.0, 1.0, 0.0],
        [4.0, 50.0, 0.0, 0.0, 0.0, 1.0],
        [4.0, 100.0, 0.0, 1.0, 1.0, 0.0],
        [6.0, 50.0, 0.0, 1.0, 1.0, 0.0],
        [8.0, 50.0, 1.0, 0.0, 0.0, 0.0],
    ]
    torch.testing.assert_close(data["observation"], torch.tensor(want), rtol=1e-6, atol=1e-6)
    assert data["next", "reward"].tolist() == [2.0, 7.0, 6.0, 8.0, 10.0]
    said = " ".join(done.notes)
    assert "3 missing values of o filled in" in said and "the categories of kind are those in the log: x, y" in said


def test_actions_and_propensities(tmp_path: Path) -> None:
    """A dose in mg logged in g: the density shrinks by 1000; its log density in [-1, 1] gains log(half the range)."""
    rows = [["a", 0.0, 0.002, 500.0, 1.0, 0], ["a", 0.0, 0.012, 250.0, 1.0, 1]]
    path = table(tmp_path / "log.csv", "e o dose p r end", rows)
    settings = {
        "episode": "e",
        "observation": "o",
        "action": {"column": "dose", "unit": "g", "to": "mg", "low": 0, "high": 10, "clip": True},
        "reward": "r",
        "terminated": "end",
        "propensity": "p",
    }
    done = import_logs(path, settings, "test/log-v0")
    episodes = load("test/log-v0")
    torch.testing.assert_close(unscale_action(episodes.data["action"], episodes.spec), torch.tensor([[2.0], [10.0]]))
    assert "1 action outside of the bounds, cut at them" in done.notes
    assert episodes.data["behavior_log_prob"].tolist() == pytest.approx([math.log(0.5 * 5), math.log(0.25 * 5)])
    rows = [["a", 0.0, "lo", "on", math.log(0.5), 1.0, 0], ["a", 0.0, "hi", "off", math.log(0.25), 1.0, 1]]
    path = table(tmp_path / "log.csv", "e o level switch p r end", rows)
    settings["action"] = [
        {"column": "level", "categories": ["lo", "mid", "hi"]},
        {"column": "switch", "categories": ["off", "on"]},
    ]
    settings["propensity"] = {"column": "p", "kind": "log_probability"}
    import_logs(path, settings, "test/log-v0", overwrite=True)
    episodes = load("test/log-v0")
    assert episodes.spec["action_size"] == 6 and episodes.data["action"].tolist() == [0 * 2 + 1, 2 * 2 + 0]
    assert episodes.data["behavior_log_prob"].exp().tolist() == pytest.approx([0.5, 0.25])


def test_bounds_from_the_log_are_noted(tmp_path: Path) -> None:
    rows = [["a", 0.0, a, 1.0, int(a == 3)] for a in (-1, 1, 3)]
    settings = {"episode": "e", "observation": "o", "action": "a", "reward": "r", "terminated": "end"}
    done = import_logs(table(tmp_path / "log.csv", "e o a r end", rows), settings, "test/log-v0")
    assert "the bounds of the action a are not in the map: taken from the log, -1 to 3" in done.notes
    assert load("test/log-v0").data["action"].tolist() == [[-1.0], [0.0], [1.0]]


def test_a_category_may_be_called_none_and_misspelt_ends_are_noted(tmp_path: Path) -> None:
    rows = [["a", 1, "None", 1, ""], ["a", 2, "full", 1, "died"], ["b", 3, "None", 1, ""], ["b", 4, "None", 1, "ok"]]
    settings = {
        "episode": "e",
        "observation": "o",
        "action": {"column": "dose", "categories": ["None", "full"]},
        "reward": "r",
        "terminated": {"column": "status", "values": ["died", "okay"]},
    }
    done = import_logs(table(tmp_path / "log.csv", "e o dose r status", rows), settings, "test/log-v0")
    assert load("test/log-v0").data["action"].tolist() == [0, 1, 0]
    assert "no row has terminated 'okay': is it spelt as in the log?" in done.notes


def test_whole_numbers_name_the_same_episode_in_files_with_and_without_gaps(tmp_path: Path) -> None:
    """pandas stores whole numbers as floats where a column has a gap; here one file has floats, the other integers."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    numbers = pa.array([0.0, 1.0, 2.0])
    for name, kind in (("1.parquet", pa.float64()), ("2.parquet", pa.int64())):
        columns = {"e": pa.array([7, 7, 7], kind), "o": numbers, "a": numbers, "r": numbers}
        pq.write_table(pa.table(columns), tmp_path / name)
    settings = {"episode": "e", "observation": "o", "reward": "r", "action": {"column": "a", "low": 0, "high": 2}}
    assert imported(tmp_path, settings).length.tolist() == [5]
