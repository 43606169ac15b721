"""A good log and its map to be spoilt, and the one sentence that must follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_offrl.cli import main
from lightning_offrl.data.readers.minari import local_ids

HEADER = "user,t,x,ward,dose,r,end,p"
ROWS = [
    "u1,2024-01-01T00:00:00,1.5,icu,0.5,0,0,0.5",
    "u1,2024-01-01T01:00:00,2.5,er,1.5,1,0,0.5",
    "u1,2024-01-01T02:00:00,3.5,icu,2.5,2,1,0.5",
    "u2,2024-01-01T00:00:00,4.5,er,3.5,3,0,0.5",
    "u2,2024-01-01T01:00:00,5.5,icu,4.5,4,1,0.5",
]
GOOD: dict[str, Any] = {
    "dataset_id": "test/bad-v0",
    "episode": "user",
    "time": "t",
    "observation": ["x", {"column": "ward", "categories": ["icu", "er"]}],
    "action": {"column": "dose", "low": 0, "high": 5},
    "reward": "r",
    "terminated": "end",
    "propensity": "p",
}
CATEGORICAL = {"column": "ward", "categories": ["icu", "er"]}


def cell(row: int, column: str, value: str) -> Callable[[], str]:
    """The log with another value in one cell; rows count from 1."""

    def change() -> str:
        rows = [line.split(",") for line in ROWS]
        rows[row - 1][HEADER.split(",").index(column)] = value
        return "\n".join([HEADER, *(",".join(line) for line in rows)]) + "\n"

    return change


def text(value: str) -> Callable[[], str]:
    """This log."""
    return lambda: value


good = text("\n".join([HEADER, *ROWS]) + "\n")


def sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run; it must fail with one line, leave no dataset, and show no trace."""
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("offrl: error: ") and said.count("\n") == 1 and "Traceback" not in said
    assert local_ids() == []
    return said


def run(log: str, settings: dict[str, Any], place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    (place / "log.csv").write_text(log)
    written = {key: value for key, value in {**GOOD, **settings}.items() if value is not None}
    (place / "map.yaml").write_text(yaml.safe_dump(written))
    return sentence(["data", "import", "log.csv", "--map", "map.yaml"], capsys)
