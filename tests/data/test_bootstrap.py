"""Resamples of episodes, one for each head: whole clusters, and none of nothing."""

from __future__ import annotations

import torch

from lightning_offrl.data.bootstrap import EpisodeBootstrap, mean_of_picked, times_drawn, times_picked
from lightning_offrl.ope.direct.estimate import multiplicities
from lightning_offrl.ope.weighting.intervals import Resamples


def test_heads_draw_whole_clusters():
    """Every row of the table is drawn as often as its cluster was, each copy of it alike; -1 is nothing."""
    start, length = torch.tensor([0, 3, 7, 8, 13]), torch.tensor([3, 4, 1, 5, 2])
    labels = [0, 1, 0, 2, 1]
    sampler = EpisodeBootstrap(start, length, 4000, 5, 1, 4, labels)
    times = times_picked(sampler.episodes, 5)
    assert times[0].tolist() == [1.0] * 5
    for drawn in times[1:].tolist():
        assert drawn[0] == drawn[2] and drawn[1] == drawn[4] and drawn[0] + drawn[1] + drawn[3] == 3.0
    assert len({int((row >= 0).sum()) for row in sampler.episodes}) > 1  # heads of different sizes
    rows = sampler.indices(0, 3)
    episode = torch.searchsorted(start, rows, right=True) - 1
    for head in range(5):
        expected = times[head] * length
        seen = torch.bincount(episode[:, head].flatten(), minlength=5) / 12_000
        torch.testing.assert_close(seen.double(), expected / expected.sum(), atol=0.03, rtol=0.0)
    values = torch.arange(25.0).view(5, 5).double()
    torch.testing.assert_close(mean_of_picked(values, sampler.episodes), (times * values).sum(-1) / times.sum(-1))


def test_clusters_of_one_episode_change_no_draw():
    start, length = torch.arange(40) * 2, torch.full((40,), 2)
    plain, alone = (EpisodeBootstrap(start, length, 64, 7, 1, 3, c) for c in (None, torch.arange(40).flip(0)))
    assert plain.episodes.equal(alone.episodes) and plain.indices(3, 2).equal(alone.indices(3, 2))


def test_a_resample_of_what_is_held_out_is_drawn_again():
    start, length = torch.arange(4), torch.tensor([1, 1, 0, 0])
    sampler = EpisodeBootstrap(start, length, 8, 0, 0, 60, [0, 0, 1, 1])
    assert bool((times_picked(sampler.episodes, 4)[:, 0] > 0).all())
    assert set(sampler.indices(0, 1).flatten().tolist()) == {0, 1}


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


def test_samples_are_shared_however_many_are_drawn() -> None:
    few, many = (times_drawn(9, n, torch.Generator().manual_seed(3)) for n in (4, 50))
    assert few.equal(many[:4]) and (many.sum(-1) == 9).all() and many.unique(dim=0).shape[0] == 50
    assert multiplicities(9, 4, 3)[1:].equal(next(Resamples(9, 50, 3).counts())[:4])
