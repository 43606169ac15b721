"""Where episodes end, what is cut, and what is said about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightning_offrl.data.readers import load
from tests.data.readers.lines import at, check_sound, flags, line


def test_flags_end_episodes_and_stay_apart() -> None:
    episodes = load(line(6, terminals=at(6, 1), timeouts=at(6, 5)))
    check_sound(episodes)
    assert episodes.length.tolist() == [2, 4]
    assert flags(episodes, "terminated") == [1] and flags(episodes, "truncated") == [5]
    assert episodes.returns().tolist() == [1.0, 14.0]
    assert episodes.notes == []
    assert episodes.data["next", "observation"].squeeze(-1).tolist() == [1, 2, 3, 4, 5, 6]


def test_terminal_wins_over_timeout() -> None:
    """Both may be set where the goal is reached in the last step allowed: no value lies beyond it."""
    episodes = load(line(4, terminals=at(4, 3), timeouts=at(4, 1, 3)))
    check_sound(episodes)
    assert flags(episodes, "terminated") == [3] and flags(episodes, "truncated") == [1]
    assert episodes.notes == ["1 step had both flags: taken as terminal"]


def test_an_unmarked_end_is_kept_as_truncated_where_the_next_observation_is_stored() -> None:
    episodes = load(line(4, terminals=at(4, 1)))
    check_sound(episodes)
    assert len(episodes) == 4 and flags(episodes, "truncated") == [3]
    assert len(episodes.notes) == 1 and "1 episode ended with neither flag: kept as truncated" in episodes.notes[0]


def test_an_unmarked_end_is_cut_where_the_next_observation_is_unknown() -> None:
    episodes = load(line(4, terminals=at(4, 1), next_observations=None))
    check_sound(episodes)
    assert episodes.length.tolist() == [2, 1]
    assert flags(episodes, "terminated") == [1] and flags(episodes, "truncated") == [2]
    # Row 1 is terminal, so its next observation is never used: its own stands in.
    assert episodes.data["next", "observation"].squeeze(-1).tolist() == [1, 1, 3]
    assert len(episodes.notes) == 1 and "1 episode ended with neither flag: the last step" in episodes.notes[0]


def test_without_next_observations_the_last_step_of_a_timeout_is_dropped() -> None:
    """Its next observation is not the following row: that one begins the next episode.

    Where next observations *are* stored the row stays (above): D4RL's own reader drops it there, too.
    """
    episodes = load(line(7, terminals=at(7, 6), timeouts=at(7, 2), next_observations=None))
    check_sound(episodes)
    assert episodes.length.tolist() == [2, 4]
    assert episodes.data["observation"].squeeze(-1).tolist() == [0, 1, 3, 4, 5, 6]
    assert episodes.data["next", "observation"].squeeze(-1).tolist() == [1, 2, 4, 5, 6, 6]
    assert flags(episodes, "truncated") == [1] and flags(episodes, "terminated") == [5]
    assert "1 episode ended in a timeout" in episodes.notes[0]


def test_an_episode_of_one_step_vanishes_when_its_step_is_dropped() -> None:
    episodes = load(line(5, terminals=at(5, 4), timeouts=at(5, 0), next_observations=None))
    check_sound(episodes)
    assert episodes.length.tolist() == [4] and flags(episodes, "truncated") == []


def test_borders_are_found_by_continuity_where_timeouts_are_missing() -> None:
    arrays = line(6, terminals=at(6, 5), timeouts=None)
    arrays["observations"][3:] += 10
    arrays["next_observations"][3:] += 10
    episodes = load(arrays)
    check_sound(episodes)
    assert episodes.length.tolist() == [3, 3]
    assert flags(episodes, "truncated") == [2] and flags(episodes, "terminated") == [5]
    assert "timeouts are not stored" in episodes.notes[0]


def test_a_jump_without_a_flag_ends_an_episode_and_is_reported() -> None:
    arrays = line(6, terminals=at(6, 5))
    arrays["observations"][3:] += 10
    arrays["next_observations"][3:] += 10
    episodes = load(arrays)
    check_sound(episodes)
    assert episodes.length.tolist() == [3, 3]
    assert "in 1 place the stored next observation is not the following row's" in episodes.notes[0]


def test_shuffled_rows_are_reported() -> None:
    arrays = line(40, terminals=at(40, 39))
    order = np.random.default_rng(0).permutation(40)
    episodes = load({key: value[order] for key, value in arrays.items()})
    check_sound(episodes)
    assert any("shuffled" in note for note in episodes.notes)


def slow_episodes(arrays: dict[str, Any]) -> list[list[tuple[int, bool, bool, float | None]]]:
    """The rules of the borders as a plain loop: per episode (row, terminated, truncated, next observation)."""
    stored = arrays["next_observations"] is not None
    observations, rows = arrays["observations"][:, 0], len(arrays["rewards"])
    done, current = [], []
    for row in range(rows):
        terminal = bool(arrays["terminals"][row])
        timeout = bool(arrays["timeouts"][row]) and not terminal
        after = float(arrays["next_observations"][row, 0]) if stored else None
        jump = row == rows - 1 or (stored and after != observations[row + 1])
        if not stored and row < rows - 1:
            after = float(observations[row + 1])
        current.append([row, terminal, timeout, after])
        if not (terminal or timeout or jump):
            continue
        if terminal:
            current[-1][3] = after if stored else float(observations[row])
        elif stored:
            current[-1][2] = True
        else:
            current.pop()
            if current:
                current[-1][2] = True
        if current:
            done.append([tuple(step) for step in current])
        current = []
    return done


@pytest.mark.parametrize("stored", [True, False], ids=["next stored", "next from the following row"])
@pytest.mark.parametrize("seed", range(20))
def test_borders_against_a_plain_loop(seed: int, stored: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(5, 40))
    arrays = line(rows, terminals=rng.random(rows) < 0.15, timeouts=rng.random(rows) < 0.15)
    arrays["terminals"][rows // 2] = True
    arrays["timeouts"][rows // 2] = False
    if stored:
        arrays["next_observations"][rng.random(rows) < 0.1] += 0.5
    else:
        arrays["next_observations"] = None
    expected = slow_episodes(arrays)
    episodes = load(arrays)
    check_sound(episodes)
    assert episodes.length.tolist() == [len(one) for one in expected]
    flat = [step for one in expected for step in one]
    data = episodes.data
    assert data["observation"].squeeze(-1).tolist() == [step[0] for step in flat]
    assert data["next", "reward"].tolist() == [step[0] for step in flat]
    assert data["next", "terminated"].tolist() == [step[1] for step in flat]
    assert data["next", "truncated"].tolist() == [step[2] for step in flat]
    assert data["next", "observation"].squeeze(-1).tolist() == [step[3] for step in flat]
