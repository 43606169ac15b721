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
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.rng import Request
from lightning_offrl.training.compile.adam import adam_factors, start_adam
from lightning_offrl.training.compile.cuda_graph import CudaGraph
from lightning_offrl.training.compile.trace import (
    FakeUpdate,
    Question,
    Step,
    Untraceable,
    baked_values,
    explained,
    rehearse,
    trace,
)
from lightning_offrl.training.metrics import MetricVector

Run = Callable[..., Sequence[Tensor]]
Compiler = Callable[[torch.fx.GraphModule, Sequence[Tensor]], Run]
Strides = list[tuple[int, ...]]
Row = tuple[dict[str, Any], Tensor, int]

_MOST_GRAPHS = 8


def inductor(graph: torch.fx.GraphModule, examples: Sequence[Tensor]) -> Run:
    """Compile with TorchInductor: C++ on a CPU, Triton on a GPU; what an earlier process compiled is found again."""
    import torch._inductor as backend
    from torch.utils._triton import has_triton

    if examples[0].device.type == "cuda" and not has_triton():
        return graph  # a CUDA graph alone spares the launches, which are most of the time
    options = {
        "fallback_random": True,  # torch.randn in a user's own module draws what it draws on the plain path
        "size_asserts": False,  # some 70 comparisons per update of what cannot change
    }
    if hasattr(backend, "standalone_compile"):
        return backend.standalone_compile(
            graph, list(examples), dynamic_shapes="from_example_inputs", options={"config_patches": options}
        )
    run: Any = backend.compile(graph, list(examples), options)
    return run


def uncompiled(graph: torch.fx.GraphModule, examples: Sequence[Tensor]) -> Run:
    """Run the graph operation by operation; shows what tracing does, without a compiler."""
    return graph


@dataclass
class Graph:
    """One compiled kind of update."""

    size: torch.Size
    """Of the batch."""
    strides: Strides
    """Of the batch's leaves: compiled code goes through memory by them and does not look."""
    asked: list[tuple[Question, Any]]
    """What the page asked the count of updates, and the answers."""
    draws: list[Request]
    metrics: tuple[str, ...]
    run: Run
    fixed: list[Tensor]
    """Parameters, buffers and optimizer states that it reads or changes."""
    leaves: list[int]
    """Which leaves of the batch it reads."""
    numbers: list[int]
    """Which random numbers it reads."""
    rows: list[Row]
    """Of the table of factors: the optimizer's group, a parameter whose count of steps it uses, and steps before."""
    stepped: list[int]
    """``id`` of every parameter that is stepped, as often as it is."""

    def fits(self, updates: int, size: torch.Size, strides: Strides) -> bool:
        """Whether update number ``updates`` on a batch of that size and layout is of this kind."""
        same = self.size == size and self.strides == strides
        return same and all(question(updates) == answer for question, answer in self.asked)


class CompiledUpdate:
    """Makes an algorithm's updates through graphs.

    Args:
        algorithm: an `OfflineAlgorithm` on its device.
        hooks: what follows each update and is traced with it.
        compiler: what makes a graph fast.
        capture: wraps what was compiled; None: a CUDA graph on a GPU, nothing elsewhere.
    """

    refusal: type[Exception] = Untraceable
    """What a call raises where an update cannot be compiled, before anything was changed."""

    def __init__(
        self,
        algorithm: Any,
        hooks: Sequence[Callable[[Any], None]] = (),
        compiler: Compiler = inductor,
        capture: Callable[[Run, int], Run] | None = None,
    ) -> None:
        self.algorithm, self.hooks, self.compiler = algorithm, list(hooks), compiler
        self.capture = capture or (CudaGraph if algorithm.device.type == "cuda" else None)
        self.graphs: list[Graph] = []
        self.made = 0
        """Graphs compiled so far."""
        self._steps: dict[int, int] = {}
        self._together: list[set[int]] = []
        self._baked: dict[str, Any] = {}
        self._lie_at: list[tuple[int, int]] = []

    def check(self) -> None:
        """Forget graphs that hold values which have changed since; called once per block."""
        if not self.graphs:
            return
        now = baked_values(self.algorithm, self.hooks)
        changed = [name for name in {**now, **self._baked} if now.get(name) != self._baked.get(name)]
        if not changed and self._places() != self._lie_at:
            changed = ["where parameters, buffers or optimizer states lie"]
        if changed:
            rank_zero_info(f"{type(self.algorithm).__name__} is compiled again, because {changed[0]} has changed")
            self.graphs, self._together, self._steps = [], [], {}

    def __call__(self, batch: TensorDictBase) -> MetricVector:
        """Losses, gradients, steps and traced hooks of one update.

        Args:
            batch: size ``[*lead, B]``, observations normalized.

        Returns:
            The metrics, ``[*lead]`` each.

        Raises:
            Untraceable: before anything was changed.
        """
        updates, draws, steps = self.algorithm.updates, self.algorithm.draws, self._steps
        device: torch.device = self.algorithm.device
        leaves = leaves_of(batch)
        size, strides = batch.batch_size, [leaf.stride() for leaf in leaves]
        graph = next((g for g in self.graphs if g.fits(updates, size, strides)), None) or self._make(batch)
        numbers = [draws.draw(request) for request in graph.draws]
        table = [adam_factors(group, steps[id(p)] + before + 1) for group, p, before in graph.rows]
        factors = torch.tensor(table, dtype=torch.float64, pin_memory=device.type == "cuda")
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            (metrics,) = graph.run(
                *graph.fixed,
                factors.to(device, non_blocking=True),
                *[leaves[i] for i in graph.leaves],
                *[numbers[i] for i in graph.numbers],
            )
        for parameter in graph.stepped:
            steps[parameter] += 1
        return MetricVector(graph.metrics, metrics)

    def _make(self, batch: TensorDictBase) -> Graph:
        algorithm = self.algorithm
        if self.made >= _MOST_GRAPHS:
            raise Untraceable(f"needed more than {_MOST_GRAPHS} graphs: what they depend on changes too often")
        if not algorithm.optimizers_by_name:
            algorithm.configure_optimizers()
        stage = FakeUpdate(algorithm, self.hooks, batch)
        leaves = leaves_of(batch)
        plan = rehearse(stage, self._states(), leaves)
        stepped = [p for step in plan.steps for p in step.parameters]
        for step in plan.steps:
            optimizer = algorithm.optimizers_by_name[step.name]
            optimizer._opt_called = True  # else schedulers warn that they step first
            for parameter in step.parameters:
                start_adam(optimizer, parameter)
                count = optimizer.state[parameter]["step"]
                if count.device != parameter.device:
                    raise Untraceable(f"counts the steps of {step.name} on the CPU; give its optimizer fused=True")
                self._steps.setdefault(id(parameter), int(count))
        rows, states = self._rows(plan.steps), self._states()
        module = trace(stage, plan, states, leaves, len(rows))
        fixed = [*stage.tensors, *states]
        used = _drop_unused_inputs(module)
        first = len(fixed) + 1
        graph = Graph(
            size=batch.batch_size,
            strides=[leaf.stride() for leaf in leaves],
            asked=plan.asked,
            draws=plan.draws,
            metrics=tuple(plan.metrics),
            run=module,
            fixed=[tensor for tensor, needed in zip(fixed, used, strict=False) if needed],
            leaves=[i for i in range(len(leaves)) if used[first + i]],
            numbers=[i for i in range(len(plan.draws)) if used[first + len(leaves) + i]],
            rows=rows,
            stepped=[id(p) for p in stepped],
        )
        used_leaves = [leaves[i] for i in graph.leaves]
        examples = [
            *graph.fixed,
            torch.zeros(len(rows), 3, dtype=torch.float64, device=algorithm.device),
            # not the leaves themselves: how large a block they lie in must not decide what the compiler's cache finds
            *[torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device) for x in used_leaves],
            *[plan.draws[i].empty() for i in graph.numbers],
        ]
        with torch.no_grad(), torch.autocast(algorithm.device.type, enabled=False), explained():
            graph.run = self.compiler(module, examples)
            if self.capture is not None:
                graph.run = self.capture(graph.run, len(graph.fixed))
        self.made += 1
        self.graphs.append(graph)
        self._baked, self._lie_at = baked_values(algorithm, self.hooks), self._places()
        return graph

    def _states(self) -> list[Tensor]:
        """Everything that the optimizers keep."""
        states = (state for opt in self.algorithm.optimizers_by_name.values() for state in opt.state.values())
        return [value for state in states for value in state.values() if isinstance(value, Tensor)]

    def _places(self) -> list[tuple[int, int]]:
        """Of every parameter, buffer and optimizer state: which tensor it is, and where its memory lies."""
        tensors = [*self.algorithm.parameters(), *self.algorithm.buffers(), *self._states()]
        return [(id(tensor), tensor.data_ptr()) for tensor in tensors]

    def _rows(self, steps: Sequence[Step]) -> list[Row]:
        """One row of factors for the parameters of a group that have been stepped as often; noted in the steps.

        Raises:
            Untraceable: if two kinds of updates step different parameters of one row, whose counts would then differ.
        """
        rows: list[Row] = []
        before: dict[int, int] = {}
        for step in steps:
            groups = self.algorithm.optimizers_by_name[step.name].param_groups
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
                if any(members != others and members & others for others in self._together):
                    raise Untraceable(f"does not always step the same parameters of the optimizer {step.name}")
                self._together.append(members)
        return rows


def leaves_of(batch: TensorDictBase) -> list[Tensor]:
    """The tensors of a batch in the order of ``batch.keys(True, True)``, at a tenth of what ``values`` takes for it."""
    leaves: list[Tensor] = []
    for value in batch.values():
        if isinstance(value, TensorDictBase):
            leaves += leaves_of(value)
        else:
            leaves.append(value)
    return leaves


def _drop_unused_inputs(module: torch.fx.GraphModule) -> list[bool]:
    """Remove inputs that nothing reads, make the output a list, and say which inputs are left."""
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    used = [bool(node.users) for node in inputs]
    for node, needed in zip(inputs, used, strict=True):
        if not needed:
            module.graph.erase_node(node)
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    output.args = ([output.args[0]],)
    module.recompile()
    return used
