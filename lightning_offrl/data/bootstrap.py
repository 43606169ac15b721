"""Rows for stacked heads that each see their own bootstrap resample of the episodes: refits in one pass."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_offrl.data.clusters import ClusterLabels, numbered
from lightning_offrl.data.samplers import gather
from lightning_offrl.rng import mix

_ROWS, _EPISODES = 0xB001, 0xB002


def times_drawn(units: int, samples: int, generator: torch.Generator) -> Tensor:
    """How often each unit is in each of the next bootstrap samples, ``[samples, units]`` float64.

    The samples come one after the other out of the generator, so all who resample the same units with generators of the
    same seed share them, however many each of them draws.

    Args:
        units: The number of episodes, or of clusters of them.
        samples: The number of bootstrap samples.
        generator: The source of the draws.
    """
    drawn = torch.randint(units, (samples, units), generator=generator)
    once = torch.ones(1, dtype=torch.float64).expand(samples, units)
    return torch.zeros(samples, units, dtype=torch.float64).scatter_add_(1, drawn, once)


def mean_of_picked(values: Tensor, picked: Tensor) -> Tensor:
    """Means ``[S]`` of ``[S, E]`` numbers over the episodes ``picked`` ``[S, W]`` of each row; -1 is no episode."""
    there = picked >= 0
    return torch.where(there, values.gather(-1, picked.clamp(min=0)), 0.0).sum(-1) / there.sum(-1)


def times_picked(picked: Tensor, n_episodes: int) -> Tensor:
    """How often each episode was picked, ``[S, E]`` float64; arguments as of `mean_of_picked`."""
    return torch.stack([torch.bincount(row[row >= 0], minlength=n_episodes).double() for row in picked])


class EpisodeBootstrap:
    """Uniform draws with replacement, the first heads from the data itself, the others from resamples of its episodes.

    Whole episodes are resampled, because transitions of one episode are alike; every copy of an episode counts. Head i
    is the stacked seed i: it draws what a single run with ``seed + i`` draws, and the resample of head i depends on
    ``seed + i`` alone.

    Args:
        start: ``[E]`` int64, first row of each episode.
        length: ``[E]`` int64, its steps; 0 leaves an episode out of the draws (held out).
        batch_size: B, rows per head and update.
        seed: of head 0.
        originals: heads that see the data itself.
        replicates: heads that see resamples.
        clusters: ``[E]`` labels of what episodes belong to: clusters are drawn, each with all its episodes, so the
            number of episodes differs from head to head.

    Attributes:
        episodes: ``[S, W]`` int64, the episodes of each head, ``S = originals + replicates``. W is E; with clusters
            the largest number that a head has, and rows of fewer end in -1, which is no episode.
    """

    def __init__(
        self,
        start: Tensor,
        length: Tensor,
        batch_size: int,
        seed: int,
        originals: int = 1,
        replicates: int = 0,
        clusters: ClusterLabels | None = None,
    ) -> None:
        self.batch_size, self.seed, self.seeds = batch_size, seed, originals + replicates
        n, together = len(start), numbered(clusters, len(start))
        units = n if together is None else together.n
        picked = [torch.arange(n)] * originals
        for i in range(originals, self.seeds):
            generator = torch.Generator().manual_seed(mix(seed + i, _EPISODES))
            mine = torch.empty(0, dtype=torch.int64)
            while not bool(length[mine].any()):  # few clusters: a draw of nothing but what is held out is no refit
                drawn = torch.randint(units, (units,), generator=generator)
                mine = drawn if together is None else together.episodes(drawn)
            picked.append(mine)
        self.episodes = pad_sequence(picked, batch_first=True, padding_value=-1)
        there = self.episodes >= 0
        self._first = torch.where(there, start[self.episodes], 0)
        self._end = torch.where(there, length[self.episodes], 0).cumsum(-1)
        self._generator = torch.Generator()

    def indices(self, first: int, count: int) -> Tensor:
        """Rows for the updates ``first`` to ``first + count - 1``: ``[count, S, B]``, ``[count, B]`` for one head."""
        out = torch.empty(count, self.seeds, self.batch_size, dtype=torch.int64)
        for i in range(self.seeds):
            total = int(self._end[i, -1])
            for k in range(count):
                self._generator.manual_seed(mix(self.seed + i, first + k, _ROWS))
                out[k, i] = torch.randint(total, (self.batch_size,), generator=self._generator)
            place = torch.searchsorted(self._end[i], out[:, i].contiguous(), right=True)
            before = torch.where(place > 0, self._end[i][place - 1], 0)
            out[:, i] += self._first[i][place] - before
        return out if self.seeds > 1 else out.squeeze(1)

    def batches(self, columns: TensorDictBase, first: int, count: int) -> TensorDict:
        """The rows of a flat table ``[T]`` for the same updates, as batches of the shape of `indices`."""
        return gather(columns, self.indices(first, count))
