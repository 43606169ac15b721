"""From a page's ``update`` to one graph of tensor operations: losses, gradients, Adam, targets, nothing else.

The page runs once on stand-ins for its parameters, buffers, optimizer states, batch and random numbers, and what it
does to them is written down. No page is rewritten for that: ``minimize`` is its only door to gradients and `Draws` its
only door to randomness, so both can be answered differently while tracing.

A graph holds what Python decided on the way. Decisions that depend on the count of updates (a policy that learns every
second time) are remembered with the graph, see `Clock`; plain attributes and hyperparameters are compared by
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
from lightning_offrl.descent import Descent, adam_
from lightning_offrl.draws import Request

Question = Callable[[int], Any]


class Untraceable(Exception):
    """Why an update cannot be one graph, as the end of a sentence that begins with the page's name."""


class Clock:
    """Stands for the count of updates while tracing: answers comparisons, and remembers what it was asked.

    A graph is right for exactly those updates that give the same answers.

    Args:
        now: the count.
        asked: where questions and their answers are kept.
        of: what this clock shows, from the count: ``(updates + 1) % 2`` is a clock too.
    """

    def __init__(self, now: int, asked: list[tuple[Question, Any]], of: Question = lambda count: count) -> None:
        self._now, self._asked, self._of = now, asked, of

    def _then(self, operation: Callable[[Any, Any], Any], other: Any, swapped: bool = False) -> Clock:
        if isinstance(other, bool) or not isinstance(other, int | float):
            raise Untraceable("uses the count of updates as a number in its losses, and that would be fixed in a graph")
        of = self._of
        if swapped:
            return Clock(self._now, self._asked, lambda count: operation(other, of(count)))
        return Clock(self._now, self._asked, lambda count: operation(of(count), other))

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

    def __add__(self, other: Any) -> Clock:
        return self._then(operator.add, other)

    def __sub__(self, other: Any) -> Clock:
        return self._then(operator.sub, other)

    def __mul__(self, other: Any) -> Clock:
        return self._then(operator.mul, other)

    def __mod__(self, other: Any) -> Clock:
        return self._then(operator.mod, other)

    def __floordiv__(self, other: Any) -> Clock:
        return self._then(operator.floordiv, other)

    def __truediv__(self, other: Any) -> Clock:
        return self._then(operator.truediv, other)

    def __rsub__(self, other: Any) -> Clock:
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


class TracedDescent(Descent):
    """`Descent` on stand-ins: notes which parameters are stepped and, given Adam's factors, steps them in the graph.

    Args:
        plain: the real one.
        stand_in: by ``id`` of the real tensor.
        plan: the steps that a rehearsal saw, with their rows; None is that rehearsal.
        factors: table of `adam_factors`, ``[rows, 3]``.
    """

    def __init__(
        self, plain: Descent, stand_in: dict[int, Tensor], plan: list[Step] | None, factors: Tensor | None
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
            state = {k: self._stand_in[id(v)] for k, v in optimizer.state[parameter].items() if k != "step"}
            stand_in = self._stand_in[id(parameter)]
            adam_(stand_in, gradient, state, group_of[id(parameter)], self._factors[row])


@dataclass
class Rehearsal:
    """What an update asks for: random numbers, steps of optimizers, and the clock."""

    asked: list[tuple[Question, Any]] = field(default_factory=list)
    draws: list[Request] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)


class Stage:
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
        self.slots = [
            (table, name)
            for module in algorithm.modules()
            for table in (module._parameters, module._buffers)
            for name, value in table.items()
            if value is not None
        ]

    def tensors(self) -> list[Tensor]:
        """Parameters and buffers, one per slot."""
        return [table[name] for table, name in self.slots]

    def run(
        self,
        values: Sequence[Tensor],
        states: Mapping[int, Tensor],
        leaves: Sequence[Tensor],
        tape: Callable[[Request], Tensor],
        found: Rehearsal,
        plan: list[Step] | None = None,
        factors: Tensor | None = None,
    ) -> list[Tensor]:
        """One update with stand-ins in place.

        Args:
            values: for the slots.
            states: for tensors of optimizer states, by ``id`` of the real ones.
            leaves: for the batch, in the order of ``keys``.
            tape: answers requests for random numbers.
            found: filled with what was asked for.
            plan: see `TracedDescent`.
            factors: see `TracedDescent`.

        Returns:
            The metrics' values, in the order of ``found.metrics``.
        """
        algorithm, real = self.algorithm, self.tensors()
        stand_in = {**{id(r): v for r, v in zip(real, values, strict=True)}, **states}
        descent, updates = algorithm._descent, algorithm.updates
        batch = TensorDict({}, batch_size=self.batch_size, device=self.device)
        for key, leaf in zip(self.keys, leaves, strict=True):
            batch[key] = leaf

        def answer(request: Request) -> Tensor:
            found.draws.append(request)
            return tape(request)

        traced = TracedDescent(descent, stand_in, plan, factors)
        try:
            for (table, name), value in zip(self.slots, values, strict=True):
                table[name] = value
            algorithm._descent, algorithm.updates = traced, Clock(updates, found.asked)
            algorithm.draws.tape = answer
            metrics = algorithm.losses_of(batch)
            algorithm.updates = algorithm.updates + 1
            with torch.no_grad():
                for hook in self.hooks:
                    hook(algorithm)
                for (table, name), value in zip(self.slots, values, strict=True):
                    if table[name] is not value:  # a buffer that was assigned, not changed in place
                        value.copy_(table[name])
        finally:
            for (table, name), value in zip(self.slots, real, strict=True):
                table[name] = value
            algorithm._descent, algorithm.updates, algorithm.draws.tape = descent, updates, None
        found.steps, found.metrics = traced.steps, list(metrics)
        return list(metrics.values())


def rehearse(stage: Stage, states: Sequence[Tensor], leaves: Sequence[Tensor]) -> Rehearsal:
    """Run the update on tensors without content and say what it asks for.

    Raises:
        Untraceable: if it cannot be a graph.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    found, before = Rehearsal(), baked_values(stage.algorithm)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, explained(stage.algorithm):
        fake = [[mode.from_tensor(t) for t in group] for group in (stage.tensors(), states, leaves)]
        by_id = {id(real): f for real, f in zip(states, fake[1], strict=True)}
        stage.run(fake[0], by_id, fake[2], lambda request: request.empty(), found)
    for where, value in baked_values(stage.algorithm).items():
        if before.get(where, where) != value:
            raise Untraceable(
                f"changes {where} while it updates, which a graph would not repeat: what changes belongs into a buffer "
                "(register_buffer)"
            )
    return found


def trace(
    stage: Stage, plan: Rehearsal, states: Sequence[Tensor], leaves: Sequence[Tensor], rows: int
) -> torch.fx.GraphModule:
    """The update as a graph with the inputs slots, states, factors, leaves, random numbers, in this order.

    It changes the first two in place and returns the metrics, ``[M, *lead]``.

    Raises:
        Untraceable: if it cannot be a graph.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    algorithm = stage.algorithm
    sizes = [len(stage.slots), len(states), 1, len(leaves), len(plan.draws)]

    def whole(*inputs: Tensor) -> Tensor:
        groups, at = [], 0
        for size in sizes:
            groups.append(inputs[at : at + size])
            at += size
        values, fresh, (factors,), batch, numbers = groups
        drawn = iter(numbers)
        by_id = {id(real): f for real, f in zip(states, fresh, strict=True)}
        metrics = stage.run(values, by_id, batch, lambda request: next(drawn), Rehearsal(), plan.steps, factors)
        return torch.stack([m.expand(algorithm.lead) for m in metrics])

    factors = torch.zeros(rows, 3, dtype=torch.float64, device=leaves[0].device)
    examples = [*stage.tensors(), *states, factors, *leaves, *[r.empty() for r in plan.draws]]
    with explained(algorithm):
        traced = make_fx(whole, tracing_mode="fake", _allow_non_fake_inputs=True)(*examples)
    return traced


@contextmanager
def explained(algorithm: Any) -> Iterator[None]:
    """Whatever goes wrong inside becomes one reason, with the line of the page where it did."""
    try:
        yield
    except Untraceable:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        if "_local_scalar_dense" in text or "data-dependent" in text.lower() or "DataDependent" in type(error).__name__:
            text = "Python asks for the value of a tensor (an `if`, .item() or float())"
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
        at = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        raise Untraceable(f"cannot be one graph: {text[:300]}{at}") from error


_INFRASTRUCTURE = {*vars(nn.Module()), *vars(pl.LightningModule()), "updates", "_hparams"}


def baked_values(algorithm: Any) -> dict[str, Any]:
    """Everything plain that a graph takes for fixed: attributes of all modules, by path, and the hyperparameters.

    Tensors that are neither parameters nor buffers count by identity, lists and dictionaries by their items.
    """
    found: dict[str, Any] = {f"hparams.{k}": _plain(v) for k, v in algorithm.hparams.items()}
    for path, module in algorithm.named_modules():
        prefix = f"self.{path}." if path else "self."
        found[f"{prefix}training"] = module.training
        for name, value in vars(module).items():
            if name not in _INFRASTRUCTURE and name not in algorithm.binding_attributes:
                found[f"{prefix}{name}"] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, list | tuple):
        return [_plain(v) if not isinstance(v, list | tuple | dict) else id(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) if not isinstance(v, list | tuple | dict) else id(v) for k, v in value.items()}
    return id(value)
