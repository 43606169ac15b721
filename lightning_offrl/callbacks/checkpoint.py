"""Checkpoints by gradient updates: ``step=10000.ckpt``, and ``last.ckpt`` always."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from lightning_offrl.errors import InputError


class Checkpoint(ModelCheckpoint):
    """Saves a checkpoint every so many gradient updates, and at the end of training.

    ``last.ckpt`` is rewritten at every save, by rename, so that there is always one whole file to resume from. It
    is saved after all other callbacks of an update, so that what they logged can be monitored. Resuming from one of
    these files also makes `MetricsCSV` and `WandbLogger` continue what they had written rather than begin anew. Nothing
    is saved when training fails: the networks may be in the middle of an update then.

    Args:
        every: The period in gradient updates.
        keep: The number of ``step=N.ckpt`` files to keep, the newest (with ``monitor``, the best); -1 keeps all, 0
            keeps ``last.ckpt`` only.
        monitor: The name of a logged metric, such as ``eval/score``: only steps at which it is among the best are kept.
        mode: Either ``max``, if more of ``monitor`` is better, or ``min``.
        dirpath: The directory; None takes ``checkpoints`` in the trainer's ``default_root_dir``, the run directory.
        filename: The name without ``.ckpt``, in Lightning's format.

    Raises:
        InputError: ``every`` or ``keep`` makes no sense.
    """

    def __init__(
        self,
        every: int = 10_000,
        keep: int = -1,
        monitor: str | None = None,
        mode: str = "max",
        dirpath: str | None = None,
        filename: str = "{step}",
    ) -> None:
        if every < 1 or keep < -1:
            raise InputError(
                f"Checkpoint needs every >= 1 (gradient updates) and keep >= -1 (-1 keeps all), got every={every}, "
                f"keep={keep}"
            )
        if mode not in ("min", "max"):
            raise InputError(f"Checkpoint's mode must be 'min' or 'max', got {mode!r}")
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            mode=mode,
            save_last=True,
            save_top_k=keep if monitor is not None or keep == 0 else -1,
            every_n_train_steps=every,
            enable_version_counter=False,
        )
        self.every = every
        self.keep = keep

    @property
    def state_key(self) -> str:
        """The key of the state, without the period: a resumed run may save at another one and still knows its best."""
        return self._generate_state_key(monitor=self.monitor, mode=self.mode)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fill in the directory."""
        if self.dirpath is None:
            self.dirpath = os.path.join(os.path.realpath(trainer.default_root_dir), "checkpoints")
        with warnings.catch_warnings():
            # a resumed run goes on in a directory that is not empty
            warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
            super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what was best, unless the run moved to another directory."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The dirpath has changed")
            super().load_state_dict(state_dict)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the ids of the runs that loggers have elsewhere."""
        ids = {type(logger).__name__: getattr(logger, "run_id", None) for logger in trainer.loggers}
        checkpoint["logger_runs"] = {name: run_id for name, run_id in ids.items() if run_id is not None}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let loggers go on where the checkpoint was written, rather than begin anew."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        ids = checkpoint.get("logger_runs", {})
        for logger in trainer.loggers:
            if hasattr(logger, "resume_at"):
                logger.resume_at(int(checkpoint["global_step"]), run_id=ids.get(type(logger).__name__))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Save if a period or the training ended.

        Lightning's own version adds, for manual optimization, a search for states that a module kept itself; it is not
        called.
        """
        due = trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps
        if due:
            self.save_now(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if training ended early (``max_time``, a callback) between two periods."""
        self.save_now(trainer)

    def save_now(self, trainer: Trainer) -> None:
        """Save the state after the current update, unless that was done."""
        if self._should_skip_saving_checkpoint(trainer) or trainer.global_step == 0:
            return
        candidates = self._monitor_candidates(trainer)
        if self.monitor is None or self.monitor in candidates:
            self._save_topk_checkpoint(trainer, candidates)
        self._save_last_checkpoint(trainer, candidates)
        if self.monitor is None and self.keep > 0 and trainer.is_global_zero:
            self._prune(trainer)

    def _prune(self, trainer: Trainer) -> None:
        """Remove all but the newest ``keep`` files named by step; others' files in the directory stay."""
        names = {path: re.fullmatch(r"step=(\d+)\.ckpt", path.name) for path in Path(self.dirpath or ".").iterdir()}
        steps = sorted((int(found[1]), path) for path, found in names.items() if found)
        for _, path in steps[: -self.keep]:
            trainer.strategy.remove_checkpoint(path)
