from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_offrl.callbacks.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class IQL:
    pass


def run(bar: ProgressBar, total: int = 1000, block: int = 50, start: int = 0, end: int | None = None) -> Any:
    trainer: Any = SimpleNamespace(
        global_step=start,
        max_steps=total,
        callback_metrics={},
        lightning_module=IQL(),
        is_global_zero=True,
    )
    bar.on_train_start(trainer, None)
    while trainer.global_step < (end or total):
        trainer.global_step += block
        trainer.callback_metrics = {
            "train/q_loss": torch.tensor(0.5),
            "train/q": torch.tensor(3.0),
            "val/q_loss": torch.tensor(9.0),
            "eval/return": torch.tensor(3000.0),
            "eval/score": torch.tensor(45.21),
        }
        bar.on_train_batch_end(trainer, None)
    bar.on_train_end(trainer, None)
    return trainer


def test_without_a_terminal_every_tenth_is_a_plain_line():
    out = io.StringIO()
    run(ProgressBar(file=out))
    lines = out.getvalue().splitlines()
    assert len(lines) == 10 and "\r" not in out.getvalue()
    assert lines[4].startswith("IQL    500/1,000 updates (50 %)")
    assert lines[4].endswith("left  score 45.2  q_loss 0.5")


def test_a_resumed_run_goes_on_counting():
    out = io.StringIO()
    run(ProgressBar(file=out), start=500)
    assert [line.split("(")[1].split(" ")[0] for line in out.getvalue().splitlines()] == ["60", "70", "80", "90", "100"]


def test_on_a_terminal_one_line_is_redrawn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "60")
    out = Terminal()
    run(ProgressBar(refresh=0.0, file=out))
    assert out.getvalue().count("\n") == 1 and out.getvalue().count("\r") == 21
    assert max(len(part.rstrip("\n")) for part in out.getvalue().split("\r")) <= 59


def test_a_run_without_length_shows_no_percentage():
    out = io.StringIO()
    run(ProgressBar(file=out), total=-1, end=800)
    last = out.getvalue().splitlines()[-1]
    assert "%" not in last and "left" not in last and "updates" in last


def test_disabled_it_is_silent():
    out = io.StringIO()
    bar = ProgressBar(file=out)
    bar.disable()
    run(bar)
    assert out.getvalue() == ""
