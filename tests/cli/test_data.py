"""``offrl data``: each of its verbs; `tests/data/logs` has more on imports, `tests/reports/dataset` on reports."""

from __future__ import annotations

from pathlib import Path

from lightning_offrl.cli import main


def test_a_file_becomes_a_minari_dataset(workplace: Path, capsys):
    assert main(["data", "convert", "tiny.hdf5", "test/converted-v0", "--overwrite"]) == 0
    assert main(["data", "show", "test/converted-v0"]) == 0
    assert "480" in capsys.readouterr().out


def test_a_report_and_its_numbers_are_written(workplace: Path, capsys):
    assert main(["data", "report", "discrete.hdf5", "--report", "seen.html"]) == 0
    assert "written to seen.html and seen.json" in capsys.readouterr().out
    assert (workplace / "seen.html").exists() and (workplace / "seen.json").exists()


def test_an_example_of_a_map_is_printed(offrl, capsys):
    assert main(["data", "import", "--example"]) == 0
    assert "observation:" in capsys.readouterr().out
    status, said = offrl("data import")
    assert status == 2 and "needs at least one .parquet or .csv file" in said


def test_without_a_verb_the_help_is_shown(capsys):
    assert main(["data"]) == 0
    assert "{show,report,convert,import}" in capsys.readouterr().out
