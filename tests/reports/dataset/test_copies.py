"""Episodes and steps that are in the data more than once."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers import load
from lightning_offrl.data.strata import episode_hashes
from lightning_offrl.reports.dataset.copies import Copies, find_copies
from lightning_offrl.reports.dataset.states import (
    row_hashes,
)


def _copies_of(data: Episodes) -> Copies:
    step = row_hashes(
        data.data["observation"],
        data.data["action"],
        data.data["next", "reward"],
        data.data["next", "observation"],
    )
    return find_copies(data, episode_hashes(data), step)


def test_copies_and_what_they_leak(arrays: dict[str, Any], make_arrays: Any) -> None:
    data = load(make_arrays(episodes=10))
    plain = _copies_of(data)
    assert (plain.duplicated, plain.most, plain.example, plain.shared_steps, plain.leak) == (0, 1, None, 0.0, 0.0)
    found = _copies_of(data.select([0, 1, 2, 3, 1, 4, 1, 5]))
    assert (found.duplicated, found.groups, found.most, found.example) == (2, 1, 3, (1, 4))
    # Each of the three has a copy in training unless both others are held out as well: 1 - 0.1^2.
    assert found.leak == pytest.approx(3 * 0.99 / 8) and found.shared_steps == 0.0
    half = make_arrays(episodes=10)
    for key in ("observations", "next_observations", "actions", "rewards"):
        half[key][20:30] = half[key][40:50]  # the first half of episode 2 again in episode 1
    half["next_observations"][29] = half["observations"][30]
    found = _copies_of(load(half))
    assert found.duplicated == 0 and found.shared_steps == pytest.approx(18 / 200) and found.partly_shared == 0
