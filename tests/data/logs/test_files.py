"""Files of logs, whole and in pieces, and what is said of those that cannot be read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_offrl.data.logs import files
from lightning_offrl.data.logs.import_logs import import_logs
from lightning_offrl.errors import InputError
from tests.data.logs.bad_log import GOOD, good, sentence
from tests.data.logs.log_files import HEADER, MAP, imported, rows_of, same, table


@pytest.mark.parametrize("rows", [1, 2, 7, 21, 50])
def test_pieces_of_any_size_give_the_same(
    arrays: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    path = table(tmp_path / "log.csv", HEADER, rows_of(arrays))
    monkeypatch.setattr(files, "ROWS", rows)
    same(imported(path, MAP), arrays)


def test_several_files_and_a_directory(arrays: dict[str, Any], tmp_path: Path) -> None:
    rows = rows_of(arrays)
    (tmp_path / "logs").mkdir()
    first = table(tmp_path / "logs" / "1.csv", HEADER, rows[:50])  # in the middle of an episode
    second = table(tmp_path / "logs" / "2.csv", HEADER, rows[50:])
    same(imported([first, second], MAP), arrays)
    same(imported(tmp_path / "logs", MAP), arrays)


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"not installed: pip install 'lightning-offrl\[logs\]'"):
        import_logs(tmp_path / "x.parquet", MAP, "test/log-v0")


def test_bad_parquet(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.csv
    import pyarrow.parquet

    (place / "log.csv").write_text(good())
    (place / "map.yaml").write_text(yaml.safe_dump(GOOD))
    words = ["--map", "map.yaml"]
    whole = pyarrow.csv.read_csv(place / "log.csv")
    pyarrow.parquet.write_table(whole, place / "log.parquet")
    (place / "cut.parquet").write_bytes((place / "log.parquet").read_bytes()[:-100])
    said = sentence(["data", "import", "cut.parquet", *words], capsys)
    assert "cut.parquet cannot be read as Parquet (" in said and "it may be cut short" in said
    lists = whole.set_column(2, "x", pa.array([[1.0], [2.0], [3.0], [4.0], [5.0]]))
    pyarrow.parquet.write_table(lists, place / "lists.parquet")
    said = sentence(["data", "import", "lists.parquet", *words], capsys)
    assert "lists.parquet, column 'x': values of the type list<" in said and "a column for each part" in said
    nulls = whole.set_column(2, "x", pa.array([1.0, None, 3.0, 4.0, 5.0]))
    pyarrow.parquet.write_table(nulls, place / "nulls.parquet")
    assert "nulls.parquet, row 2, column 'x': the value is missing" in sentence(
        ["data", "import", "nulls.parquet", *words], capsys
    )
    stamps = whole.set_column(2, "x", whole["t"])
    pyarrow.parquet.write_table(stamps, place / "stamps.parquet")
    assert "column 'x': observation[0] must be a number, but the column holds timestamps" in sentence(
        ["data", "import", "stamps.parquet", *words], capsys
    )
