"""Ctrl-C and SIGTERM end a run between two updates, with everything saved."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_offrl.callbacks.checkpoint import Checkpoint


class Stopped(SystemExit):
    """Training was stopped by a signal. ``code`` is 128 + the signal's number, as shells expect.

    Attributes:
        checkpoint: The file to resume from; None if training was stopped in the middle of an update, without saving.
    """

    def __init__(self, signum: int, checkpoint: str | None) -> None:
        super().__init__(128 + signum)
        self.checkpoint = checkpoint


class GracefulStop(Callback):
    """Ends training at the first Ctrl-C or SIGTERM: after the block of updates, ``last.ckpt`` is saved.

    A line says how to resume. A second Ctrl-C ends it at once, without saving: a checkpoint is never written from the
    middle of an update. The callback moves itself behind all others, so that what was due at the last update (an
    evaluation, a checkpoint) has happened. While training runs it replaces the signal handlers of Python and Lightning,
    in the main thread only; they are restored afterwards. With several processes, all stop after the same block.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._replaced: dict[int, Any] = {}

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        """Become the last callback."""
        # a new list: Lightning is walking along the old one
        trainer.callbacks = [callback for callback in trainer.callbacks if callback is not self] + [self]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the signal handlers; Lightning has installed its own just before."""
        self._received = None
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._replaced[signum] = signal.signal(signum, self._receive)

    def on_train_batch_end(
        self, trainer: Any, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and end training, if a signal has come.

        Raises:
            Stopped: A signal has come; this is a ``SystemExit``.
        """
        stop = self._received is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if not stop or trainer.global_step == trainer.max_steps:  # a finished run ends in its usual way
            return
        if trainer.enable_validation and trainer.val_check_batch > 1 and (batch_idx + 1) % trainer.val_check_batch == 0:
            return  # Lightning validates right after this and would not make up for it: one more block
        path = self._save(trainer)
        signum = self._received or signal.SIGTERM
        self._restore()
        if trainer.is_global_zero:
            by_command = (path.parent.parent / "config.yaml").exists()
            how = (
                f"offrl fit --ckpt_path {_short(path)}" if by_command else f"trainer.fit(..., ckpt_path={str(path)!r})"
            )
            total = f" of {trainer.max_steps:,}" if trainer.max_steps > 0 else ""
            sys.stderr.write(f"\nstopped after update {trainer.global_step:,}{total}; go on with: {how}\n")
        raise Stopped(signum, str(path))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the signal handlers."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers."""
        self._restore()

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self._received is not None:
            if signum == signal.SIGINT:
                self._restore()
                raise Stopped(signum, None)
            return
        self._received = signum
        # os.write: a handler may interrupt the very print that it would call
        os.write(2, b"\nstopping after this block of updates, then saving; Ctrl-C again stops at once\n")

    def _restore(self) -> None:
        for signum, handler in self._replaced.items():
            signal.signal(signum, handler)
        self._replaced = {}

    def _save(self, trainer: Trainer) -> Path:
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Checkpoint):
                callback.save_now(trainer)
                return Path(callback.last_model_path)
        path = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        trainer.save_checkpoint(path)
        return path


def _short(path: Path) -> Path:
    """Relative to the working directory where it lies below it."""
    here = Path.cwd().resolve()
    path = path.resolve()
    return path.relative_to(here) if path.is_relative_to(here) else path
