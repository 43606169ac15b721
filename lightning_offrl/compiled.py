"""The compiled path: a page's whole update as one graph, on the same parameters, optimizer states and random numbers.

`CompiledUpdate` traces an update when it first meets one of its kind, compiles it, and runs it from then on. What it
needs from Python each time is little: the batch, the random numbers (drawn as on the plain path), and a small table of
Adam's factors, in which learning rates and bias corrections change without a new graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.descent import adam_factors, start_adam
from lightning_offrl.draws import Request
from lightning_offrl.tracing import Question, Stage, Step, Untraceable, baked_values, rehearse, trace

Compiler = Callable[[torch.fx.GraphModule, Sequence[Tensor]], Callable[..., Sequence[Tensor]]]
_MOST_GRAPHS = 12
REPAID_AFTER = 10_000
"""Gradient updates after which some 15 seconds of compiling have been won back."""


def inductor(graph: torch.fx.GraphModule, examples: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """Compile with TorchInductor: C++ on a CPU, Triton on a GPU.

    Raises:
        Untraceable: if there is no compiler.
    """
    from torch._inductor import compile as compile_graph

    # what torch.randn and the like draw in a user's own module stays what the plain path draws
    made = compile_graph(graph, list(examples), {"fallback_random": True})
    assert callable(made)
    return made


def uncompiled(graph: torch.fx.GraphModule, examples: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """Run the graph operation by operation; shows what tracing does, without a compiler."""
    return graph


@dataclass
class Graph:
    """One compiled kind of update."""

    asked: list[tuple[Question, Any]]
    draws: list[Request]
    metrics: list[str]
    run: Callable[..., Sequence[Tensor]]
    fixed: list[Tensor]
    """Parameters, buffers and optimizer states that it reads or changes."""
    leaves: list[int]
    """Which leaves of the batch it reads."""
    numbers: list[int]
    """Which random numbers it reads."""
    rows: list[tuple[dict[str, Any], Tensor, int]]
    """Of the table of factors: the optimizer's group, a parameter whose count of steps it uses, and steps before."""
    stepped: list[Tensor]
    """Every parameter that is stepped, as often as it is."""
    counts: list[Tensor]
    """Their counts of steps."""

    size: torch.Size
    """Of the batch."""

    def fits(self, updates: int, size: torch.Size) -> bool:
        """Whether update number ``updates`` on a batch of that size is of this kind."""
        return self.size == size and all(question(updates) == answer for question, answer in self.asked)


class CompiledUpdate:
    """Makes an algorithm's updates through graphs.

    Args:
        algorithm: an `OfflineAlgorithm` on its device.
        hooks: what follows each update and is traced with it.
        compiler: what makes a graph fast.
    """

    def __init__(
        self, algorithm: Any, hooks: Sequence[Callable[[Any], None]] = (), compiler: Compiler = inductor
    ) -> None:
        self.algorithm, self.hooks, self.compiler = algorithm, list(hooks), compiler
        self.graphs: list[Graph] = []
        self.made = 0
        """Graphs compiled so far."""
        self._steps: dict[int, int] = {}
        self._together: list[set[int]] = []
        self._baked: dict[str, Any] = {}

    def check(self) -> None:
        """Forget graphs that hold values which have changed since; called once per block."""
        now = baked_values(self.algorithm)
        if now != self._baked:
            self.graphs, self._together, self._baked = [], [], now

    def __call__(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Losses, gradients, steps and traced hooks of one update.

        Args:
            batch: size ``[*lead, B]``, observations normalised.

        Returns:
            The metrics, ``[*lead]`` each.

        Raises:
            Untraceable: before anything was changed.
        """
        updates, draws = self.algorithm.updates, self.algorithm.draws
        graph = next((g for g in self.graphs if g.fits(updates, batch.batch_size)), None) or self._make(batch)
        numbers = [draws.draw(request) for request in graph.draws]
        values = list(batch.values(True, True))
        steps = self._steps
        factors = torch.tensor(
            [adam_factors(group, steps[id(p)] + before + 1) for group, p, before in graph.rows], dtype=torch.float64
        )
        with torch.no_grad(), torch.autocast(self.algorithm.device.type, enabled=False):
            (metrics,) = graph.run(
                *graph.fixed, factors, *[values[i] for i in graph.leaves], *[numbers[i] for i in graph.numbers]
            )
            torch._foreach_add_(graph.counts, 1.0)
        for parameter in graph.stepped:
            steps[id(parameter)] += 1
        return dict(zip(graph.metrics, metrics.unbind(0), strict=True))

    def _make(self, batch: TensorDictBase) -> Graph:
        algorithm = self.algorithm
        if self.made >= _MOST_GRAPHS:
            raise Untraceable(f"needed more than {_MOST_GRAPHS} graphs: what it depends on changes too often")
        if not algorithm._optimizers:
            algorithm.configure_optimizers()
        stage = Stage(algorithm, self.hooks, batch)
        leaves = list(batch.values(True, True))
        plan = rehearse(stage, self._states(), leaves)
        for step in plan.steps:
            optimizer = algorithm._optimizers[step.name]
            optimizer._opt_called = True  # type: ignore[attr-defined]  # else schedulers warn that they step first
            for parameter in step.parameters:
                start_adam(optimizer, parameter)
                self._steps.setdefault(id(parameter), int(optimizer.state[parameter]["step"]))
        rows = self._rows(plan.steps)
        states = self._states()
        module = trace(stage, plan, states, leaves, len(rows))
        used = [bool(node.users) for node in module.graph.nodes if node.op == "placeholder"]
        for node in [n for n in module.graph.nodes if n.op == "placeholder" and not n.users]:
            module.graph.erase_node(node)
        (output,) = (n for n in module.graph.nodes if n.op == "output")
        output.args = ([output.args[0]],)
        module.recompile()
        fixed = [*stage.tensors(), *states]
        first = len(fixed) + 1
        stepped = [p for step in plan.steps for p in step.parameters]
        graph = Graph(
            asked=plan.asked,
            draws=plan.draws,
            metrics=plan.metrics,
            run=_never,
            fixed=[t for t, u in zip(fixed, used, strict=False) if u],
            leaves=[i for i in range(len(leaves)) if used[first + i]],
            numbers=[i for i in range(len(plan.draws)) if used[first + len(leaves) + i]],
            rows=rows,
            stepped=stepped,
            size=batch.batch_size,
            counts=[algorithm._optimizers[s.name].state[p]["step"] for s in plan.steps for p in s.parameters],
        )
        numbers = [plan.draws[i].empty() for i in graph.numbers]
        factors = torch.zeros(len(rows), 3, dtype=torch.float64)
        examples = [*graph.fixed, factors, *[leaves[i] for i in graph.leaves], *numbers]
        with torch.no_grad(), torch.autocast(algorithm.device.type, enabled=False):
            graph.run = self.compiler(module, examples)
        self.made += 1
        self.graphs.append(graph)
        if not self._baked:
            self._baked = baked_values(algorithm)
        return graph

    def _states(self) -> list[Tensor]:
        """Adam's averages, of all optimizers."""
        return [
            value
            for optimizer in self.algorithm._optimizers.values()
            for state in optimizer.state.values()
            for name, value in state.items()
            if name != "step" and isinstance(value, Tensor)
        ]

    def _rows(self, steps: Sequence[Step]) -> list[tuple[dict[str, Any], Tensor, int]]:
        """One row of factors for the parameters of a group that have been stepped as often; noted in the steps.

        Raises:
            Untraceable: if two kinds of updates step different parameters of one row, whose counts would then differ.
        """
        rows: list[tuple[dict[str, Any], Tensor, int]] = []
        before: dict[int, int] = {}
        for step in steps:
            groups = self.algorithm._optimizers[step.name].param_groups
            group_of = {id(p): i for i, group in enumerate(groups) for p in group["params"]}
            places: dict[tuple[int, int, int], int] = {}
            together: dict[int, set[int]] = {}
            for parameter in step.parameters:
                i, done = group_of[id(parameter)], before.get(id(parameter), 0)
                place = (i, self._steps[id(parameter)], done)
                if place not in places:
                    places[place] = len(rows)
                    rows.append((groups[i], parameter, done))
                step.rows.append(places[place])
                together.setdefault(places[place], set()).add(id(parameter))
                before[id(parameter)] = done + 1
            for members in together.values():
                if any(members != other and members & other for other in self._together):
                    raise Untraceable(f"does not always step the same parameters of the optimizer {step.name}")
                self._together.append(members)
        return rows


def worth_compiling(algorithm: Any, asked: bool | str, updates: int) -> tuple[bool, str]:
    """Whether to compile, and why (not).

    Args:
        algorithm: knows its processes, scaler and device.
        asked: true, false or "auto".
        updates: planned length of the run; -1 without one.
    """
    if asked is False:
        return False, "model.compile is false"
    if algorithm._descent.world > 1:
        return False, "several processes exchange gradients inside an update"
    if algorithm._descent.scaler is not None:
        return False, "16-mixed scales its losses by what it meets"
    if asked is True:
        return True, "model.compile is true"
    if algorithm.device.type != "cpu":
        return False, "on this device it is not tried unless model.compile is true"
    if 0 <= updates < REPAID_AFTER:
        return False, f"{updates:,} updates do not repay compiling"
    return True, f"{updates:,} updates repay compiling" if updates > 0 else "a run without an end repays compiling"


def _never(*args: Tensor) -> Sequence[Tensor]:
    raise AssertionError("the graph was not compiled")
