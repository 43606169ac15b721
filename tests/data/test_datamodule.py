"""From a source to columns: rewards, n steps, splits, statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lightning_offrl.batch import TRANSITION
from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.data.episodes import EpisodeFilter, Episodes
from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.data.rewards import RewardTransform
from lightning_offrl.errors import InputError


def two_episodes() -> Episodes:
    """Rewards 1, 2, 3 (terminal) and 10, 20 (time limit); observations count the steps."""
    return from_arrays(
        {
            "observations": np.array([[0.0], [1], [2], [10], [11]], dtype=np.float32),
            "actions": np.array([[0.0], [0.1], [0.2], [0.3], [0.4]], dtype=np.float32),
            "rewards": np.array([1.0, 2, 3, 10, 20], dtype=np.float32),
            "terminated": np.array([0, 0, 1, 0, 0], dtype=bool),
            "truncated": np.array([0, 0, 0, 0, 1], dtype=bool),
            "next_observations": np.array([[1.0], [2], [3], [11], [12]], dtype=np.float32),
        }
    )


def test_one_step_columns_are_the_log():
    columns = OfflineDataModule(two_episodes(), discount=0.9).columns(TRANSITION)
    assert columns["next", "reward"].tolist() == [1, 2, 3, 10, 20]
    assert columns["next", "terminated"].tolist() == [False, False, True, False, False]
    assert columns["next", "truncated"].tolist() == [False] * 4 + [True]
    assert_close(columns["discount"], torch.full((5,), 0.9))
    assert columns["next", "observation"].flatten().tolist() == [1, 2, 3, 11, 12]


def test_two_step_columns_by_hand():
    """Sums stay inside episodes; the last step of each is shortened, and its discount with it."""
    data = OfflineDataModule(two_episodes(), discount=0.5, n_step=2)
    columns = data.columns((*TRANSITION, ("next", "action"), "mc_return", "timestep"))
    assert_close(columns["next", "reward"], torch.tensor([2.0, 3.5, 3.0, 20.0, 20.0]))
    assert_close(columns["discount"], torch.tensor([0.25, 0.25, 0.5, 0.25, 0.5]))
    assert columns["next", "terminated"].tolist() == [False, True, True, False, False]
    assert columns["next", "truncated"].tolist() == [False, False, False, True, True]
    assert columns["next", "observation"].flatten().tolist() == [2, 3, 3, 12, 12]
    assert_close(columns["next", "action"].flatten(), torch.tensor([0.2, 0.2, 0.2, 0.4, 0.4]))
    assert_close(columns["mc_return"], torch.tensor([2.75, 3.5, 3.0, 20.0, 20.0]))
    assert columns["timestep"].tolist() == [0, 1, 2, 0, 1]


def test_rewards_are_scaled_on_the_train_split():
    """IQL's preset: returns are 6 and 30, so rewards are multiplied by 1000 / 24."""
    columns = OfflineDataModule(two_episodes(), reward="iql-locomotion").columns(TRANSITION)
    assert_close(columns["next", "reward"], torch.tensor([1.0, 2, 3, 10, 20]) * 1000 / 24)
    shifted = OfflineDataModule(two_episodes(), reward=RewardTransform(scale=2.0, shift=-1.0))
    assert_close(shifted.columns(TRANSITION)["next", "reward"], torch.tensor([1.0, 3, 5, 19, 39]))


def test_the_filter_keeps_whole_episodes():
    data = OfflineDataModule(two_episodes(), filter=EpisodeFilter(top_fraction=0.5))
    assert data.columns(TRANSITION)["next", "reward"].tolist() == [10, 20]
    assert data.fingerprint != OfflineDataModule(two_episodes()).fingerprint


def test_only_what_is_needed_is_prepared():
    assert set(OfflineDataModule(two_episodes()).columns(("observation", "action")).keys()) == {"observation", "action"}


def test_splits_hold_whole_episodes_and_all_of_them(arrays):
    data = OfflineDataModule({**arrays}, validation_fraction=0.34)
    assert data.validation is not None
    assert data.train.n_episodes == 4 and data.validation.n_episodes == 2
    both = torch.cat([data.train.data["observation"], data.validation.data["observation"]])
    assert len(torch.unique(both, dim=0)) == len(data.episodes)


@pytest.mark.parametrize("chunk", [3, 1_000_000])
def test_statistics_are_those_of_numpy_in_float64(arrays, chunk):
    arrays["observations"] = arrays["observations"] + 1e4  # a float32 sum of squares would lose the spread
    arrays["next_observations"] = arrays["next_observations"] + 1e4
    mean, std = OfflineDataModule(arrays).observation_statistics(chunk)[()]
    exact = arrays["observations"].astype(np.float64)
    assert_close(mean, torch.from_numpy(exact.mean(0)), rtol=1e-12, atol=0)
    assert_close(std, torch.from_numpy(exact.std(0)), rtol=1e-9, atol=0)


def test_statistics_and_rewards_are_those_of_the_train_split(arrays):
    """What is held out must not shape what is learnt: neither through the normalizer nor through scaled rewards."""
    data = OfflineDataModule(arrays, validation_fraction=0.34, reward="standardize")
    mean, _ = data.observation_statistics()[()]
    assert_close(mean, data.train.data["observation"].double().mean(0))
    assert (mean - data.episodes.data["observation"].double().mean(0)).abs().max() > 1e-3
    reward = data.train.data["next", "reward"].double()
    assert data.reward_transform[0] == pytest.approx(1.0 / reward.std(correction=0).item())


def test_returns_of_failed_episodes_are_of_scaled_rewards_for_ever():
    """AntMaze for Cal-QL: rewards 0 become -5, and an episode that was cut is worth -5 / (1 - 0.99) = -500 everywhere.

    The plain sum up to the cut, unscaled or not, would call a late failure better than an early one.
    """
    episodes = two_episodes()
    episodes.data["next", "reward"] = torch.tensor([0.0, 0, 1, 0, 0])
    data = OfflineDataModule(episodes, reward="antmaze-cql", infinite_horizon_return=True)
    got = data.columns((*TRANSITION, "mc_return"))["mc_return"]
    assert_close(got, torch.tensor([-5 - 5 * 0.99 + 5 * 0.99**2, -5 + 5 * 0.99, 5.0, -500.0, -500.0]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"n_step": 0}, "n_step must be at least 1, got 0"),
        ({"discount": 1.5}, r"discount must lie in \[0, 1\], got 1.5"),
        ({"validation_fraction": 1.0}, r"validation_fraction must lie in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_settings(settings, said):
    with pytest.raises(InputError, match=said):
        OfflineDataModule(two_episodes(), **settings)


def test_what_the_log_lacks_is_named():
    with pytest.raises(InputError, match="behavior_log_prob"):
        OfflineDataModule(two_episodes()).columns(("observation", "behavior_log_prob"))
