"""A trainer and a process are after a run what they were before it, however the run ended."""

from __future__ import annotations

import signal
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from tensordict import TensorDict

from lightning_offrl.algorithms.bc import BC
from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.training import cpu
from lightning_offrl.training.files import AtomicCheckpointIO
from lightning_offrl.training.lightning_binding import LightningBinding, with_batch_size
from tests.contracts.pages import episodes_for, small


class Failure(Exception):
    """Raised somewhere in a run."""


class FailsIn(pl.Callback):
    """Notes how things stand in one hook of a run, and raises there.

    Args:
        hook: its name.
        error: what to raise; None lets the run go on.
    """

    def __init__(self, hook: str, error: type[BaseException] | None) -> None:
        self.seen: tuple[Any, ...] | None = None
        self.error = error
        setattr(self, hook, self._fail)

    def _fail(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        self.seen = state(trainer)
        if self.error is not None:
            raise self.error


class FailingBC(BC):
    """Fails in its own update, or in one that is only evaluated."""

    fails_when_evaluating = False

    def update(self, batch: Any) -> dict[str, torch.Tensor]:
        if self.updates == 2 and self.evaluating == self.fails_when_evaluating:
            raise Failure
        return super().update(batch)


def state(trainer: pl.Trainer) -> tuple[Any, ...]:
    """What training changes outside of the algorithm."""
    return (
        torch.get_float32_matmul_precision(),
        cpu.memory_is_kept(),
        list(warnings.filters),
        type(trainer.strategy.checkpoint_io),
        [type(callback) for callback in trainer.callbacks if isinstance(callback, LightningBinding)],
    )


def run(tmp_path: Path, callback: pl.Callback | None = None, algorithm: type[BC] = BC, **trainer: Any) -> Any:
    """A trainer and a module that are ready to fit."""
    data = OfflineDataModule(episodes_for(BC), batch_size=16, validation_fraction=0.25)
    page = algorithm(data.spec, **small(BC), matmul_precision="medium")
    made = pl.Trainer(
        max_steps=4,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        val_check_interval=2,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
        callbacks=[] if callback is None else [callback],
        **trainer,
    )
    return made, page, data


HOOKS = [
    "on_fit_start",
    "on_train_start",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_validation_batch_start",
    "on_validation_end",
    "on_train_end",
]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("error", [Failure, KeyboardInterrupt])
def test_an_exception_in_a_callback_leaves_everything_as_before(hook, error, tmp_path):
    """Lightning exits after Ctrl-C; a notebook catches that and goes on in the same process."""
    callback = FailsIn(hook, error)
    trainer, page, data = run(tmp_path, callback)
    before, ctrl_c = state(trainer), signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit if error is KeyboardInterrupt else Failure):
            trainer.fit(page, data)
    finally:
        signal.signal(signal.SIGINT, ctrl_c)  # Lightning ignores further ones
    assert callback.seen is not None and callback.seen != before, "there was something to put back"
    assert state(trainer) == before
    assert page.after_update == [] and page.compile_choice.compiled is None


@pytest.mark.parametrize("evaluating", [False, True], ids=["training_step", "validation_step"])
def test_an_exception_in_the_algorithm_leaves_everything_as_before(evaluating, tmp_path, monkeypatch):
    monkeypatch.setattr(FailingBC, "fails_when_evaluating", evaluating)
    trainer, page, data = run(tmp_path, algorithm=FailingBC)
    before = state(trainer)
    with pytest.raises(Failure):
        trainer.fit(page, data)
    assert state(trainer) == before and not page.evaluating and page.updates == 2


def test_a_run_that_ends_well_leaves_everything_as_before_and_can_be_followed_by_another(tmp_path):
    callback = FailsIn("on_train_start", None)
    trainer, page, data = run(tmp_path, callback)
    before = state(trainer)
    trainer.fit(page, data)
    assert state(trainer) == before
    precision, kept, _, writer, bindings = callback.seen
    assert (precision, writer, bindings) == ("medium", AtomicCheckpointIO, [LightningBinding])
    assert kept == (cpu._glibc() is not None)
    trainer.validate(page, data, verbose=False)
    assert state(trainer) == before
    trainer.fit_loop.epoch_loop.max_steps = 6
    trainer.fit(page, data)
    assert page.updates == trainer.global_step == 6 and state(trainer) == before


def test_the_checkpoint_of_a_failed_run_is_written_by_our_writer(tmp_path, monkeypatch):
    """A ModelCheckpoint that saves on exceptions comes before everything is put back."""
    writers = []
    save = AtomicCheckpointIO.save_checkpoint
    monkeypatch.setattr(
        AtomicCheckpointIO, "save_checkpoint", lambda self, *a, **k: writers.append(self) or save(self, *a, **k)
    )
    saver = pl.callbacks.ModelCheckpoint(tmp_path, filename="failed", save_on_exception=True)
    trainer, page, data = run(tmp_path, FailsIn("on_train_batch_end", Failure))
    trainer.callbacks.append(saver)
    with pytest.raises(Failure):
        trainer.fit(page, data)
    assert len(writers) == 1 and list(tmp_path.glob("*.ckpt"))


def test_a_writer_that_the_user_chose_stays(tmp_path):
    class Own(TorchCheckpointIO):
        pass

    callback = FailsIn("on_train_start", None)
    trainer, page, data = run(tmp_path, callback, plugins=[Own()])
    trainer.fit(page, data)
    assert callback.seen[3] is Own and type(trainer.strategy.checkpoint_io) is Own


def test_the_batch_size_that_double_precision_leaves_out():
    for action, kind in ((torch.zeros(4, 5, 2), "box"), (torch.zeros(4, 5, dtype=torch.int64), "discrete")):
        block = TensorDict({"action": action, "observation": torch.zeros(4, 5, 3)}, batch_size=[])
        assert with_batch_size(block, kind).batch_size == (4, 5)
