"""The files of a dataset report, and the command that writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lightning_offrl.data.strata import Sampling
from lightning_offrl.reports.dataset.document import document
from lightning_offrl.reports.dataset.measure import measure
from lightning_offrl.reports.dataset.write import as_json, write
from tests.reports.dataset.worlds import made, mixture


def test_the_report_and_its_numbers(tmp_path: Path) -> None:
    measures = measure({**mixture(), "name": "a <mixed> set"})
    report, numbers = write(measures, tmp_path)
    assert report == tmp_path / "a-mixed-set-report.html" and numbers == report.with_suffix(".json")
    assert report.read_text() == document(measures)
    assert sorted(tmp_path.iterdir()) == [report, numbers]
    facts = json.loads(numbers.read_text())
    assert facts == as_json(measures) and facts["verdict"]["kind"] == "improve"
    assert facts["returns"]["mean"] == pytest.approx(float(measures.episodes.returns().mean()))
    # The samplers read it.
    sampling = Sampling(strata="policy", report=str(numbers))
    strata = sampling.stratum(measures.episodes)
    assert strata.bincount().tolist() == [40 * 30, 40 * 30]
    assert as_json(measure({**mixture(), "name": "a <mixed> set"})) == facts  # nothing in it is left to chance


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from lightning_offrl.cli import main

    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "small.npz", **made(12, lengths=(10, 11)))
    assert main(["data", "report", "small.npz"]) == 0
    said = capsys.readouterr().out
    assert "This data cannot support an improvement claim" in said and "written to small-report.html" in said
    assert (tmp_path / "small-report.json").is_file()
    for words, sentence in (
        (["nothere.hdf5"], "there is no file nothere.hdf5"),
        (["small.npz", "--discount", "1"], "discount of a report must lie in [0, 1), got 1.0"),
        (["small.npz", "--report", "report.pdf"], "the report is written as .html, got the path report.pdf"),
        (["small.npz", "--report", "/proc/none/x.html"], "the report cannot be written to /proc/none/x.html"),
        (["small.npz", "--html", "x"], "offrl data report has no option --html"),
    ):
        assert main(["data", "report", *words]) == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1
