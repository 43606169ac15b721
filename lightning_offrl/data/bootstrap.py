"""Rows for stacked heads that each see their own bootstrap resample of the episodes: refits in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_offrl.draws import mix

_ROWS, _EPISODES = 0xB001, 0xB002


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

    Attributes:
        episodes: ``[S, E]`` int64, the episodes of each head, ``S = originals + replicates``.
    """

    def __init__(
        self, start: Tensor, length: Tensor, batch_size: int, seed: int, originals: int = 1, replicates: int = 0
    ) -> None:
        self.batch_size, self.seed, self.seeds = batch_size, seed, originals + replicates
        n = len(start)
        own = torch.arange(n)
        picked = [own] * originals
        for i in range(originals, self.seeds):
            generator = torch.Generator().manual_seed(mix(seed + i, _EPISODES))
            picked.append(torch.randint(n, (n,), generator=generator))
        self.episodes = torch.stack(picked)
        self._first = start[self.episodes]
        self._end = length[self.episodes].cumsum(-1)
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
