"""Logged steps with an action of a policy each, and errors of means over episodes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_offrl.diagnostics.samples import clustered_error, mean_length, sample_pairs
from lightning_offrl.errors import InputError
from lightning_offrl.ope.policies.target import Deterministic, Tabular
from tests.diagnostics.gaussian import STD, log_of, policy


def test_pairs() -> None:
    episodes = log_of(3, 2, 400, length=8)
    pairs = sample_pairs(episodes, policy(1.0, 2), states=100, horizon=2)
    assert pairs.data.shape == pairs.policy.shape == (100, 5)
    assert bool((pairs.data[:, :3] == pairs.policy[:, :3]).all())
    steps = pairs.steps
    torch.testing.assert_close(steps.state.mean(0), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(steps.state.std(0, correction=0), torch.ones(3, dtype=torch.float64))
    # Rows of the first two steps only: an observation of the table in its place.
    table = episodes.data["observation"].view(50, 8, 3)
    for observation, episode in zip(steps.observation, steps.episode, strict=True):
        assert bool((table[episode, :2] == observation).all(-1).any())
    assert mean_length(episodes, None) == 8.0 and mean_length(episodes, 3) == 3.0
    shifted = float((pairs.policy - pairs.data)[:, 3:].mean())
    assert shifted == pytest.approx(math.sqrt(0.5) * STD / float(steps.spread.mean()), abs=0.25)


def test_what_pairs_refuse() -> None:
    episodes = log_of(2, 1, 50)
    with pytest.raises(InputError, match="continuous actions, the policy discrete ones"):
        sample_pairs(episodes, Tabular(np.ones((2, 2)) / 2))
    with pytest.raises(InputError, match="at least one step"):
        sample_pairs(episodes, policy(0.0, 1), horizon=0)
    picture = torch.zeros(50, 4, 4)
    pictures = replace(episodes, data=episodes.data.clone())
    pictures.data["observation"] = picture
    fixed = Deterministic(lambda o: torch.zeros(len(o), 1))
    with pytest.raises(InputError, match="give `features`"):
        sample_pairs(pictures, fixed)
    made = sample_pairs(pictures, fixed, features=lambda o: torch.randn(len(o), 3))
    assert made.data.shape == (50, 4)


def test_errors_of_means_know_of_episodes() -> None:
    """Ten equal numbers per episode are one observation, not ten."""
    generator = torch.Generator().manual_seed(0)
    each = torch.randn(200, generator=generator, dtype=torch.float64)
    clustered = clustered_error(each.repeat_interleave(10), torch.arange(200).repeat_interleave(10))
    assert clustered == pytest.approx(float(each.std() / math.sqrt(200)), rel=1e-9)
    alone = clustered_error(each, torch.arange(200))
    assert alone == pytest.approx(float(each.std() / math.sqrt(200)), rel=1e-9)
    assert math.isnan(clustered_error(each, torch.zeros(200, dtype=torch.int64)))
