"""Training a module without a trainer: the small fits inside an evaluation (values, models, densities).

The same `OfflineAlgorithm` trains under ``lightning.pytorch.Trainer``; here it runs inside other people's loops (a
callback, a script, a notebook), so nothing global may change: no logger, no checkpoint, no signal handler, and the
caller's random state and gradient mode are as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import TensorDictBase
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.target_update import SoftTargetUpdate


def fit_without_trainer(
    algorithm: OfflineAlgorithm,
    columns: TensorDictBase,
    sampler: Any,
    updates: int,
    *,
    targets: SoftTargetUpdate | None = None,
    looks: int = 0,
    look: Callable[[], None] | None = None,
    block: int = 50,
) -> None:
    """Make ``updates`` gradient updates from where the module stands, compiled where a ``Trainer`` would compile.

    Args:
        algorithm: on the CPU; left in eval mode.
        columns: flat table ``[T]`` with the keys that it reads.
        sampler: has a ``batch_size``, and ``batches(columns, first, count)`` gives what ``count`` updates learn from,
            beginning with number ``first``, ``[count, *lead, B]``; see `data.bootstrap.EpisodeBootstrap`.
        updates: how many.
        targets: moves the target networks after every update.
        looks: call ``look`` so many times, evenly spread, the last time at the end.
        look: sees the module in eval mode.
        block: updates gathered at a time.
    """
    begin = algorithm.updates
    stops = {begin + round(updates * (i + 1) / looks) for i in range(looks)}
    hooks: list[Callable[[OfflineAlgorithm], None]] = [] if targets is None else [targets.on_update_end]
    alone = torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad()
    with alone[0], alone[1], alone[2], _updating(algorithm, updates, hooks, sampler.batch_size):
        algorithm.train()
        while algorithm.updates < begin + updates:
            nearest = min((s for s in stops if s > algorithm.updates), default=begin + updates)
            count = min(block, nearest - algorithm.updates, begin + updates - algorithm.updates)
            rows = sampler.batches(columns, algorithm.updates, count)
            algorithm.compile_choice.begin_block()
            for batch in algorithm.prepare(rows).unbind(0):
                algorithm.gradient_update(batch)
            if look is not None and algorithm.updates in stops:
                algorithm.eval()
                look()
                algorithm.train()
        algorithm.eval()


@contextmanager
def _updating(
    algorithm: OfflineAlgorithm, updates: int, hooks: list[Callable[[OfflineAlgorithm], None]], batch_size: int
) -> Iterator[None]:
    """What a ``Trainer`` does around training: choose the path of updates, and leave the process as it was."""
    algorithm.after_update = hooks
    algorithm.compile_choice.begin(algorithm, updates, hooks, batch_size)
    try:
        yield
    finally:
        algorithm.compile_choice.end()
        algorithm.after_update = []


def linear_decay(span: tuple[int, int] | None, *names: str) -> dict[str, Callable[[Optimizer], LRScheduler]]:
    """Schedules for `OfflineAlgorithm.named_optimizers`: constant to ``span[0]``, then down to 0 at ``span[1]``."""
    if span is None:
        return {}
    first, last = span

    def left(update: int) -> float:
        return min(1.0, max(0.0, (last - update) / max(last - first, 1)))

    return {name: lambda optimizer: LambdaLR(optimizer, left) for name in names}
