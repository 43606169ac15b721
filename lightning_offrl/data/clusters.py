"""Episodes that belong together: those of one patient, user or machine are alike, so it is the cluster that is drawn.

Everything that resamples or holds out episodes takes ``clusters``: one label or number per episode, equal where two
episodes belong together. A resample then draws clusters with replacement and takes all episodes of each (the pairs
cluster bootstrap; Cameron, Gelbach and Miller, 2008, https://doi.org/10.1162/rest.90.3.414), so the number of episodes
in it varies and every estimate divides by what was drawn. Clusters are numbered by first appearance: where every
episode is a cluster of its own, all draws are those without clusters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_offrl.data.columns import column_of, table_column
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.errors import InputError


@dataclass(frozen=True, eq=False)
class Clusters:
    """Which cluster each episode belongs to.

    Attributes:
        index: ``[E]`` int64, from 0, numbered by first appearance.
        column: where the labels come from, for words; empty: from the caller.
    """

    index: Tensor
    column: str = ""

    @staticmethod
    def of(labels: ClusterLabels, n_episodes: int, column: str = "") -> Clusters:
        """Number labels.

        Args:
            labels: ``[E]`` texts or whole numbers, or `Clusters`, which are returned as they are.
            n_episodes: E.
            column: see `Clusters`.

        Raises:
            InputError: not one label per episode, a missing one, numbers that are no identities, or a single cluster.
        """
        if isinstance(labels, Clusters):
            if len(labels.index) != n_episodes:
                raise InputError(f"there are clusters of {len(labels.index):,} episodes for {n_episodes:,} episodes")
            return labels
        where = f" in {column}" if column else ""
        if isinstance(labels, Tensor) and (labels.ndim != 1 or labels.is_floating_point() or labels.is_complex()):
            raise InputError(f"clusters must be whole numbers [episodes], got {labels.dtype} {list(labels.shape)}")
        values: list[Any] = labels.tolist() if isinstance(labels, Tensor) else list(labels)
        if len(values) != n_episodes:
            raise InputError(f"there are {len(values):,} labels of clusters{where} for {n_episodes:,} episodes")
        missing = sum(_is_missing(value) for value in values)
        if missing:
            raise InputError(
                f"{missing:,} of {n_episodes:,} episodes have no label{where}, so whom they belong to is not known; "
                "complete the column, or leave these episodes out"
            )
        number: dict[Any, int] = {}
        index = torch.tensor([number.setdefault(value, len(number)) for value in values], dtype=torch.int64)
        if len(number) == 1:
            raise InputError(
                f"all {n_episodes:,} episodes have the same label{where} ({values[0]}), so they are one cluster, and "
                "what varies between clusters cannot be seen; name the column that tells people or machines apart"
            )
        return Clusters(index, column)

    @property
    def n(self) -> int:
        """Number of clusters C."""
        return int(self.index.max()) + 1

    @property
    def size(self) -> Tensor:
        """Episodes of each cluster, ``[C]`` int64."""
        return torch.bincount(self.index)

    @property
    def alone(self) -> bool:
        """Whether every episode is a cluster of its own, so that clusters change nothing."""
        return self.n == len(self.index)

    @property
    def effective(self) -> float:
        """``(sum n)^2 / sum n^2`` of the sizes n: so many clusters of equal size would vary as little (Kish, 1965)."""
        size = self.size.double()
        return float(size.sum().square() / size.square().sum())

    @property
    def words(self) -> str:
        """Such as ``310 clusters (column subject)``."""
        return f"{self.n:,} cluster{'' if self.n == 1 else 's'}{f' (column {self.column})' if self.column else ''}"

    def sums(self, values: Tensor) -> Tensor:
        """Sums ``[C, ...]`` of ``[E, ...]`` numbers over the episodes of each cluster."""
        return torch.zeros(self.n, *values.shape[1:], dtype=values.dtype).index_add_(0, self.index, values)

    def spread(self, counts: Tensor) -> Tensor:
        """``[..., C]`` numbers of clusters as those of their episodes, ``[..., E]``."""
        return counts[..., self.index]

    def log_sums(self, log_weight: Tensor) -> Tensor:
        """Logs ``[C]`` of the sums of weights with logs ``[E]``, -inf where all are 0."""
        top = log_weight.amax()
        shift = top if bool(top.isfinite()) else torch.zeros_like(top)
        return self.sums((log_weight - shift).exp()).log() + shift

    def episodes(self, picked: Tensor) -> Tensor:
        """All episodes of these clusters, one cluster after the other: ``[n]`` int64 for ``[k]`` numbers."""
        order, size = self.index.argsort(stable=True), self.size
        first, count = (size.cumsum(0) - size)[picked], size[picked]
        ahead = count.cumsum(0) - count
        return order[torch.arange(int(count.sum())) + (first - ahead).repeat_interleave(count)]

    def select(self, rows: Tensor) -> Clusters:
        """Of some episodes (numbers or a bool mask), numbered anew."""
        labels = self.index[rows].tolist()
        number: dict[int, int] = {}
        return Clusters(torch.tensor([number.setdefault(x, len(number)) for x in labels]).long(), self.column)


ClusterLabels = Clusters | Sequence[Any] | Tensor
"""``[E]`` labels or int64 numbers, equal where two episodes belong to one cluster; or these numbered already."""


def clusters_of(episodes: Episodes, column: str, table: str | Path | None = None) -> Clusters:
    """The clusters that a column names.

    Args:
        episodes: logged data.
        column: a column of ``table``, else of the data; its values are identities as they are.
        table: CSV file with a header and one line per episode, in order.

    Raises:
        InputError: no such column, not one value per episode, or what `Clusters.of` raises.
    """
    if table is not None:
        return Clusters.of(table_column(table, column, episodes.n_episodes), episodes.n_episodes, column)
    values, names = column_of(episodes, column)
    if values.ndim != 1:
        raise InputError(f"the column {column} has {values.shape[1:].numel()} numbers per step; name one: {column}.0")
    first = values[episodes.start]
    known = ~(values.isnan() | first.isnan().repeat_interleave(episodes.length))
    moved = known & (values != first.repeat_interleave(episodes.length))
    changing = int(episodes.episode_index()[moved].unique().numel())
    if changing:
        raise InputError(
            f"the column {column} changes within {changing:,} of {episodes.n_episodes:,} episodes, so it does not say "
            "whom an episode belongs to; name one that is the same at all its steps"
        )
    if values.dtype in (torch.float32, torch.float16, torch.bfloat16) and names is None:
        exact = 2.0 / torch.finfo(values.dtype).eps
        if bool((first.abs() >= exact).any()):
            raise InputError(
                f"the numbers in {column} are too large to tell apart in {values.dtype} (from {exact:,.0f} on); give "
                "them as texts in a table of labels, or import the log with this column under groups"
            )
    if names is None:
        labels = first.tolist()
    else:
        labels = [None if math.isnan(x) or names[int(x)] == "missing" else names[int(x)] for x in first.tolist()]
    return Clusters.of(labels, episodes.n_episodes, column)


def numbered(clusters: ClusterLabels | None, n_episodes: int, column: str = "") -> Clusters | None:
    """`Clusters.of`, or None where there are none or every episode is alone: then the unit is the episode."""
    found = None if clusters is None else Clusters.of(clusters, n_episodes, column)
    return None if found is None or found.alone else found


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))
