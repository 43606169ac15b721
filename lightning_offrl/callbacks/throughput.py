"""A line with the speed of training and the settings that it depends on."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_offrl.training.cpu import WORTH_IT, largest_product


class ThroughputMonitor(Callback):
    """Prints once, some seconds into training, the number of updates per second and the settings.

    Blocks in which something is compiled, evaluated or saved do not count.

    Args:
        after: The number of seconds of updates before the line is printed; a shorter run prints it at its end.
        advise: Whether to say that more threads would help, for runs whose number of threads nobody chose.
    """

    def __init__(self, after: float = 5.0, advise: bool = False) -> None:
        self.after, self.advise = after, advise
        self._spent, self._made = 0.0, 0
        self._begun = (0.0, 0, 0)
        self._said = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._spent, self._made, self._said = 0.0, 0, False

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if not self._said:
            self._begun = (time.perf_counter(), pl_module.updates, pl_module.compile_choice.graphs_made)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._said:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()  # for these first seconds only: a clock needs finished work
        began, updates, graphs = self._begun
        if batch_idx > 0 and graphs == pl_module.compile_choice.graphs_made:  # the first block sets up caches
            self._spent += time.perf_counter() - began
            self._made += pl_module.updates - updates
        if self._spent >= self.after:
            self._say(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if not self._said and self._made:
            self._say(trainer, pl_module)

    def _say(self, trainer: Any, pl_module: Any) -> None:
        self._said = True
        block = getattr(getattr(trainer, "datamodule", None), "block", None)
        parts = [
            pl_module.compile_choice.description(),
            f"K = {block}" if block else "",
            self._threads(trainer, pl_module) if pl_module.device.type == "cpu" else "",
            str(trainer.precision),
        ]
        rank_zero_info(f"{self._made / self._spent:,.0f} updates/s: {', '.join(part for part in parts if part)}")

    def _threads(self, trainer: Any, pl_module: Any) -> str:
        """The number of threads, and whether two would be faster: with large products, where nothing else runs."""
        threads = torch.get_num_threads()
        if threads > 1:
            return f"{threads} threads"
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        size = largest_product(pl_module.parameters(), getattr(getattr(trainer, "datamodule", None), "batch_size", 0))
        more = self.advise and cores > 1 and size >= WORTH_IT and trainer.world_size == 1
        return "1 thread" + (" (where nothing else runs, --threads 2 is faster)" if more else "")
