"""Random numbers as functions of seed, update and rank."""

import torch
from torch.testing import assert_close

from lightning_offrl.rng import RandomStreams, mix


def test_draws_of_a_rank_are_its_rows_of_the_joint_batch():
    joint, like = RandomStreams(7), torch.zeros(())
    joint.begin(5)
    whole = joint.normal((6, 2), like)
    for rank in range(3):
        mine = RandomStreams(7)
        mine.rank, mine.world = rank, 3
        mine.begin(5)
        assert_close(mine.normal((2, 2), like), whole[2 * rank : 2 * rank + 2])


def test_mix_separates_neighbors():
    seeds = {mix(seed, update) for seed in range(50) for update in range(50)}
    assert len(seeds) == 2500 and all(0 <= s < 2**63 for s in seeds)
