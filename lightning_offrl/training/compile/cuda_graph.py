"""CUDA graphs: the kernels of one update recorded once, and launched together from then on.

`CudaGraph` gives a recorded function the arguments of an ordinary one: what stays in place (parameters, optimizer
states) is used where it is, everything else is copied into memory that the recording reads. What records is a
`Recorder`, so that all but the recording itself runs, and is tested, without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_offrl.training.compile.trace import Untraceable

Function = Callable[[], Sequence[Tensor]]


class Recorder(Protocol):
    """Records what a function does on the device, and does it again."""

    def warm_up(self, function: Function) -> Sequence[Tensor]:
        """Run once in the way in which it will be recorded."""

    def record(self, function: Function) -> Sequence[Tensor]:
        """Record without running; returns where replays leave their results."""

    def replay(self) -> None:
        """Run what was recorded."""


class CudaRecorder:
    """``torch.cuda.CUDAGraph`` with its warm-up on a side stream."""

    def __init__(self) -> None:
        self.graph = torch.cuda.CUDAGraph()

    def warm_up(self, function: Function) -> Sequence[Tensor]:
        """On a side stream, as recording does, so that libraries set up there; draws no random numbers for good."""
        random_state = torch.cuda.get_rng_state()  # a user's dropout draws from the device's own generator
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            results = function()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.set_rng_state(random_state)
        return results

    def record(self, function: Function) -> Sequence[Tensor]:
        """Into a memory pool of its own; what other threads do on the GPU meanwhile does not matter."""
        torch.cuda.synchronize()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            return function()

    def replay(self) -> None:
        """One launch."""
        self.graph.replay()


class CudaGraph:
    """A function of tensors that is recorded at its first call and replayed by it and all later ones.

    The first call also runs the function unrecorded, on the same values, and compares what both leave behind.

    Args:
        run: changes some of its first ``fixed`` arguments in place, and returns tensors.
        fixed: number of arguments that are the same tensors in every call.
        recorder: what records.
    """

    def __init__(
        self, run: Callable[..., Sequence[Tensor]], fixed: int, recorder: Callable[[], Recorder] = CudaRecorder
    ) -> None:
        self.run, self.fixed = run, fixed
        self.recorder = recorder()
        self.inputs: list[Tensor] | None = None
        self.together: list[list[int]] = []
        """Places of the inputs, by type."""
        self.outputs: Sequence[Tensor] = []

    def __call__(self, *arguments: Tensor) -> list[Tensor]:
        """The function's results, as tensors that the next call does not overwrite.

        Raises:
            Untraceable: from the first call, which then has changed nothing.
        """
        kept, fresh = list(arguments[: self.fixed]), arguments[self.fixed :]
        if self.inputs is None:
            return self._first(kept, fresh)
        for group in self.together:  # one launch for all inputs of a type
            torch._foreach_copy_([self.inputs[i] for i in group], [fresh[i] for i in group], non_blocking=True)
        self.recorder.replay()
        return [output.clone() for output in self.outputs]

    def _first(self, kept: list[Tensor], fresh: Sequence[Tensor]) -> list[Tensor]:
        inputs = [value.clone() for value in fresh]
        before = [tensor.clone() for tensor in kept]

        def function() -> Sequence[Tensor]:
            return self.run(*kept, *inputs)

        def put_back() -> None:
            for tensor, old in zip(kept, before, strict=True):
                tensor.copy_(old)

        try:
            wanted = [tensor.clone() for tensor in (*self.recorder.warm_up(function), *kept)]
            put_back()
            self.outputs = self.recorder.record(function)
            self.recorder.replay()
        except RuntimeError as error:
            put_back()
            raise Untraceable(f"cannot be recorded as a CUDA graph: {' '.join(str(error).split())[:200]}") from error
        got = [*self.outputs, *kept]
        if not all(_close(one, other) for one, other in zip(got, wanted, strict=True)):
            put_back()
            raise Untraceable("gives other numbers when it is recorded as a CUDA graph")
        self.inputs = inputs
        types = [value.dtype for value in inputs]
        self.together = [[i for i, each in enumerate(types) if each == kind] for kind in dict.fromkeys(types)]
        return [output.clone() for output in self.outputs]


def _close(one: Tensor, other: Tensor) -> Any:
    return torch.allclose(one.double(), other.double(), rtol=1e-3, atol=1e-5, equal_nan=True)
