"""Resamples of episodes that direct methods share."""

from __future__ import annotations

import pytest
import torch

from lightning_offrl.ope.direct.estimate import multiplicities
from lightning_offrl.ope.direct.lstd import lstd
from tests.ope.doubles import Table, episodes_of, random_mdp


def test_bootstrap_refits_equal_refits_to_the_resampled_episodes() -> None:
    mdp = random_mdp(seed=2)
    episodes = episodes_of(mdp.sample_transitions(mdp.uniform(), 60, 20), mdp.n_states, mdp.n_actions)
    table = mdp.behavior_policy(0.5)
    estimate = lstd(Table(table), episodes, discount=0.9, replicates=4, seed=11)
    times = multiplicities(60, 4, 11).long()
    assert times.sum(-1).tolist() == [60] * 5 and bool((times[1:] == 0).any())
    for i in range(4):
        resampled = episodes.select(torch.repeat_interleave(torch.arange(60), times[1 + i]))
        assert float(estimate.replicates[i]) == pytest.approx(
            lstd(Table(table), resampled, discount=0.9).value, abs=1e-10
        )
    assert estimate.standard_error() == pytest.approx(float(estimate.replicates.std()))
