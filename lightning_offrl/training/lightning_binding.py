"""Everything that training changes inside Lightning, with the reason, and how it is put back.

Lightning counts optimizer steps and batches, where a step of ours is one gradient update; it repeats warnings about
that; and it writes checkpoints without forcing them to the disk. What has no public setting is changed here and nowhere
else, so that a new version of Lightning (this was read against 2.6) is looked at in one file.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.plugins.io import TorchCheckpointIO
from tensordict import TensorDict, TensorDictBase

_NOT_SO_HERE = (
    "The number of training batches",  # counts blocks of K updates as batches
    "Total length of `list` across ranks is zero",  # nothing held out
    "Using ModelCheckpoint with manual optimization",  # asks for the state before a step; ours are after whole updates
)


class LightningBinding(pl.Callback):
    """Holds for one run of a trainer what `attach` changed, and puts it back when the run ends.

    It is a callback, and the last one, because when a run ends by an exception or by Ctrl-C Lightning calls no hook of
    the module, neither ``on_fit_end`` nor ``teardown``, only ``on_exception`` of the callbacks; and a ModelCheckpoint
    that saves then still finds the run as it was.
    """

    def __init__(self) -> None:
        self._restore = ExitStack()

    @classmethod
    def attach(cls, trainer: Any) -> None:
        """Change the trainer for one run; called in the module's ``setup``, after that of all other callbacks."""
        binding = cls()
        binding._restore.enter_context(warnings.catch_warnings())
        for said in _NOT_SO_HERE:
            warnings.filterwarnings("ignore", message=said)
        writer = trainer.strategy.checkpoint_io
        if type(writer) is TorchCheckpointIO:  # one that the user chose stays
            from lightning_offrl.training.files import AtomicCheckpointIO

            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
            binding._restore.callback(setattr, trainer.strategy, "checkpoint_io", writer)
        trainer.callbacks.append(binding)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """The run has ended as planned."""
        self._detach(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The run has failed, or was interrupted: what the module does after training is due all the same."""
        try:
            pl_module.end_training()
        finally:
            self._detach(trainer)

    def _detach(self, trainer: Any) -> None:
        # a new list, because Lightning is walking over the old one
        trainer.callbacks = [callback for callback in trainer.callbacks if callback is not self]
        self._restore.close()


def count_update(trainer: Any) -> None:
    """Make ``trainer.global_step`` and ``max_steps`` count this gradient update.

    Lightning adds to its count when an optimizer that it wrapped steps: three times per update of IQL, and never when
    the step is part of a graph. Our optimizers step without its wrapper, and each update counts once.
    """
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    progress.increment_ready()
    progress.increment_completed()


def set_log_axis(trainer: Any, updates: int) -> None:
    """Make what Lightning itself logs stand at the count of updates; its own axis counts batches, here blocks of K."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = updates - 1  # it adds one after the step


def with_batch_size(block: TensorDictBase, action_kind: str) -> TensorDict:
    """The same block with its batch size ``[K, *lead, B]``, which Lightning's double precision leaves out."""
    action = block["action"]
    size = action.shape[:-1] if action_kind == "box" else action.shape
    return TensorDict(block.to_dict(), batch_size=size)
