"""Competitor: ``offrl fit`` as a user runs it, with its callbacks and metrics in CSV; a callback takes the turns.

    python ours.py WORDS OF OFFRL FIT

The first block of updates compiles; what it took is reported with "ready".
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl  # noqa: I001 (after turns, which sets the number of threads)
import torch
from turns import Turns

import lightning_offrl.data.samplers as samplers
from lightning_offrl.cli import main

WARM_BLOCKS = 3


class Slices(pl.Callback):
    """Counts blocks of updates, reports after each turn, waits for the next, and takes the time apart when asked."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.began, self.blocks = 0.0, 0
        self.first = 0.0
        self.clocks: dict[str, float] = {}
        self.model: Any = None
        self.block = 1
        self.replaced: list[tuple[Any, str, Any]] = []
        self.apart = 0
        """Updates that the running turn takes apart."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if self.blocks < WARM_BLOCKS:
            self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.model, self.block = pl_module, trainer.datamodule.block
        self.blocks += 1
        if self.blocks == 1:
            self.first = time.perf_counter() - self.began
        if self.blocks == WARM_BLOCKS:
            path = pl_module.compile_choice
            self.turns.say(
                ready={
                    "compiling_seconds": self.first - (time.perf_counter() - self.began),
                    "compiled": path.compiled is not None,
                    "graphs": path.graphs_made,
                    "products": torch.get_float32_matmul_precision(),
                    "block": self.block,
                    "why": path.description(),
                }
            )
            self.turns.wait(self.take_apart)
        elif self.blocks > WARM_BLOCKS:
            self.finish_apart()
            self.turns.made(self.block, self.take_apart)

    def take_apart(self, command: dict[str, Any]) -> None:
        """Time the parts of the next turn: those outside of an update, or its graph, for clocks inside clocks count."""
        model, path = self.model, self.model.compile_choice
        for owner, name, plain in self.replaced:
            setattr(owner, name, plain)
        self.replaced = []
        if command.get("alone"):
            self.turns.say(**alone(model))
            return
        self.apart, self.clocks = command["apart"], {}
        if command["inside"]:
            for graph in path.compiled.graphs:
                self.put_clock(graph, "run", "graph")
            self.turns.say()
            return
        self.put_clock(samplers, "gather", "sampling")
        self.put_clock(samplers.UniformSampler, "indices", "sampling")
        for name, part in (("training_step", "training_step"), ("_log_window", "logging")):
            self.put_clock(type(model), name, part)  # on the object it would be a new attribute, and a new graph
        self.put_clock(path, "losses_and_steps", "update")
        self.turns.say()

    def put_clock(self, owner: Any, name: str, part: str) -> None:
        """Replace a function by one whose CPU time is added to ``part``."""
        plain: Callable[..., Any] = getattr(owner, name)
        self.replaced.append((owner, name, plain))

        def clocked(*args: Any, **options: Any) -> Any:
            began = time.process_time()
            try:
                return plain(*args, **options)
            finally:
                self.clocks[part] = self.clocks.get(part, 0.0) + time.process_time() - began

        setattr(owner, name, clocked)

    def finish_apart(self) -> None:
        """At the end of a turn that was taken apart, send the parts before its time."""
        if self.apart and self.turns.left <= self.block:
            self.turns.say(**{name: 1000 * spent / self.apart for name, spent in self.clocks.items()})
            self.apart = 0


def alone(model: Any) -> dict[str, float]:
    """CPU milliseconds of the parts of a graph that can run by themselves: Adam on all parameters, and the targets."""
    from torch.fx.experimental.proxy_tensor import make_fx

    from lightning_offrl.training.compile.adam import adam_, adam_factors
    from lightning_offrl.training.compile.graph import inductor

    def cost(function: Callable[..., list[torch.Tensor]], tensors: list[torch.Tensor], updates: int = 300) -> float:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            run = inductor(make_fx(function, tracing_mode="fake")(*tensors), tensors)
            for _ in range(20):
                run(*tensors)
            began = time.process_time()
            for _ in range(updates):
                run(*tensors)
        return 1000 * (time.process_time() - began) / updates

    optimizers = list(model.optimizers_by_name.values())
    parameters = [p for opt in optimizers for group in opt.param_groups for p in group["params"]]
    count, group = len(parameters), optimizers[0].param_groups[0]
    factors = torch.tensor(adam_factors(group, 1000), dtype=torch.float64)

    def adam(*tensors: torch.Tensor) -> list[torch.Tensor]:
        for i in range(count):
            p, g, mean, square, step = tensors[i : 5 * count : count]
            adam_(p, g, {"exp_avg": mean, "exp_avg_sq": square, "step": step}, group, tensors[-1])
        return [tensors[0].sum()]

    copies = [[torch.rand_like(p).detach() for p in parameters] for _ in range(4)]
    found = {"adam": cost(adam, [*sum(copies, []), *[torch.ones(()) for _ in parameters], factors])}
    pairs = [
        (target.detach().clone(), source.detach().clone())
        for name, of in model.targets.items()
        for target, source in zip(getattr(model, name).parameters(), getattr(model, of).parameters(), strict=True)
    ]
    if pairs:

        def targets(*tensors: torch.Tensor) -> list[torch.Tensor]:
            half = len(tensors) // 2
            torch._foreach_lerp_(list(tensors[:half]), list(tensors[half:]), 0.005)
            return [tensors[0].sum()]

        found["targets"] = cost(targets, [target for target, _ in pairs] + [source for _, source in pairs])
    return found


if __name__ == "__main__":
    sys.exit(main(["fit", *sys.argv[1:]]))
