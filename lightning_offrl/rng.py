"""Randomness as a pure function of (seed, gradient update, place): what makes resuming, K and seeds exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def mix(*words: int) -> int:
    """One 63-bit seed out of several integers (SplitMix64's finalizer, chained).

    Neighboring seeds and updates give unrelated generators, so ``seed=0, update=1`` is not ``seed=1, update=0``.
    """
    state = 0
    for word in words:
        state = (state + word + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


@dataclass(frozen=True)
class Request:
    """Random numbers that an update asks for."""

    kind: str
    """"randn" or "rand"."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    batch_dim: int

    def empty(self) -> Tensor:
        """A tensor of that shape and type."""
        return torch.empty(self.shape, dtype=self.dtype, device=self.device)


class RandomStreams:
    """The one door to randomness inside an update.

    Every gradient update starts its own streams, one per stacked seed, from ``(seed + i, update)``: update k draws the
    same numbers whether the run was interrupted before it or not, alone or as one of S stacked seeds. Under DDP the
    noise of the joint batch is drawn and each rank takes its rows, so two processes draw what one would.

    Args:
        seed: the run's seed; stacked seed i uses ``seed + i``.
        seeds: number of stacked seeds S; 1 means that shapes carry no seed dimension.
    """

    def __init__(self, seed: int, seeds: int = 1) -> None:
        self.seed, self.seeds = seed, seeds
        self.rank, self.world = 0, 1
        self._at = (0, 0)
        self.tape: Callable[[Request], Tensor] | None = None
        """Answers requests in place of the streams, while an update is traced."""
        self._fresh: dict[torch.device, list[torch.Generator]] = {}
        self._pool: dict[torch.device, list[torch.Generator]] = {}

    def begin(self, update: int, stream: int = 0, device: torch.device | None = None) -> None:
        """Start the streams of one update.

        Args:
            update: number of gradient updates made before it.
            stream: separates draws that are not training (validation).
            device: of training; its own generator starts anew, too.
        """
        self._at = (update, stream)
        self._fresh = {}
        # whatever does not come through here (a dropout of the user's own encoder) repeats after a resume, too
        seed = mix(self.seed, update, stream, 1 + self.rank)
        torch.default_generator.manual_seed(seed)
        if device is not None and device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def normal(self, shape: Sequence[int], like: Tensor, batch_dim: int = -2) -> Tensor:
        """Standard normal numbers, without gradient.

        Args:
            shape: ``[*lead, ..., B, A]``, with the seed dimension first where seeds are stacked.
            like: gives device and dtype (drawn in float32, then converted).
            batch_dim: where B is, -2 with features behind it, -1 without.
        """
        return self._answer("randn", shape, like, batch_dim)

    def uniform(self, shape: Sequence[int], like: Tensor, batch_dim: int = -2) -> Tensor:
        """Uniform numbers in [0, 1); arguments as in `normal`."""
        return self._answer("rand", shape, like, batch_dim)

    def _answer(self, kind: str, shape: Sequence[int], like: Tensor, batch_dim: int) -> Tensor:
        request = Request(kind, tuple(shape), like.dtype, like.device, batch_dim)
        return self.draw(request) if self.tape is None else self.tape(request)

    def draw(self, request: Request) -> Tensor:
        """The next numbers of this update's streams."""
        kind: Callable[..., Tensor] = torch.randn if request.kind == "randn" else torch.rand
        device, batch_dim = request.device, request.batch_dim
        size, batch = list(request.shape), int(request.shape[batch_dim])
        size[batch_dim] = batch * self.world
        generators = self._generators(device)
        if self.seeds == 1:
            out = kind(size, generator=generators[0], dtype=torch.float32, device=device)
        else:
            out = torch.stack([kind(size[1:], generator=g, dtype=torch.float32, device=device) for g in generators])
        if self.world > 1:
            out = out.narrow(batch_dim, self.rank * batch, batch)
        return out.to(request.dtype)

    def _generators(self, device: torch.device) -> list[torch.Generator]:
        if device not in self._fresh:
            pool = self._pool.get(device) or [torch.Generator(device) for _ in range(self.seeds)]
            for i, generator in enumerate(pool):
                generator.manual_seed(mix(self.seed + i, *self._at))
            self._pool[device] = self._fresh[device] = pool
        return self._fresh[device]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "tape": None, "_fresh": {}, "_pool": {}}  # generators cannot be pickled and are remade

    def __deepcopy__(self, memo: dict[int, Any]) -> RandomStreams:
        return self  # a copied network draws where its original does
