"""A run that tests interrupt, and what makes two runs the same."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from lightning_offrl.training.files import read_checkpoint

OFFRL = [sys.executable, "-m", "lightning_offrl"]
FIT = (
    "fit --model IQL --data.source tiny.hdf5 --model.hidden [8,8] --model.dropout 0.1 --trainer.logger MetricsCSV "
    "--trainer.log_every_n_steps 10 --data.validation_fraction 0.2 --trainer.val_check_interval 40 "
    "--trainer.callbacks+=interrupting.Interrupt --trainer.callbacks+=lightning_offrl.callbacks.checkpoint.Checkpoint "
    "--trainer.callbacks.every 20"
)


def same(left: Path, right: Path) -> None:
    """Checkpoints hold the same numbers bit for bit, and the metrics files the same text."""
    one, two = (read_checkpoint(path / "checkpoints" / "last.ckpt") for path in (left, right))
    assert one["offrl"]["updates"] == two["offrl"]["updates"]
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_equal(one[key], two[key], key)
    assert (left / "metrics.csv").read_text() == (right / "metrics.csv").read_text()


def assert_equal(one: object, two: object, where: str) -> None:
    assert type(one) is type(two), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_equal(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for index, (first, second) in enumerate(zip(one, two, strict=True)):
            assert_equal(first, second, f"{where}[{index}]")
    else:
        assert one == two, where
