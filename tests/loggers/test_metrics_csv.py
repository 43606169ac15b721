from __future__ import annotations

from pathlib import Path

import pytest

from lightning_offrl.errors import InputError
from lightning_offrl.loggers import MetricsCSV
from lightning_offrl.loggers.metrics_csv import read_metrics


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_metrics_of_one_step_share_a_row_and_new_ones_add_a_column(tmp_path: Path):
    logger = MetricsCSV(str(tmp_path))
    logger.log_metrics({"loss": 0.5, "epoch": 0}, step=10)
    logger.log_metrics({"eval/return": 3.0}, step=10)
    logger.log_metrics({"loss": 0.25}, step=20)
    assert lines(tmp_path / "metrics.csv") == ["step,loss,eval/return", "10,0.5,3.0", "20,0.25,"]
    logger.log_metrics({"late": 1.0}, step=10)  # a row further up
    logger.log_metrics({"loss": 0.125}, step=30)
    assert lines(tmp_path / "metrics.csv") == [
        "step,loss,eval/return,late",
        "10,0.5,3.0,1.0",
        "20,0.25,,",
        "30,0.125,,",
    ]


def test_every_call_is_on_disk_when_it_returns(tmp_path: Path):
    logger = MetricsCSV(str(tmp_path))
    for step in range(1, 4):
        logger.log_metrics({"loss": float(step)}, step=step)
        assert len(lines(tmp_path / "metrics.csv")) == 1 + step


def test_resuming_gives_the_file_of_an_uninterrupted_run(tmp_path: Path):
    def run(logger: MetricsCSV, first: int, last: int) -> None:
        for step in range(first, last + 1):
            logger.log_metrics({"loss": 1 / step}, step=step)
            if step % 4 == 0:
                logger.log_metrics({"eval/score": step / 3}, step=step)
            if step == 7:
                logger.log_metrics({"rare": 1.0}, step=step)

    whole = MetricsCSV(str(tmp_path / "whole"))
    run(whole, 1, 9)
    killed = MetricsCSV(str(tmp_path / "killed"))
    run(killed, 1, 7)
    with open(killed.path, "a") as file:
        file.write("8,0.1")  # half a line, as a kill in the middle of a write leaves it
    again = MetricsCSV(str(tmp_path / "killed"))
    again.resume_at(4)
    assert read_metrics(again.path)[0] == ["step", "loss", "eval/score"]  # what only later rows had is gone
    run(again, 5, 9)
    assert again.path.read_text() == whole.path.read_text()


def test_a_new_run_keeps_the_old_file_under_another_name(tmp_path: Path):
    MetricsCSV(str(tmp_path)).log_metrics({"loss": 1.0}, step=5)
    MetricsCSV(str(tmp_path)).log_metrics({"loss": 2.0}, step=1)
    assert lines(tmp_path / "metrics.csv") == ["step,loss", "1,2.0"]
    assert lines(tmp_path / "metrics-1.csv") == ["step,loss", "5,1.0"]


def test_the_file_goes_on_after_finalize(tmp_path: Path):
    logger = MetricsCSV(str(tmp_path))
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.finalize("success")
    logger.log_metrics({"loss": 2.0}, step=2)
    assert lines(tmp_path / "metrics.csv") == ["step,loss", "1,1.0", "2,2.0"]


def test_a_foreign_file_is_not_continued(tmp_path: Path):
    (tmp_path / "metrics.csv").write_text("time,loss\n1,2\n")
    with pytest.raises(InputError, match="does not begin with a 'step' column"):
        MetricsCSV(str(tmp_path)).resume_at(3)


def test_a_given_directory_wins_over_the_run_directory(tmp_path: Path):
    logger = MetricsCSV()
    logger.use_run_dir(str(tmp_path / "run"))
    assert logger.path == tmp_path / "run" / "metrics.csv"
    logger.use_run_dir("elsewhere")
    assert logger.path == tmp_path / "run" / "metrics.csv"
