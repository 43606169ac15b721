"""Which transitions make up gradient update k: a pure function of (seed, k, rank)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from lightning_offrl.rng import mix
from lightning_offrl.training.old_code import attributes_of

__getattr__ = attributes_of(__name__)
_STREAM = 0x5A3


class UniformSampler:
    """Transitions drawn uniformly with replacement.

    Under DDP the joint batch of ``world * batch_size`` is drawn and each rank takes its share, so the ranks see
    different rows, and two processes see together what one with the doubled batch would.

    Args:
        size: number of transitions.
        batch_size: B, rows per rank and seed.
        seed: of the run; stacked seed i draws what a single run with ``seed + i`` draws.
        seeds: stacked seeds S.
        rank: this process.
        world: number of processes.
    """

    def __init__(self, size: int, batch_size: int, seed: int, seeds: int = 1, rank: int = 0, world: int = 1) -> None:
        self.size, self.batch_size, self.seed, self.seeds = size, batch_size, seed, seeds
        self.rank, self.world = rank, world
        self._generator = torch.Generator()

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        """The joint batch of one update and seed, ``[rows]`` int64; all randomness comes from ``generator``."""
        return torch.randint(self.size, (rows,), generator=generator)

    def indices(self, first: int, count: int) -> Tensor:
        """Rows for the gradient updates ``first`` to ``first + count - 1``: ``[count, B]``, or ``[count, S, B]``."""
        start, rows = self.rank * self.batch_size, self.batch_size * self.world
        out = torch.empty(count, self.seeds, self.batch_size, dtype=torch.int64)
        for k in range(count):
            for i in range(self.seeds):
                self._generator.manual_seed(mix(self.seed + i, first + k, _STREAM))
                drawn = self.draw(rows, self._generator)
                out[k, i] = drawn[start : start + self.batch_size]
        return out if self.seeds > 1 else out.squeeze(1)


def gather(columns: TensorDictBase, indices: Tensor) -> TensorDict:
    """Rows of a flat ``TensorDict`` ``[T]`` by an index of any shape; the result has the batch size of the index.

    ``index_select`` on each column: three times as fast as indexing, and it reads a memory-mapped file in place.
    Columns that lie side by side in one table are read together: a row of it is one or two places in memory, where
    columns of their own are five or more, each a cache miss in a large log.
    """
    shape, flat = indices.shape, indices.reshape(-1)
    read: dict[Table, Tensor] = {}

    def take(value: Tensor) -> Tensor:
        table, column = _in_table(value)
        if table is None:
            return torch.index_select(value, 0, flat)
        if table not in read:
            whole = value.as_strided((len(value), table.width), (table.width, 1), table.first)
            read[table] = torch.index_select(whole, 0, flat)
        return read[table][:, column : column + value[0].numel()].contiguous()

    def walk(td: TensorDictBase) -> TensorDict:
        out: dict[str, Any] = {}
        for key, value in td.items():
            if isinstance(value, TensorDictBase):
                out[key] = walk(value)
            else:
                out[key] = take(value).view(*shape, *value.shape[1:])
        return TensorDict(out, batch_size=shape, device=td.device)

    return walk(columns)


class Table(NamedTuple):
    """Rows in memory that several columns are parts of."""

    address: int
    dtype: torch.dtype
    first: int
    """Where its first row begins, in numbers."""
    width: int


def _in_table(column: Tensor) -> tuple[Table | None, int]:
    """The table that a column is part of, as the cache maps them, and its place in a row; None for one on its own."""
    if len(column) < 2 or column.device.type != "cpu" or not column[0].is_contiguous():
        return None, 0
    width, size = column.stride(0), column[0].numel()
    row, place = divmod(int(column.storage_offset()), max(width, 1))
    storage = column.untyped_storage()
    if width <= size or place + size > width or (row + len(column)) * width * column.itemsize > storage.nbytes():
        return None, 0
    return Table(storage.data_ptr(), column.dtype, row * width, width), place


def resident(columns: TensorDictBase, device: torch.device, free: int | None = None) -> TensorDictBase:
    """The columns on a GPU if they fill at most half of its free memory, else where they are.

    Batches are then made on the GPU; only row numbers cross the bus. On a CPU, mapped files are paged in.

    Args:
        columns: flat ``TensorDict`` ``[T]``.
        device: of training.
        free: bytes; None asks the driver.
    """
    if device.type == "cpu":
        _page_in(columns)
        return columns
    if free is None:
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    size = sum(value.numel() * value.element_size() for value in columns.values(True, True))
    return columns.to(device) if size <= free // 2 else columns


def _page_in(columns: TensorDictBase) -> None:
    """Read one number of every page of mapped tables, in order, unless they fill more than half of the memory.

    Else random rows would do so one page fault at a time, for thousands of updates. The pages stay the system's: it may
    take them back.
    """
    tables = {}
    for column in columns.values(True, True):
        table, _ = _in_table(column)
        if table is not None:
            tables[table] = column.as_strided((len(column) * table.width,), (1,), table.first)
    size = sum(flat.numel() * flat.itemsize for flat in tables.values())
    if not hasattr(os, "sysconf") or size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2:
        return
    for flat in tables.values():
        flat[:: os.sysconf("SC_PAGE_SIZE") // flat.itemsize].sum()


class BlockLoader:
    """Yields blocks ``[K, B]`` (``[K, S, B]``) for consecutive gradient updates, and knows where it is.

    Blocks end on multiples of K, at the end of an epoch, and at ``stop``: the last one may be short. Lightning saves
    and restores ``state_dict``, so a resumed run goes on with the next update.

    Args:
        columns: flat ``TensorDict`` ``[T]``.
        sampler: gives the rows of each update.
        block: K.
        epoch: length of an epoch in updates, a multiple of K, or the whole run.
        stop: total number of updates, or None.
    """

    def __init__(
        self, columns: TensorDictBase, sampler: UniformSampler, block: int, epoch: int, stop: int | None = None
    ) -> None:
        self.columns, self.sampler, self.block, self.epoch, self.stop = columns, sampler, block, epoch, stop
        self.position = 0
        """Updates handed out so far."""

    def __len__(self) -> int:
        """Blocks per epoch; known to Lightning so that it does not fetch one ahead."""
        return -(-self.epoch // self.block)

    def __iter__(self) -> Iterator[TensorDict]:
        """Blocks from the current position to the end of the epoch."""
        end = (self.position // self.epoch + 1) * self.epoch
        if self.stop is not None:
            end = min(end, self.stop) if self.position < self.stop else self.position
        while self.position < end:
            count = min(self.block - self.position % self.block, end - self.position)
            rows = self.sampler.indices(self.position, count)
            device = self.columns.device
            if device is not None and device.type != "cpu":
                rows = (rows.pin_memory() if device.type == "cuda" else rows).to(device, non_blocking=True)
            block = gather(self.columns, rows)
            self.position += count
            yield block

    def state_dict(self) -> dict[str, int]:
        """The position in updates."""
        return {"updates": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the given number of updates."""
        self.position = int(state["updates"])


class SequentialBlocks:
    """Held-out transitions in order, as blocks ``[1, B]`` (``[1, S, B]``, the same rows for every seed).

    Args:
        columns: flat ``TensorDict`` ``[T]``.
        batch_size: B; the last batch may be smaller.
        limit: at most so many batches, spread evenly over the data; None takes all.
        seeds: stacked seeds S.
    """

    def __init__(self, columns: TensorDictBase, batch_size: int, limit: int | None = None, seeds: int = 1) -> None:
        self.columns, self.batch_size, self.seeds = columns, batch_size, seeds
        starts = list(range(0, columns.batch_size[0], batch_size))
        if limit is not None and limit < len(starts):
            starts = [starts[i * len(starts) // limit] for i in range(limit)]
        self.starts = starts

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.starts)

    def __iter__(self) -> Iterator[TensorDict]:
        """The batches in the order of the data."""
        total = self.columns.batch_size[0]
        for start in self.starts:
            rows = torch.arange(start, min(start + self.batch_size, total))
            yield gather(self.columns, rows.expand(1, self.seeds, -1) if self.seeds > 1 else rows.unsqueeze(0))
