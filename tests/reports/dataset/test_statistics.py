"""Plain facts of a dataset, by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers import load
from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.reports.dataset import statistics
from lightning_offrl.reports.dataset.states import (
    fit_scale,
    row_hashes,
)
from tests.reports.dataset.worlds import walks


def test_summaries_by_hand() -> None:
    found = statistics.summary(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert (found.mean, found.smallest, found.median, found.largest) == (3.0, 1.0, 2.5, 6.0)
    assert found.error == pytest.approx(math.sqrt(14 / 3) / 2)
    assert math.isnan(statistics.summary(torch.tensor([1.0])).error)


def _endings_of(data: Episodes) -> statistics.Endings:
    return statistics.endings(data, row_hashes(data.data["observation"]), row_hashes(data.data["next", "observation"]))


def test_ends_are_audited(arrays: dict[str, Any]) -> None:
    found = _endings_of(load(arrays))
    assert (found.terminal, found.cut, found.longest, found.cut_at_longest) == (3, 3, 20, 3)
    assert found.one_length and not found.one_start and found.into_start == found.continued == 0
    reset = {key: value.copy() for key, value in arrays.items()}
    for i in range(5):  # the reset was logged in place of the last observation
        reset["next_observations"][20 * i + 19] = reset["observations"][20 * i + 20]
    found = _endings_of(load(reset))
    assert found.into_start == 2 and found.continued == 3  # episodes 1 and 3; 0, 2 and 4 were cut


def test_rewards_and_imbalance_by_hand() -> None:
    """Three episodes of 1, 2 and 5 steps with returns 0, 4 and 2."""
    data = from_arrays(
        {
            "observations": np.arange(8.0)[:, None],
            "actions": np.array([[-1.0], [1.0], [0.0], [0.0], [0.0], [0.0], [0.0], [0.5]]),
            "rewards": np.array([0.0, 0.0, 4.0, 0.0, 2.0, 0.0, 0.0, 0.0]),
            "terminated": np.array([1, 0, 1, 0, 0, 0, 0, 1]),
            "truncated": np.zeros(8),
            "next_observations": np.arange(1.0, 9.0)[:, None],
        }
    )
    reward = statistics.rewards(data, 0.9)
    assert reward.zero == 0.75 and reward.distinct == 3 and reward.at_end == 0.5
    assert reward.size == pytest.approx(6 / 8 / 0.1)
    correlation = np.corrcoef([1, 2, 5], [0, 4, 2])[0, 1]
    assert reward.length_explains == pytest.approx(correlation**2)
    assert reward.per_step == pytest.approx(np.polyfit([1, 2, 5], [0, 4, 2], 1)[0])
    found = statistics.imbalance(data)
    assert (found.best_tenth, found.best_tenth_steps, found.longest_tenth_steps) == (4.0, 2 / 8, 5 / 8)
    assert found.upper_spread == pytest.approx(math.sqrt(4 / 3) / 4)
    assert found.effective_episodes == pytest.approx(64 / 30)
    use = statistics.actions(data)
    assert use.saturated == (0.25,) and use.any_saturated == 0.25 and use.reach == (1.0,) and use.constant == 0


def test_drift_is_found_where_it_was_put_and_not_elsewhere() -> None:
    data = walks(60, 30, lambda s, i, rng: np.array([0.3 * rng.normal(), 0.3 * rng.normal() + 0.01 * i]))
    changes = {change.name: change for change in statistics.drift(data, fit_scale(data))}
    assert abs(changes["action 1"].z) > 10 and changes["action 1"].last - changes["action 1"].first == pytest.approx(
        0.4, abs=0.05
    )
    assert all(abs(change.z) < 4 for name, change in changes.items() if name != "action 1")
    assert changes["return"].z == 0.0  # every return is the same
    assert statistics.drift(data.select(range(5)), fit_scale(data)) == []
