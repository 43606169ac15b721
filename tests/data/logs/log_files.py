"""Logs for tests: written as tables, and imported."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.logs.import_logs import import_logs
from lightning_offrl.data.readers import load


def table(path: Path, header: str, rows: Iterable[Iterable[Any]]) -> Path:
    """A CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split())
        writer.writerows(rows)
    return path


def imported(path: Any, settings: dict[str, Any], name: str = "test/log-v0") -> Episodes:
    import_logs(path, settings, name, overwrite=True)
    return load(name)


def parquet(path: Path) -> Path:
    """The same CSV as Parquet, in several row groups."""
    pytest.importorskip("pyarrow")
    import pyarrow.csv
    import pyarrow.parquet

    out = path.with_suffix(".parquet")
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(path), out, row_group_size=17)
    return out


MAP: dict[str, Any] = {
    "episode": "e",
    "time": "t",
    "observation": ["o0", "o1", "o2"],
    "action": [{"column": "a0", "low": -1, "high": 1}, {"column": "a1", "low": -1, "high": 1}],
    "reward": "r",
    "terminated": "end",
}
HEADER = "e t o0 o1 o2 a0 a1 r end"


def rows_of(arrays: dict[str, Any]) -> list[list[Any]]:
    """Episodes of `random_arrays` as a log: a row for each step, and one more for the last observation of a cut one."""
    out = []
    for i in range(6):
        for t in range(20):
            k = 20 * i + t
            numbers = [*arrays["observations"][k], *arrays["actions"][k], arrays["rewards"][k]]
            out.append([f"run {i}", t, *map(float, numbers), int(arrays["terminals"][k])])
        if not arrays["terminals"][k]:
            out.append([f"run {i}", 20, *map(float, arrays["next_observations"][k]), "", "", "", 0])
    return out


def same(one: Episodes, arrays: dict[str, Any]) -> None:
    other = load(arrays)
    assert torch.equal(one.length, other.length)
    for key in ("observation", "action", ("next", "reward"), ("next", "terminated"), ("next", "truncated")):
        torch.testing.assert_close(one.data[key], other.data[key], rtol=0, atol=1e-7)
    inside = ~other.data["next", "terminated"]  # behind a terminal state nothing was logged
    torch.testing.assert_close(
        one.data["next", "observation"][inside], other.data["next", "observation"][inside], rtol=0, atol=0
    )
