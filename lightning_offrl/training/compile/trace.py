"""From a page's ``update`` to one graph of tensor operations: losses, gradients, Adam, targets, nothing else.

The page runs once on stand-ins for its parameters, buffers, optimizer states, batch and random numbers, and what it
does to them is written down. No page is rewritten for that: ``minimize`` is its only door to gradients and
`RandomStreams` its only door to randomness, so both can be answered differently while tracing.

A graph holds what Python decided on the way. Decisions that depend on the count of updates (a policy that learns every
second time) are remembered with the graph, see `SymbolicStep`; plain attributes and hyperparameters are compared by
`baked_values`.
"""

from __future__ import annotations

import operator
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from lightning_offrl.batch import Key
from lightning_offrl.rng import Request
from lightning_offrl.training.compile.adam import adam_
from lightning_offrl.training.compile.decompositions import decompositions
from lightning_offrl.training.optimizers import OptimizerSet

Question = Callable[[int], Any]


class Untraceable(Exception):
    """Why an update cannot be one graph, as the end of a sentence that begins with the page's name."""


class SymbolicStep:
    """Stands for the count of updates while tracing: answers comparisons, and remembers what it was asked.

    A graph is right for exactly those updates that give the same answers.

    Args:
        now: the count.
        asked: where questions and their answers are kept.
        of: what this clock shows, from the count: ``(updates + 1) % 2`` is a clock too.
    """

    def __init__(self, now: int, asked: list[tuple[Question, Any]], of: Question = lambda count: count) -> None:
        self._now, self._asked, self._of = now, asked, of

    def _then(self, operation: Callable[[Any, Any], Any], other: Any, swapped: bool = False) -> SymbolicStep:
        if isinstance(other, bool) or not isinstance(other, int | float):
            raise Untraceable("uses the count of updates as a number in its losses, and that would be fixed in a graph")
        of = self._of
        if swapped:
            return SymbolicStep(self._now, self._asked, lambda count: operation(other, of(count)))
        return SymbolicStep(self._now, self._asked, lambda count: operation(of(count), other))

    def _ask(self, operation: Callable[[Any, Any], Any], other: Any) -> bool:
        of = self._of
        answer = bool(operation(of(self._now), other))
        self._asked.append((lambda count: bool(operation(of(count), other)), answer))
        return answer

    def _number(self) -> Any:
        raise Untraceable("uses the count of updates as a number in its losses, and that would be fixed in a graph")

    __hash__ = None  # type: ignore[assignment]
    __index__ = __int__ = __float__ = _number

    def __bool__(self) -> bool:
        return self._ask(operator.ne, 0)

    def __add__(self, other: Any) -> SymbolicStep:
        return self._then(operator.add, other)

    def __sub__(self, other: Any) -> SymbolicStep:
        return self._then(operator.sub, other)

    def __mul__(self, other: Any) -> SymbolicStep:
        return self._then(operator.mul, other)

    def __mod__(self, other: Any) -> SymbolicStep:
        return self._then(operator.mod, other)

    def __floordiv__(self, other: Any) -> SymbolicStep:
        return self._then(operator.floordiv, other)

    def __truediv__(self, other: Any) -> SymbolicStep:
        return self._then(operator.truediv, other)

    def __rsub__(self, other: Any) -> SymbolicStep:
        return self._then(operator.sub, other, swapped=True)

    __radd__, __rmul__ = __add__, __mul__

    def __eq__(self, other: object) -> bool:
        return self._ask(operator.eq, other)

    def __ne__(self, other: object) -> bool:
        return self._ask(operator.ne, other)

    def __lt__(self, other: Any) -> bool:
        return self._ask(operator.lt, other)

    def __le__(self, other: Any) -> bool:
        return self._ask(operator.le, other)

    def __gt__(self, other: Any) -> bool:
        return self._ask(operator.gt, other)

    def __ge__(self, other: Any) -> bool:
        return self._ask(operator.ge, other)


@dataclass
class Step:
    """One call of an optimizer inside an update: which parameters it stepped."""

    name: str
    parameters: list[Tensor]
    rows: list[int] = field(default_factory=list)
    """Per parameter its row in the graph's table of Adam's factors."""


class TracedOptimizerSet(OptimizerSet):
    """`OptimizerSet` on stand-ins: notes which parameters are stepped; given Adam's factors, steps them in the graph.

    Args:
        plain: the real one.
        stand_in: by ``id`` of the real tensor.
        plan: the steps that a rehearsal saw, with their rows; None is that rehearsal.
        factors: table of `adam_factors`, ``[rows, 3]``.
    """

    def __init__(
        self, plain: OptimizerSet, stand_in: dict[int, Tensor], plan: list[Step] | None, factors: Tensor | None
    ) -> None:
        super().__init__(plain.clip, plain.stacked)
        self.optimizers, self._plain, self._stand_in, self._factors = plain.optimizers, plain, stand_in, factors
        self._plan = None if plan is None else iter(plan)
        self.steps: list[Step] = []

    def parameters(self, name: str) -> list[Tensor]:
        """The stand-ins."""
        return [self._stand_in[id(p)] for p in self._plain.parameters(name)]

    def step(self, name: str, gradients: tuple[Tensor | None, ...]) -> None:
        """Note the step, and take it unless this is a rehearsal."""
        optimizer = self.optimizers[name]
        if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
            raise Untraceable(f"steps {name} with {type(optimizer).__name__}; only Adam and AdamW can be in a graph")
        pairs = [(p, g) for p, g in zip(self._plain.parameters(name), gradients, strict=True) if g is not None]
        self.steps.append(Step(name, [p for p, _ in pairs]))
        if self._plan is None:
            return
        assert self._factors is not None
        step = next(self._plan)
        group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        limited = [torch.empty_like(p).copy_(g) if g.stride() != p.stride() else g for p, g in pairs]
        self.clip_gradients(name, limited)
        for (parameter, _), gradient, row in zip(pairs, limited, step.rows, strict=True):
            state = {key: self._stand_in[id(value)] for key, value in optimizer.state[parameter].items()}
            stand_in = self._stand_in[id(parameter)]
            adam_(stand_in, gradient, state, group_of[id(parameter)], self._factors[row])


@dataclass
class Rehearsal:
    """What an update asks for: random numbers, steps of optimizers, and the clock."""

    asked: list[tuple[Question, Any]] = field(default_factory=list)
    draws: list[Request] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    metrics: dict[str, Tensor] = field(default_factory=dict)


class FakeUpdate:
    """Runs one update of an algorithm on stand-ins, and leaves the algorithm as it was.

    Args:
        algorithm: an `OfflineAlgorithm` with its optimizers.
        hooks: what follows each update and can be traced too (the move of target networks).
        batch: one batch; gives keys and sizes.
    """

    def __init__(self, algorithm: Any, hooks: Sequence[Callable[[Any], None]], batch: TensorDictBase) -> None:
        self.algorithm, self.hooks = algorithm, list(hooks)
        self.keys: list[Key] = list(batch.keys(True, True))
        self.batch_size, self.device = batch.batch_size, batch.device
        self.slots: list[tuple[dict[str, Any], str, int]] = []
        """Where modules keep parameters and buffers: table, name, and which of ``tensors`` lies there."""
        self.tensors: list[Tensor] = []
        places: dict[int, int] = {}
        for module in algorithm.modules():
            for table in (module._parameters, module._buffers):
                for name, value in table.items():
                    if value is not None:
                        if id(value) not in places:  # two modules may share one
                            places[id(value)] = len(self.tensors)
                            self.tensors.append(value)
                        self.slots.append((table, name, places[id(value)]))

    def run(
        self,
        values: Sequence[Tensor],
        states: Mapping[int, Tensor],
        leaves: Sequence[Tensor],
        tape: Callable[[Request], Tensor],
        plan: list[Step] | None = None,
        factors: Tensor | None = None,
    ) -> Rehearsal:
        """One update with stand-ins in place.

        Args:
            values: for ``tensors``.
            states: for tensors of optimizer states, by ``id`` of the real ones.
            leaves: for the batch, in the order of ``keys``.
            tape: answers requests for random numbers.
            plan: see `TracedOptimizerSet`.
            factors: see `TracedOptimizerSet`.
        """
        algorithm, found = self.algorithm, Rehearsal()
        stand_in = {**{id(real): value for real, value in zip(self.tensors, values, strict=True)}, **states}
        batch = TensorDict({}, batch_size=self.batch_size, device=self.device)
        for key, leaf in zip(self.keys, leaves, strict=True):
            batch[key] = leaf

        def answer(request: Request) -> Tensor:
            found.draws.append(request)
            return tape(request)

        kept = [(module, dict(vars(module))) for module in algorithm.modules()]
        before = baked_values(algorithm, self.hooks)
        traced = TracedOptimizerSet(algorithm.optimizer_set, stand_in, plan, factors)
        try:
            for table, name, place in self.slots:
                table[name] = values[place]
            algorithm.optimizer_set, algorithm.updates = traced, SymbolicStep(algorithm.updates, found.asked)
            algorithm.draws.tape = answer
            algorithm._current_fx_name = None  # Lightning's self.log refuses to keep a stand-in then
            found.metrics = algorithm.losses_of(batch)
            algorithm.updates = algorithm.updates + 1
            with torch.no_grad():
                for hook in self.hooks:
                    hook(algorithm)
                for table, name, place in self.slots:
                    if table[name] is not values[place]:  # a buffer that was assigned, not changed in place
                        values[place].copy_(table[name])
            refuse_changes(before, baked_values(algorithm, self.hooks))
        finally:
            for module, attributes in kept:
                vars(module).clear()
                vars(module).update(attributes)
            for table, name, place in self.slots:
                table[name] = self.tensors[place]
            algorithm.draws.tape = None
        found.steps = traced.steps
        return found


def rehearse(stage: FakeUpdate, states: Sequence[Tensor], leaves: Sequence[Tensor]) -> Rehearsal:
    """Run the update on tensors without content and say what it asks for.

    Raises:
        Untraceable: if it cannot be a graph.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, explained():
        fake = [[mode.from_tensor(t) for t in group] for group in (stage.tensors, states, leaves)]
        by_id = {id(real): f for real, f in zip(states, fake[1], strict=True)}
        return stage.run(fake[0], by_id, fake[2], Request.empty)


def trace(
    stage: FakeUpdate, plan: Rehearsal, states: Sequence[Tensor], leaves: Sequence[Tensor], rows: int
) -> torch.fx.GraphModule:
    """The update as a graph with the inputs tensors, states, factors, leaves, random numbers, in this order.

    It changes the first two in place and returns the metrics, ``[M, *lead]``.

    Args:
        stage: the algorithm.
        plan: what `rehearse` found, its steps with their rows.
        states: tensors of optimizer states.
        leaves: of a batch.
        rows: of the table of Adam's factors.

    Raises:
        Untraceable: if it cannot be a graph.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    sizes = [len(stage.tensors), len(states), 1, len(leaves), len(plan.draws)]

    def whole(*inputs: Tensor) -> Tensor:
        given = iter(inputs)
        values, fresh, (factors,), batch, numbers = ([next(given) for _ in range(size)] for size in sizes)
        drawn = iter(numbers)
        by_id = {id(real): f for real, f in zip(states, fresh, strict=True)}
        found = stage.run(values, by_id, batch, lambda request: next(drawn), plan.steps, factors)
        return torch.stack([value.expand(stage.algorithm.lead) for value in found.metrics.values()])

    factors = torch.zeros(rows, 3, dtype=torch.float64, device=leaves[0].device)
    examples = [*stage.tensors, *states, factors, *leaves, *[request.empty() for request in plan.draws]]
    with explained():
        table = decompositions(leaves[0].device)
        return make_fx(whole, table, tracing_mode="fake", _allow_non_fake_inputs=True)(*examples)


@contextmanager
def explained() -> Iterator[None]:
    """Whatever goes wrong inside becomes one reason, with the line of the page where it did.

    Raises:
        Untraceable: in place of any other exception.
    """
    try:
        yield
    except Untraceable:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        no_compiler = "InvalidCxxCompiler" in type(error).__name__ + text
        if "_local_scalar_dense" in text or "data-dependent" in text.lower() or "DataDependent" in type(error).__name__:
            text = "Python asks for a tensor's value (an `if`, .item() or float())"
        elif no_compiler:
            text = "there is no C++ compiler (install g++)"
        elif "error:" in text:  # a compiler's page: its first complaint
            text = next(line.strip() for line in str(error).splitlines() if "error:" in line)
        ours = [f for f in traceback.extract_tb(error.__traceback__) if not {"torch", "tensordict"} & set(_parts(f))]
        page = bool(ours) and ours[-1].filename != __file__ and not no_compiler
        at = f" at {ours[-1].filename}:{ours[-1].lineno}" if page else ""
        raise Untraceable(f"cannot be one graph: {text[:300]}{at}") from error


def _parts(frame: traceback.FrameSummary) -> list[str]:
    return frame.filename.split("/")


_INFRASTRUCTURE = {*vars(nn.Module()), *vars(pl.LightningModule())}


def baked_values(algorithm: Any, hooks: Sequence[Callable[[Any], None]] = ()) -> dict[str, Any]:
    """Everything plain that a graph takes for fixed, by name: attributes of all modules and hooks, hyperparameters.

    Tensors that are neither parameters nor buffers count by identity, lists and dictionaries by their items.
    """
    found: dict[str, Any] = {f"hparams.{key}": _plain(value) for key, value in algorithm.hparams.items()}
    for path, module in algorithm.named_modules():
        prefix = f"self.{path}." if path else "self."
        found[f"{prefix}training"] = module.training
        for name, value in vars(module).items():
            if name not in _INFRASTRUCTURE and not (module is algorithm and name in algorithm.binding_attributes):
                found[f"{prefix}{name}"] = _plain(value)
    for owner in (getattr(hook, "__self__", None) for hook in hooks):
        found.update({f"{type(owner).__name__}.{key}": _plain(value) for key, value in vars(owner).items()})
    return found


def refuse_changes(before: dict[str, Any], after: dict[str, Any]) -> None:
    """An update that changes a plain attribute would do so once, while it is traced.

    Raises:
        Untraceable: naming the first one.
    """
    missing = object()
    changed = [name for name in {**before, **after} if before.get(name, missing) != after.get(name, missing)]
    if changed:
        raise Untraceable(
            f"changes {changed[0]} while it updates, which a graph would not repeat (what changes belongs into a "
            "buffer, see register_buffer)"
        )


def _plain(value: Any, depth: int = 0) -> Any:
    if isinstance(value, bool | int | float | str | None):
        return value
    if depth < 2 and isinstance(value, list | tuple):
        return [_plain(inner, depth + 1) for inner in value]
    if depth < 2 and isinstance(value, dict):
        return {key: _plain(inner, depth + 1) for key, inner in value.items()}
    return id(value)
