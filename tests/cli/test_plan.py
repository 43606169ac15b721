"""``offrl plan`` as a person would use it; `test_select.py` plans again from what ``offrl select`` wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_offrl.cli.plan import main, read_numbers
from lightning_offrl.errors import InputError


def test_numbers_are_read(tmp_path: Path):
    path = tmp_path / "numbers.json"
    path.write_text(json.dumps({"a": [1, 2.5], "b": []}))
    assert read_numbers(None, "value") is None
    assert read_numbers(str(path), "[return, ...]", several=True) == {"a": [1.0, 2.5], "b": []}
    with pytest.raises(InputError, match=r'must be JSON of the form {"policy": value, ...}'):
        read_numbers(str(path), "value")


def test_help_names_the_options(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--episodes N", "--played JSON", "--json FILE"))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("plan nothere.json --episodes 3", "nothere.json cannot be read"),
        ("plan better.json", "expected what offrl select --json writes"),
        ("plan", "the following arguments are required: FILE"),
    ],
)
def test_mistakes_are_told_in_one_sentence(log: Path, offrl, line: str, sentence: str):
    status, said = offrl(line)
    assert status == 2 and sentence in said and said.count("\n") == 1
