from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch import Callback

from lightning_offrl import BC, OfflineDataModule
from lightning_offrl.callbacks.checkpoint import Checkpoint
from lightning_offrl.callbacks.export import ExportPolicy
from lightning_offrl.callbacks.graceful_stop import GracefulStop, Stopped
from lightning_offrl.errors import InputError
from lightning_offrl.loggers import MetricsCSV
from lightning_offrl.training.files import read_checkpoint


class Score(Callback):
    """Logs a made-up score every 10 updates: 10, 30, 20, 40, 5."""

    every = 10

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if pl_module.updates % 10 == 0:
            pl_module.log_now({"eval/score": [0.0, 10.0, 30.0, 20.0, 40.0, 5.0][pl_module.updates // 10]})


def train(
    folder: Path, arrays: Any, *callbacks: Callback, max_steps: int = 50, ckpt: str | None = None, **model: Any
) -> Any:
    data = OfflineDataModule(arrays, batch_size=8)
    trainer: Any = pl.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        log_every_n_steps=10,
        callbacks=list(callbacks),
        logger=MetricsCSV(str(folder)),
        default_root_dir=str(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(BC(data.spec, hidden=(4,), **model), datamodule=data, ckpt_path=ckpt)
    return trainer


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"every": 20}, {20, 40, 50}),
        ({"every": 20, "keep": 1}, {50}),
        ({"every": 20, "keep": 2}, {40, 50}),
        ({"every": 20, "keep": 0}, set()),
        ({"every": 10, "keep": 2, "monitor": "eval/score"}, {20, 40}),
        ({"every": 10, "keep": 1, "monitor": "eval/score", "mode": "min"}, {50}),
    ],
)
def test_what_is_kept(tmp_path: Path, arrays, options: dict[str, Any], steps: set[int]):
    train(tmp_path, arrays, Score(), Checkpoint(**options))
    assert names(tmp_path) == {f"step={step}.ckpt" for step in steps} | {"last.ckpt"}
    assert read_checkpoint(tmp_path / "checkpoints/last.ckpt")["offrl"]["updates"] == 50


def test_from_python_a_resumed_run_continues_its_metrics(tmp_path: Path, arrays):
    train(tmp_path / "whole", arrays, Score(), Checkpoint(every=20))
    train(tmp_path / "two", arrays, Score(), Checkpoint(every=20), max_steps=30)
    ckpt = str(tmp_path / "two/checkpoints/step=20.ckpt")
    train(tmp_path / "two", arrays, Score(), Checkpoint(every=20), ckpt=ckpt)
    assert (tmp_path / "two/metrics.csv").read_text() == (tmp_path / "whole/metrics.csv").read_text()


def test_nonsense_is_refused():
    with pytest.raises(InputError, match="every >= 1"):
        Checkpoint(every=0)
    with pytest.raises(InputError, match="'min' or 'max', got 'best'"):
        Checkpoint(mode="best")


def test_a_policy_per_stacked_seed(tmp_path: Path, arrays):
    train(tmp_path, arrays, Checkpoint(every=50), ExportPolicy(), seeds=2)
    assert (tmp_path / "policy.pt").exists()
    assert {path.name for path in (tmp_path / "policies").iterdir()} == {"seed0.pt", "seed1.pt"}


def test_from_python_a_signal_ends_fit_with_the_shells_status(tmp_path: Path, arrays, capsys):
    import os
    import signal

    class Signal(Callback):
        def on_update_end(self, algorithm: Any) -> None:
            if algorithm.updates == 15:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped) as stopped:
        train(tmp_path, arrays, GracefulStop(), Signal(), Score(), Checkpoint(every=50))
    assert stopped.value.code == 143
    assert read_checkpoint(str(stopped.value.checkpoint))["offrl"]["updates"] == 20
    assert "stopped after update 20 of 50; go on with: trainer.fit(..., ckpt_path=" in capsys.readouterr().err
    assert "20," in (tmp_path / "metrics.csv").read_text()
