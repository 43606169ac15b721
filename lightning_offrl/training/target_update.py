"""Target networks follow their sources, once per gradient update."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback
from torch import nn

from lightning_offrl.errors import InputError
from lightning_offrl.training.algorithm import OfflineAlgorithm


@torch.no_grad()
def soft_update(target: nn.Module, source: nn.Module, tau: float) -> None:
    """Polyak average ``target <- (1 - tau) target + tau source`` of parameters; buffers are copied.

    Args:
        target: changed in place.
        source: a module of the same structure.
        tau: weight of the source, in (0, 1].
    """
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), tau)
    for old, new in zip(target.buffers(), source.buffers(), strict=True):
        old.copy_(new)


class SoftTargetUpdate(Callback):
    """Moves every target network of the algorithm after every ``period``-th gradient update.

    It runs inside the block of K updates, not once per block. Algorithms bring their own with the authors' values; one
    given in ``trainer.callbacks`` takes its place.

    Args:
        tau: weight of the source; 1 copies (a hard update).
        period: in gradient updates.
    """

    traceable = True
    """Its `on_update_end` is tensor operations alone, and may stand in one graph with the update."""

    def __init__(self, tau: float = 0.005, period: int = 1) -> None:
        if not 0.0 < tau <= 1.0:
            raise InputError(f"tau must lie in (0, 1], got {tau}")
        if period < 1:
            raise InputError(f"period must be at least 1 gradient update, got {period}")
        self.tau, self.period = tau, period

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse what would have no effect."""
        if isinstance(pl_module, OfflineAlgorithm) and not pl_module.targets:
            raise InputError(
                f"{type(pl_module).__name__} has no target networks, so SoftTargetUpdate(tau={self.tau}) would do "
                "nothing: remove it from trainer.callbacks"
            )
        if sum(isinstance(callback, SoftTargetUpdate) for callback in trainer.callbacks) > 1:
            raise InputError("two SoftTargetUpdate callbacks would move the targets twice: keep one")

    def on_update_end(self, algorithm: OfflineAlgorithm) -> None:
        """Called by the algorithm after each gradient update."""
        if algorithm.updates % self.period == 0:
            for target, source in algorithm.targets.items():
                soft_update(algorithm.get_submodule(target), algorithm.get_submodule(source), self.tau)
