"""The parser of the verbs: names of options today and before, what is shown, and what is probably meant."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lightning_offrl.cli.parser import Parser, nearest
from lightning_offrl.errors import InputError
from lightning_offrl.training import old_names


@pytest.fixture
def parser() -> Parser:
    parser = Parser(prog="offrl try")
    parser.add_argument("--report", help="The report.")
    parser.add_argument("--run_dir", default="runs", help="The folder.")
    parser.add_argument("--seed", type=int, default=0, help="The seed.")
    parser.add_argument("--all", action="store_true", help="All of them.")
    return parser


def test_a_dash_is_an_underscore_and_old_names_are_understood_with_one_warning(parser: Parser, monkeypatch):
    monkeypatch.setattr(old_names, "told", set())
    assert parser.parse_args(["--run-dir", "a-b"]).run_dir == "a-b"
    with pytest.warns(FutureWarning) as told:
        for _ in range(2):
            found = parser.parse_args(["--directory=there", "--output", "x-y.html"])
            assert (found.run_dir, found.report) == ("there", "x-y.html")
    assert [str(one.message).partition(";")[0] for one in told] == [
        "--directory is now --run_dir",
        "--output is now --report",
    ]


def test_an_old_name_of_an_option_that_is_not_there_stays_a_mistake(parser: Parser):
    with pytest.raises(InputError, match="offrl try has no option --held_out"):
        parser.parse_args(["--held_out", "0.1"])


def test_mistakes_are_sentences(parser: Parser):
    with pytest.raises(InputError, match=r"has no option --sed; did you mean --seed\? \(see offrl try --help\)"):
        parser.parse_args(["--sed", "3"])
    with pytest.raises(InputError, match="argument --seed: invalid int value: 'x'"):
        parser.parse_args(["--seed", "x"])


def test_help_shows_defaults_that_say_something(parser: Parser):
    text = parser.format_help()
    assert "The folder. (default: runs)" in text and "The seed. (default: 0)" in text
    assert "The report.\n" in text and text.endswith("All of them.\n")


def test_a_warning_of_a_verb_is_one_line(tmp_path):
    words = [sys.executable, "-m", "lightning_offrl", "data", "report", "none.hdf5", "--output", "x.html"]
    said = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path).stderr.splitlines()
    assert len(said) == 2 and said[0].startswith("offrl: warning: --output is now --report; ")
    assert said[1].startswith("offrl: error: there is no file none.hdf5")


def test_nearest_ignores_case_and_keeps_close_rivals_only():
    assert nearest("iqll", ["BC", "IQL", "TD3BC"]) == "; did you mean IQL?"
    assert nearest("batchsize", ["batch_size", "cache_dir", "validation_batches"]) == "; did you mean batch_size?"
    assert nearest("zzz", ["a"]) == ""
