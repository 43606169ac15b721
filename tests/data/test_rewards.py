"""Reward presets, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers import load
from lightning_offrl.data.rewards import PRESETS, RewardTransform, fit_reward, return_quantile
from lightning_offrl.errors import InputError


def with_rewards(rewards: list[float], ends: list[int]) -> Episodes:
    rows = len(rewards)
    terminals = np.zeros(rows)
    terminals[ends] = 1
    return load(
        {
            "observations": np.zeros((rows, 1)),
            "actions": np.zeros((rows, 1)),
            "rewards": np.array(rewards),
            "terminals": terminals,
            "timeouts": np.zeros(rows),
        }
    )


def test_fixed_presets(arrays: dict[str, Any]) -> None:
    episodes = load(arrays)
    assert fit_reward("none", episodes) == (1.0, 0.0)
    assert fit_reward("antmaze", episodes) == (1.0, -1.0)
    assert fit_reward("antmaze-cql", episodes) == (10.0, -5.0)
    assert fit_reward(RewardTransform(2.0, 3.0), episodes) == (2.0, 3.0)


def test_iql_scales_by_the_range_of_returns() -> None:
    # Returns 3 and 13: rewards are multiplied by 1000 / 10.
    assert fit_reward("iql-locomotion", with_rewards([1.0, 2.0, 6.0, 7.0], [1, 3])) == (100.0, 0.0)


def test_standardized_rewards_have_mean_zero_and_deviation_one(arrays: dict[str, Any]) -> None:
    episodes = load(arrays)
    scale, shift = fit_reward("standardize", episodes)
    reward = scale * episodes.data["next", "reward"].double() + shift
    assert float(reward.mean()) == pytest.approx(0.0, abs=1e-12)
    assert float(reward.std(correction=0)) == pytest.approx(1.0)


def test_bad_presets() -> None:
    same = with_rewards([1.0, 1.0], [0, 1])
    with pytest.raises(InputError, match="all 2 episodes of arrays have the return 1"):
        fit_reward("iql-locomotion", same)
    with pytest.raises(InputError, match="every reward of arrays is 1"):
        fit_reward("standardize", same)
    with pytest.raises(InputError, match="did you mean 'antmaze'"):
        fit_reward("antmze", same)
    for name in PRESETS:
        assert name in str(pytest.raises(InputError, fit_reward, "zzz", same).value)


def test_by_hand_with_a_tie():
    """Lengths 2, 1, 1 and returns 5, 1, 5: one of four transitions lies below 5, three at it."""
    got = return_quantile(torch.tensor([5.0, 1.0, 5.0]), torch.tensor([2, 1, 1]))
    assert_close(got, torch.tensor([0.625, 0.625, 0.125, 0.625]))


def test_the_mean_is_one_half():
    returns, length = torch.randn(50), torch.randint(1, 9, (50,))
    assert_close(return_quantile(returns, length).double().mean().item(), 0.5, rtol=0, atol=1e-7)
