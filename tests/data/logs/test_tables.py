"""What a log says besides: groups and times kept aside, names and units for the report."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.logs import assemble, files
from lightning_offrl.data.logs.import_logs import import_logs
from lightning_offrl.data.readers import load
from lightning_offrl.errors import InputError
from lightning_offrl.ope.weighting.groups import elapsed_of, labels_of
from tests.data.logs.log_files import imported, table


def test_names_and_units_reach_the_report(tmp_path: Path) -> None:
    from lightning_offrl.reports.dataset.document import document
    from lightning_offrl.reports.dataset.measure import measure

    rng = np.random.default_rng(0)
    rows = [
        [e, float(rng.normal()), rng.choice(["none", "full"]), 1.0, int(t == 4)] for e in range(6) for t in range(5)
    ]
    rows.append(["alone", 0.0, "none", 1.0, 0])
    settings = {
        "episode": "e",
        "observation": {"column": "lactate", "unit": "mmol/l"},
        "action": {"column": "dose", "categories": ["none", "full"]},
        "reward": "r",
        "terminated": "end",
    }
    import_logs(table(tmp_path / "log.csv", "e lactate dose r end", rows), settings, "test/log-v0")
    report = document(measure("test/log-v0"))
    assert "lactate (mmol/l)" in report and ">full<" in report and "1 episode of a single row left out" in report


def test_groups_and_times_are_kept_aside(tmp_path: Path) -> None:
    """Texts as labels, numbers as they are, each carried on within its episode; times in seconds."""
    rows = [
        ["a", "2024-01-01T00:00:00", 1, 0, 1, "north", 61],
        ["a", "2024-01-01T02:00:00", 2, 1, 1, "", ""],
        ["a", "2024-01-01T03:00:00", 3, 0, 1, "south", 61],
        ["b", "2024-01-01T00:00:00", 4, 1, 1, "", 45],
        ["b", "2024-01-01T00:30:00", 5, 1, 1, "", 45],
    ]
    path = table(tmp_path / "log.csv", "e t o a r site age", rows)
    settings = {
        "episode": "e",
        "time": "t",
        "observation": {"column": "o", "categories": [1, 2, 3, 4, 5]},
        "action": {"column": "a", "categories": [0, 1]},
        "reward": "r",
        "groups": ["site", "age"],
        "last_row": "terminated",
    }
    done = import_logs(path, settings, "test/log-v0")
    assert "1 episode with a group that changes: the one of the first step counts" in done.notes
    for _ in range(2):  # read, and from the cache
        episodes = load("test/log-v0")
        assert episodes.columns["log"] == [
            {"name": "t", "unit": "s"},
            {"name": "site", "unit": None, "labels": ["north", "south"]},
            {"name": "age", "unit": None, "labels": None},
        ]
        midnight = 1704067200.0  # `date -ud 2024-01-01 +%s`
        time, site, age = episodes.data["log"].T
        assert (time - midnight).tolist() == [0.0, 7200.0, 10800.0, 0.0, 1800.0]
        np.testing.assert_array_equal(site, [0, 0, 0, math.nan, math.nan])
        assert age.tolist() == [61, 61, 61, 45, 45]
    assert labels_of(episodes, "site") == ["north", "missing"] and labels_of(episodes, "age") == ["61", "45"]
    assert labels_of(episodes, "o") == ["1", "4"]
    assert elapsed_of(episodes, "t", "h").tolist() == [0.0, 2.0, 3.0, 0.0, 0.5]
    with pytest.raises(InputError, match="the times in t are in s, and a discount per s differs from one per hour"):
        elapsed_of(episodes, "t")
    with pytest.raises(InputError, match=r"no column 'sites'; did you mean 'site'\? it has t, site, age, o, and ac"):
        labels_of(episodes, "sites")
    other = Episodes.join([episodes, episodes.select([1])])
    assert labels_of(other, "site") == ["north", "missing", "missing"]


def test_groups_survive_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A label in the first row only, and an episode given out while it is read: every piece has it."""
    rows = [[i, i, 0, 1, "north" if i == 0 else ""] for i in range(500)]
    path = table(tmp_path / "log.csv", "t o a r site", rows)
    settings = {"time": {"column": "t", "unit": "min"}, "observation": "o", "reward": "r", "max_length": 30}
    settings |= {"action": {"column": "a", "categories": [0, 1]}, "groups": "site"}
    monkeypatch.setattr(files, "ROWS", 64)
    monkeypatch.setattr(assemble, "MANY", 50)
    episodes = imported(path, settings)
    assert episodes.n_episodes == 17 and labels_of(episodes, "site") == ["north"] * 17
    assert elapsed_of(episodes, "t", "min")[:31].tolist() == [*range(30), 0]
