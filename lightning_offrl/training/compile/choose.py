"""Whether an algorithm's updates run as they are written or as compiled graphs, and why.

This is the entry to the folder: graphs, traces and TorchInductor are imported when something is compiled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.training import cpu

if TYPE_CHECKING:
    from lightning_offrl.training.compile.graph import CompiledUpdate, Compiler

REPAID_AFTER = 10_000
"""Gradient updates after which some 15 seconds of compiling have been won back."""
Hook = Callable[[Any], None]


class CompileChoice:
    """Decides when training starts, and computes each update's losses and optimizer steps.

    Args:
        compile: true, false, or "auto": if the run is long enough, or as the run did that is resumed.
        matmul_precision: the precision of float32 products while training, see `training.cpu`.
    """

    compiler: Compiler | None = None
    """Makes a graph fast; None is TorchInductor."""

    def __init__(self, compile: bool | Literal["auto"], matmul_precision: cpu.MatmulPrecision) -> None:
        self.compile, self.matmul_precision = compile, matmul_precision
        self.compiled: CompiledUpdate | None = None
        self.why = "not training"
        """Why it compiles, or does not, as half a sentence."""
        self.was_compiled: bool | None = None
        """Whether the run that is resumed was compiled."""
        self._precision: str | None = None
        self._restore = ExitStack()

    def begin(self, algorithm: Any, updates: int, hooks: list[Hook], batch_size: int) -> None:
        """Choose, before the first update.

        Args:
            algorithm: on its device, knowing its processes and gradient scaler.
            updates: planned length of the run; -1 without one.
            hooks: what follows each update, in order.
            batch_size: rows of a product.
        """
        use, self.why = self._choose(algorithm, updates)
        if use:
            from lightning_offrl.training.compile.graph import CompiledUpdate, inductor

            owners = (getattr(hook, "__self__", None) for hook in hooks)
            first = itertools.takewhile(lambda owner: getattr(owner, "traceable", False), owners)
            self.compiled = CompiledUpdate(algorithm, hooks[: len(list(first))], self.compiler or inductor)
        elif self.compile is True:
            rank_zero_warn(f"{type(algorithm).__name__} trains uncompiled: {self.why}")
        on_cpu = algorithm.device.type == "cpu"
        if on_cpu or self.matmul_precision != "auto":
            self._precision = cpu.precision_to_set(self.matmul_precision, algorithm.parameters(), batch_size)
        self._restore.enter_context(cpu.tuned(self._precision, keep_memory=on_cpu))

    def end(self) -> None:
        """Forget graphs, multiply as before, and give memory back; does nothing the second time."""
        self.compiled, self.was_compiled, self._precision = None, None, None
        self._restore.close()

    def _choose(self, algorithm: Any, updates: int) -> tuple[bool, str]:
        if self.compile is False:
            return False, "model.compile is false"
        if algorithm.optimizer_set.world > 1:
            return False, "several processes exchange gradients inside an update"
        if algorithm.optimizer_set.scaler is not None:
            return False, "16-mixed decides after each loss whether to step"
        if algorithm.device.type not in ("cpu", "cuda"):
            return False, f"graphs are made for CPU and CUDA, not for {algorithm.device.type}"
        if self.compile is True:
            return True, "model.compile is true"
        if self.was_compiled is not None:
            return self.was_compiled, f"the run that is resumed was {'' if self.was_compiled else 'not '}compiled"
        if 0 <= updates < REPAID_AFTER:
            return False, f"{updates:,} updates would not repay compiling"
        return True, f"{updates:,} updates repay compiling" if updates > 0 else "a run without an end repays compiling"

    @property
    def graphs_made(self) -> int:
        """Graphs compiled so far; grows where an update took longer than others."""
        return 0 if self.compiled is None else self.compiled.made

    def description(self) -> str:
        """What was chosen and why, for people."""
        way = "compiled" if self.compiled is not None else "not compiled"
        library = ", float32 products by oneDNN" if self._precision and self.matmul_precision == "auto" else ""
        return f"{way} ({self.why}){library}"

    @property
    def traced_hooks(self) -> int:
        """How many of the first hooks are part of an update's graph."""
        return 0 if self.compiled is None else len(self.compiled.hooks)

    def begin_block(self) -> None:
        """Look whether something changed that graphs took for fixed."""
        if self.compiled is not None:
            self.compiled.check()

    def losses_and_steps(self, algorithm: Any, batch: TensorDictBase) -> Mapping[str, Tensor]:
        """One update but for schedules, counters and untraced hooks.

        Args:
            algorithm: whose draws have begun.
            batch: size ``[*lead, B]``.
        """
        if self.compiled is not None:
            try:
                return self.compiled(batch)
            except self.compiled.refusal as reason:
                self.compiled, self.why = None, str(reason)
                algorithm.draws.begin(algorithm.updates, device=algorithm.device)  # some may have been drawn
                rank_zero_warn(f"{type(algorithm).__name__} {reason}; it trains uncompiled")
        metrics: dict[str, Tensor] = algorithm.losses_of(batch)
        return metrics
