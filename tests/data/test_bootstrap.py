"""Rows for stacked heads, each from its own resample of the episodes."""

from __future__ import annotations

import torch

from lightning_offrl.data.bootstrap import EpisodeBootstrap


def test_bootstrap_rows_come_from_each_heads_own_episodes() -> None:
    start, length = torch.tensor([0, 3, 7, 8]), torch.tensor([3, 4, 1, 5])
    length[2] = 0  # held out
    sampler = EpisodeBootstrap(start, length, 4000, seed=5, originals=1, replicates=3)
    rows = sampler.indices(0, 2)
    assert rows.shape == (2, 4, 4000)
    episode = torch.searchsorted(start, rows, right=True) - 1
    assert sampler.episodes[0].tolist() == [0, 1, 2, 3]
    for head in range(4):
        times = torch.bincount(sampler.episodes[head], minlength=4) * length
        seen = torch.bincount(episode[:, head].flatten(), minlength=4) / 8000
        torch.testing.assert_close(seen, times / times.sum(), atol=0.03, rtol=0.0)
        within = (rows[:, head] - start[episode[:, head]]).flatten()
        assert bool((within < length[episode[:, head]].flatten()).all()) and int(within.min()) == 0
    assert torch.equal(rows, EpisodeBootstrap(start, length, 4000, 5, 1, 3).indices(0, 2))
    alone = EpisodeBootstrap(start, length, 4000, seed=8, originals=0, replicates=1)
    assert torch.equal(alone.indices(0, 2), rows[:, 3])
