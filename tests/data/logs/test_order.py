"""Rows that are not in order are sorted on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_offrl.data.logs import files, order
from tests.data.logs.log_files import HEADER, MAP, imported, rows_of, same, table


def test_shuffled_rows_are_sorted_on_disk(
    arrays: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(arrays)
    mixed = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    # Episodes come out in the order in which they first appear.
    mixed = [row for i in range(6) for row in mixed if row[0] == f"run {i}" and row[1] == 0] + [
        row for row in mixed if row[1] != 0
    ]
    path = table(tmp_path / "log.csv", HEADER, mixed)
    monkeypatch.setattr(files, "ROWS", 13)
    for bucket in (10, 45, 1000):
        monkeypatch.setattr(order, "BUCKET", bucket)
        same(imported(path, {**MAP, "order": "sort"}), arrays)
