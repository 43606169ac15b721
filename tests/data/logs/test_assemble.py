"""Where the episodes of a log end: gaps in time, flags, and logs that do not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightning_offrl.data.logs import files
from lightning_offrl.data.logs.import_logs import import_logs
from lightning_offrl.data.readers import load
from lightning_offrl.data.readers.minari import data_directory
from lightning_offrl.errors import InputError
from tests.data.logs.log_files import imported, table

GAPS = [["a", f"2024-01-01T{h:02}:00:00", h, 1, 1] for h in (0, 1, 2, 9, 10, 11)]


@pytest.mark.parametrize(
    ("gap", "lengths"),
    [(None, [5]), ("6h", [2, 2]), ({"longer_than": "6h", "then": "keep"}, [5]), ("8 h", [5]), ("59min", [])],
)
def test_gaps_in_time(tmp_path: Path, gap: Any, lengths: list[int]) -> None:
    path = table(tmp_path / "log.csv", "e t o a r", GAPS)
    settings = {"episode": "e", "time": "t", "observation": "o", "reward": "r"}
    settings |= {"action": {"column": "a", "low": 0, "high": 2}, **({"gap": gap} if gap else {})}
    if not lengths:
        with pytest.raises(InputError, match="holds no episode with a step in it"):
            import_logs(path, settings, "test/log-v0")
        assert data_directory("test/log-v0") is None
        return
    done = import_logs(path, settings, "test/log-v0")
    episodes = load("test/log-v0")
    assert episodes.length.tolist() == lengths
    # The row after a gap is no next observation: the piece before it ends with its own last row.
    first = lengths[0] - 1
    assert episodes.data["next", "observation"][first, 0] == (2.0 if len(lengths) == 2 else 11.0)
    assert any("gap" in note for note in done.notes) == (len(lengths) == 2)


def test_long_gaps_that_the_map_does_not_mention_are_noted(tmp_path: Path) -> None:
    rows = [["a", t, t, 1, 1] for t in [*range(0, 1200, 60), *range(90_000, 91_200, 60)]]
    settings = {"episode": "e", "time": "t", "observation": "o", "reward": "r"}
    settings["action"] = {"column": "a", "low": 0, "high": 2}
    done = import_logs(table(tmp_path / "log.csv", "e t o a r", rows), settings, "test/log-v0")
    assert any("1 step took more than 10 times as long as the median step (about 60)" in note for note in done.notes)


@pytest.mark.parametrize(
    ("last_row", "steps", "terminal"), [("cut", [1, 2], [0, 0]), ("terminated", [2, 3, 1], [1, 1, 1]), ("drop", [], [])]
)
def test_episodes_without_an_end(tmp_path: Path, last_row: str, steps: list[int], terminal: list[int]) -> None:
    rows = [["a", 1, 1, 1], ["a", 2, 1, 1], ["b", 3, 1, 1], ["b", 4, 1, 1], ["b", 5, 1, 1], ["c", 6, 1, 1]]
    path = table(tmp_path / "log.csv", "e o a r", rows)
    settings = {"episode": "e", "observation": "o", "reward": "r", "last_row": last_row}
    settings["action"] = {"column": "a", "low": 0, "high": 2}
    if not steps:
        with pytest.raises(InputError, match="holds no episode"):
            import_logs(path, settings, "test/log-v0")
        return
    done = import_logs(path, settings, "test/log-v0")
    episodes = load("test/log-v0")
    assert episodes.length.tolist() == steps
    last = episodes.start + episodes.length - 1
    assert episodes.data["next", "terminated"][last].int().tolist() == terminal
    assert any("1 episode of a single row left out" in note for note in done.notes) == (last_row == "cut")


def test_flags_alone_can_end_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        [1, 1, 0, "go"],
        [2, 1, 1, "won"],
        [3, 1, 0, "go"],
        [4, 1, 0, "out of time"],
        [5, 1, 0, "go"],
        [6, 1, 2, "lost"],
    ]
    path = table(tmp_path / "log.csv", "o a r status", rows)
    settings = {
        "observation": "o",
        "action": {"column": "a", "categories": [1, 2]},
        "reward": "r",
        "terminated": {"column": "status", "values": ["won", "lost"]},
        "truncated": {"column": "status", "values": ["out of time"]},
    }
    for rows_at_once in (1, 2, 100):
        monkeypatch.setattr(files, "ROWS", rows_at_once)
        episodes = imported(path, settings)
        assert episodes.length.tolist() == [2, 1, 2] and episodes.returns().tolist() == [1.0, 0.0, 2.0]
        assert episodes.data["next", "truncated"].tolist() == [False, False, True, False, False]
