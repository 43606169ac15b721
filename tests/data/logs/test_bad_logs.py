"""Bad logs, each with its sentence: what was expected, what came, where, what to do; exit status 2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_offrl.cli import main
from lightning_offrl.data.readers.minari import local_ids
from tests.data.logs.bad_log import CATEGORICAL, GOOD, HEADER, ROWS, cell, good, run, sentence, text

LOGS: dict[str, tuple[Callable[[], str], dict[str, Any], str]] = {
    "a text for a number": (
        cell(3, "x", "high"),
        {},
        "log.csv, row 3 (line 4), column 'x': observation[0] must be a number, got 'high'; if it means missing",
    ),
    "a decimal comma": (
        cell(2, "x", '"2,5"'),
        {},
        "row 2 (line 3), column 'x': observation[0] must be a number, got '2,5' (with a decimal comma? write a point)",
    ),
    "a missing observation": (
        cell(2, "x", ""),
        {},
        "row 2 (line 3), column 'x': the value is missing; say in the map what then: missing: last, mean",
    ),
    "nothing to carry on": (
        cell(4, "x", "NA"),
        {"observation": [{"column": "x", "missing": "last"}]},
        "row 4 (line 5), column 'x': the value is missing, and last has nothing to offer here (the first rows",
    ),
    "a missing action": (cell(2, "dose", ""), {}, "row 2 (line 3), column 'dose': the value is missing"),
    "a missing reward": (cell(5, "r", "null"), {}, "row 5 (line 6), column 'r': the value is missing"),
    "a missing time": (cell(2, "t", ""), {}, "row 2 (line 3), column 't': the time is missing; every row needs one"),
    "a missing name": (cell(2, "user", ""), {}, "row 2 (line 3), column 'user': the name of the episode is missing"),
    "a missing propensity": (cell(1, "p", ""), {}, "row 1 (line 2), column 'p': the propensity is missing"),
    "an infinite value": (cell(2, "x", "inf"), {}, "row 2 (line 3), column 'x': inf is not a finite number"),
    "too large for float32": (cell(2, "x", "1e300"), {}, "column 'x': 1e300 is not a finite number (float32)"),
    "an unknown category": (
        cell(4, "ward", "ICU"),
        {},
        "row 4 (line 5), column 'ward': 'ICU' is none of the categories in the map",
    ),
    "a flag that is no flag": (
        cell(3, "end", "died"),
        {},
        "row 3 (line 4), column 'end': terminated must be yes or no (true/false, 1/0), got 'died'; give the values",
    ),
    "an action out of bounds": (
        cell(2, "dose", "7"),
        {},
        "row 2 (line 3), column 'dose': the action 7 is outside of the bounds 0 to 5; correct low and high",
    ),
    "a probability of 0": (
        cell(2, "p", "0"),
        {},
        "row 2 (line 3), column 'p': the density 0 of an action that was taken cannot be: it must be above 0",
    ),
    "a probability above 1": (
        cell(2, "p", "1.5"),
        {"action": CATEGORICAL, "observation": "x"},
        "row 2 (line 3), column 'p': the probability 1.5 of an action that was taken cannot be: it must be at most 1",
    ),
    "time that goes back": (
        cell(3, "t", "2023-12-31T00:00:00"),
        {},
        "row 3 (line 4), column 't': the time is earlier than in the row before, in the same episode; set order: sort",
    ),
    "the same time twice": (
        cell(2, "t", "2024-01-01T00:00:00"),
        {},
        "row 2 (line 3), column 't': the time is that of the row before, in the same episode; keep both with time.ties",
    ),
    "a time that is none": (
        cell(2, "t", "yesterday"),
        {},
        "row 2 (line 3), column 't': the time 'yesterday' is not a number or an ISO time such as 2024-03-01T12:30:00",
    ),
    "a time of another format": (
        good,
        {"time": {"column": "t", "format": "%d.%m.%Y"}},
        "row 1 (line 2), column 't': the time '2024-01-01T00:00:00' is not %d.%m.%Y",
    ),
    "a gap that is an error": (
        cell(3, "t", "2024-01-02T00:00:00"),
        {"gap": {"longer_than": "6h", "then": "error"}},
        "row 3 (line 4), column 't': 82800 s after the row before, more than the gap of 21600 s",
    ),
    "rows after the end": (
        cell(2, "end", "1"),
        {},
        "row 2 (line 3), column 'end': the episode ends here, but more rows of it follow",
    ),
    "an episode without an end": (
        cell(5, "end", "0"),
        {"last_row": "error"},
        "row 5 (line 6): the episode stops here without an end (last_row: error)",
    ),
    "an episode in two places": (
        text("\n".join([HEADER, *ROWS, ROWS[0]]) + "\n"),
        {},
        "row 6 (line 7), column 'user': the rows of this episode do not stand together",
    ),
    "too many cells": (
        text(good() + "u3,1,2,3,4,5,6,7,8\n"),
        {},
        "row 6 (line 7): there are 9 cells, but the header has 8",
    ),
    "no rows": (text(HEADER + "\n"), {}, "log.csv holds no episode with a step in it"),
    "an empty file": (text(""), {}, "log.csv is empty: it has no header"),
    "another separator": (
        lambda: good().replace(",", ";"),
        {},
        "its cells seem to be separated by ';': set delimiter in the map",
    ),
    "a column that is not there": (
        good,
        {"reward": "rr"},
        "log.csv has no column 'rr', which the map map.yaml names; did you mean 'r'? It has user, t, x, ward",
    ),
    "a column twice": (lambda: good().replace("ward", "x"), {"observation": "x"}, "log.csv has the column 'x' twice"),
    "a mean of nothing": (
        lambda: "\n".join([HEADER, *(line.replace(line.split(",")[2], "", 1) for line in ROWS)]) + "\n",
        {"observation": {"column": "x", "missing": "mean"}},
        "column 'x': every value is missing, so it has no mean",
    ),
    "a truth value for a word": (
        cell(1, "ward", "yes"),
        {"observation": {"column": "ward", "categories": [True, "er", "icu"]}},
        "'yes' is none of the categories in the map; known are true, er, icu (YAML reads yes as a truth value: write",
    ),
    "a choice that is none": (
        lambda: good().replace(",er,", ",icu,"),
        {"action": {"column": "ward", "categories": "auto"}, "observation": "x"},
        "log.csv, column 'ward': the action is always 'icu', so there is nothing to choose; list all categories",
    ),
    "a quote that is never closed": (cell(2, "ward", '"er'), {}, "log.csv, row 2 (line "),
    "too many labels": (
        lambda: "\n".join([HEADER, *(f"u{i},2024-01-01,{i},icu,1,0,1,0.5" for i in range(1002))]) + "\n",
        {"groups": "user"},
        "log.csv, column 'user': groups[0] has more than 1000 different labels, which are too many groups",
    ),
    "an action that never changes": (
        lambda: (
            "\n".join([HEADER, *(",".join([*line.split(",")[:4], "1", *line.split(",")[5:]]) for line in ROWS)]) + "\n"
        ),
        {"action": "dose"},
        "column 'dose': the action is always 1, so it has no range; give low and high in the map",
    ),
}


@pytest.mark.parametrize("name", LOGS)
def test_bad_logs(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, settings, want = LOGS[name]
    assert want and want in run(log(), settings, place, capsys)


def test_the_good_log_is_good(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "log.csv").write_text(good())
    (place / "map.yaml").write_text(yaml.safe_dump(GOOD))
    assert main(["data", "import", "log.csv", "--map", "map.yaml"]) == 0
    assert "test/bad-v0: 2 episodes, 5 transitions" in capsys.readouterr().out
    assert main(["data", "import", "log.csv", "--map", "map.yaml"]) == 2
    assert "a dataset 'test/bad-v0' already exists" in capsys.readouterr().err
    assert main(["data", "import", "log.csv", "--map", "map.yaml", "--overwrite"]) == 0
    # A log that turns out bad leaves what was there.
    (place / "log.csv").write_text(cell(5, "x", "bad")())
    assert main(["data", "import", "log.csv", "--map", "map.yaml", "--overwrite"]) == 2
    assert local_ids() == ["test/bad-v0"]


@pytest.mark.parametrize(
    ("words", "want"),
    [
        ([], "offrl data import needs at least one .parquet or .csv file"),
        (["log.csv"], "offrl data import needs --map FILE, the YAML that says which column is what"),
        (["log.csv", "--map", "none.yaml"], "the map none.yaml cannot be read (No such file or directory)"),
        (["log.csv", "--map", "broken.yaml"], "the map broken.yaml is not YAML (line 3)"),
        (["log.csv", "--map", "list.yaml"], "the map list.yaml must be settings with names, got list"),
        (["lgo.csv", "--map", "map.yaml"], "there is no file lgo.csv; did you mean log.csv?"),
        (
            ["log.json", "--map", "map.yaml"],
            "log.json is no log that can be read; .parquet, .csv and .csv.gz files are",
        ),
        (["empty", "--map", "map.yaml"], "empty is a directory without logs"),
        (["latin.csv", "--map", "map.yaml"], "latin.csv is not text in UTF-8"),
        (["broken.csv.gz", "--map", "map.yaml"], "broken.csv.gz cannot be read as CSV after row 0"),
        (["log.csv", "--map", "map.yaml", "--dataset_id", "x"], "'x' is not a dataset id"),
        (["log.csv", "--maps", "map.yaml"], "has no option --maps"),
    ],
)
def test_bad_files_and_arguments(words: list[str], want: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "log.csv").write_text(good())
    (place / "log.json").write_text("{}")
    (place / "map.yaml").write_text(yaml.safe_dump(GOOD))
    (place / "broken.yaml").write_text("a: 1\nb: [1, 2\n")
    (place / "list.yaml").write_text("- 1\n")
    (place / "latin.csv").write_bytes(good().replace("icu", "caf\xe9").encode("latin-1"))
    (place / "broken.csv.gz").write_bytes(b"no gzip")
    (place / "empty").mkdir()
    assert want in sentence(["data", "import", *words], capsys)


def test_a_store_that_cannot_be_written(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "file").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(place / "file"))
    assert "test/bad-v0 cannot be written: Minari's store " in run(good(), {}, place, capsys)


@pytest.mark.slow
def test_a_process_of_its_own_ends_the_same_way(place: Path) -> None:
    (place / "log.csv").write_text(cell(3, "x", "high")())
    (place / "map.yaml").write_text(yaml.safe_dump(GOOD))
    words = [sys.executable, "-m", "lightning_offrl", "data", "import", "log.csv", "--map", "map.yaml"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("offrl: error: log.csv, row 3 (line 4), column 'x'") and done.stderr.count("\n") == 1
    assert local_ids() == []
