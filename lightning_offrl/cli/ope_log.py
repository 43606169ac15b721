"""The log that ``offrl ope`` and ``offrl select`` read: which of its episodes are used, and their clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_offrl.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_offrl.cli.ope_options import LogOptions
    from lightning_offrl.data.clusters import Clusters
    from lightning_offrl.data.episodes import Episodes


@dataclass(frozen=True)
class Log:
    """The episodes that are used.

    Attributes:
        episodes: The episodes themselves.
        notes: Sentences that say which they are.
        clusters: The clusters that they belong to, or None.
        numbers: ``[E]``, their numbers in the data.
        whole: The number of episodes in the data.
    """

    episodes: Episodes
    notes: list[str]
    clusters: Clusters | None
    numbers: Tensor
    whole: int

    def select(self, index: Tensor, notes: list[str]) -> Log:
        """The episodes of these numbers."""
        clusters = None if self.clusters is None else self.clusters.select(index)
        if clusters is not None and clusters.n < 2:
            raise InputError(
                f"a split of the {self.clusters.words if self.clusters else ''} leaves only one of them on a side; "
                "choose another share, so that both sides have at least two"
            )
        return Log(self.episodes.select(index), notes, clusters, self.numbers[index], self.whole)

    def labels(self, column: str, table: str | None) -> list[str]:
        """The label of each episode in a column, for ``--by``."""
        from lightning_offrl.data.columns import table_column
        from lightning_offrl.ope.weighting.groups import labels_of

        if table is None or self.clusters is None:
            return labels_of(self.episodes, column, table)
        every = table_column(table, column, self.whole)
        return [every[i] for i in self.numbers.tolist()]


def read_log(options: LogOptions) -> Log:
    """The episodes of ``--data`` and ``--validation_fraction``, and ``--cluster`` of them."""
    import torch

    from lightning_offrl.data.clusters import clusters_of
    from lightning_offrl.data.readers import load
    from lightning_offrl.data.split import split_by_episode

    episodes, column, share = load(options.data), options.cluster, options.validation_fraction
    clusters = None if column is None else clusters_of(episodes, column, options.labels)
    n = episodes.n_episodes
    log = Log(episodes, ["all episodes of the log are used"], clusters, torch.arange(n), n)
    if share is None:
        return log
    kept = split_by_episode(episodes, share, options.split_seed, clusters)[1]
    held_out = f"{len(kept):,} held-out episodes (share {share:g}, split seed {options.split_seed})"
    if clusters is not None:
        how = f"with --data.cluster {column}" if options.labels is None else "without these clusters"
        held_out += f", whole clusters: unseen by a policy only if it was fitted {how}"
    return log.select(kept, [held_out])
