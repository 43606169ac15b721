"""Rows brought in order without holding them all: where each episode is, then buckets of whole episodes on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lightning_offrl.data.logs.tables import Log, Table
from lightning_offrl.data.staging import staging

BUCKET = 400_000
"""Rows of a bucket, unless a single episode has more."""
FOLDER = "offrl-sort"
"""How the temporary folders begin."""


class KeySet:
    """A set of 64-bit keys that grows by whole arrays; eight bytes each."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, dtype=np.uint64)

    def __contains__(self, key: object) -> bool:
        place = int(np.searchsorted(self._sorted, np.uint64(key)))  # type: ignore[arg-type]
        return place < len(self._sorted) and bool(self._sorted[place] == key)

    def holds(self, keys: np.ndarray) -> np.ndarray:
        """``[n]`` bool."""
        if not len(self._sorted):
            return np.zeros(len(keys), dtype=bool)
        place = np.searchsorted(self._sorted, keys).clip(max=len(self._sorted) - 1)
        return self._sorted[place] == keys

    def add(self, keys: np.ndarray) -> None:
        """Add keys."""
        if len(keys):
            self._sorted = np.union1d(self._sorted, keys)


def in_order(log: Log) -> Iterator[Table]:
    """All rows, each episode in one piece and by time, episodes in the order in which they first appear.

    The log is read twice. Memory holds 24 bytes for each episode and one bucket of rows; the rest lies in a temporary
    folder, about 80 bytes and 8 for each column of a row (1 for each action, where the log has masks).
    """
    keys, rank, count = _episodes(log)
    by_rank = np.empty(len(keys), dtype=np.int64)
    by_rank[rank] = count
    bucket_of_rank = (np.cumsum(by_rank) - 1) // BUCKET
    with staging(Path(tempfile.gettempdir()), FOLDER) as folder:
        buckets = int(bucket_of_rank[-1]) + 1 if len(keys) else 0
        for part, table in enumerate(log.tables()):
            place = rank[np.searchsorted(keys, table.key)]
            bucket = bucket_of_rank[place]
            order = np.argsort(bucket, kind="stable")
            cuts = np.searchsorted(bucket[order], np.arange(buckets + 1))
            for number in np.unique(bucket).tolist():
                rows = order[cuts[number] : cuts[number + 1]]
                _store(folder / f"{number}-{part}", table.take(rows))
        for number in range(buckets):
            files = sorted(folder.glob(f"{number}-*.npz"), key=lambda p: int(p.stem.split("-")[1]))
            if not files:  # an episode larger than a bucket pushes the next ones on
                continue
            table = Table.join([_load(file) for file in files])
            for file in files:
                file.unlink()
            place = rank[np.searchsorted(keys, table.key)]
            yield table.take(np.lexsort((np.arange(len(table)), table.time, place)))


def _episodes(log: Log) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys of all episodes, sorted; the order of their first appearance; and their numbers of rows, by that order."""
    keys, first, count = (np.empty(0, dtype=kind) for kind in (np.uint64, np.int64, np.int64))
    before = 0
    for table in log.tables():
        new, place, number = np.unique(table.key, return_index=True, return_counts=True)
        both = np.concatenate([keys, new])
        merged, inverse = np.unique(both, return_inverse=True)
        starts = np.full(len(merged), np.iinfo(np.int64).max)
        np.minimum.at(starts, inverse, np.concatenate([first, place + before]))
        totals = np.zeros(len(merged), dtype=np.int64)
        np.add.at(totals, inverse, np.concatenate([count, number]))
        keys, first, count = merged, starts, totals
        before += len(table)
    rank = np.empty(len(keys), dtype=np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(keys))
    return keys, rank, count


def _store(path: Path, table: Table) -> None:
    # numpy has an argument of its own that is called file
    np.savez(path, **{f"{name}_": getattr(table, name) for name in Table.__dataclass_fields__})


def _load(path: Path) -> Table:
    with np.load(path, allow_pickle=False) as file:
        return Table(**{name: file[f"{name}_"] for name in Table.__dataclass_fields__})
