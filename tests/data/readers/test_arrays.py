"""Where episodes end, what is cut and what is said about it, and the form of what comes out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_offrl.batch import TRANSITION, check, unscale_action
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers import load
from lightning_offrl.data.readers.arrays import from_arrays


def line(rows: int, **changes: Any) -> dict[str, Any]:
    """One walk along a line: observation t, reward t, next observation t + 1, no flag set."""
    time = np.arange(rows, dtype=np.float32)
    return {
        "observations": time[:, None],
        "next_observations": time[:, None] + 1,
        "actions": np.zeros((rows, 1), dtype=np.float32),
        "rewards": time,
        "terminals": np.zeros(rows, dtype=bool),
        "timeouts": np.zeros(rows, dtype=bool),
        **changes,
    }


def at(rows: int, *places: int) -> np.ndarray:
    mask = np.zeros(rows, dtype=bool)
    mask[list(places)] = True
    return mask


def flags(episodes: Episodes, key: str) -> list[int]:
    return episodes.data["next", key].nonzero().squeeze(-1).tolist()


def check_sound(episodes: Episodes) -> None:
    """What holds for all episodes from anywhere."""
    check(episodes.data, episodes.spec, [key for key in TRANSITION if key != "discount"])
    terminated, truncated = episodes.data["next", "terminated"], episodes.data["next", "truncated"]
    assert torch.equal((terminated | truncated).nonzero().squeeze(-1), episodes.start + episodes.length - 1)
    assert not (terminated & truncated).any()
    assert int(episodes.length.sum()) == len(episodes) == episodes.data["next", "reward"].numel()
    assert torch.equal(episodes.start, episodes.length.cumsum(0) - episodes.length)


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


def test_one_transition_is_a_dataset() -> None:
    episodes = load(line(1, terminals=at(1, 0)))
    check_sound(episodes)
    assert len(episodes) == 1


def test_random_arrays_are_sound(arrays: dict[str, Any]) -> None:
    episodes = load(arrays)
    check_sound(episodes)
    assert episodes.n_episodes == 6 and len(episodes) == 120 and episodes.notes == []
    assert episodes.spec == {
        "observation_shape": [3],
        "action_kind": "box",
        "action_size": 2,
        "action_low": [-1.0, -1.0],
        "action_high": [1.0, 1.0],
    }
    # Within [-1, 1] nothing changes by so much as a bit.
    np.testing.assert_array_equal(episodes.data["action"].numpy(), arrays["actions"])
    np.testing.assert_array_equal(episodes.data["observation"].numpy(), arrays["observations"])


def test_arguments_and_dictionary_give_the_same(arrays: dict[str, Any]) -> None:
    given = from_arrays(
        {
            "observations": arrays["observations"],
            "actions": arrays["actions"],
            "rewards": arrays["rewards"],
            "terminated": arrays["terminals"],
            "truncated": arrays["timeouts"],
            "next_observations": arrays["next_observations"],
        }
    )
    assert given.fingerprint == load(arrays).fingerprint


def test_actions_are_scaled_and_log_densities_follow() -> None:
    space = spaces.Box(np.array([-2.0, 0.0], dtype=np.float32), np.array([2.0, 10.0], dtype=np.float32))
    actions = np.array([[-2.0, 10.0], [1.0, 2.5]])
    arrays = line(2, actions=actions, terminals=at(2, 1), action_space=space, behavior_log_prob=np.array([0.0, -1.0]))
    episodes = load(arrays)
    torch.testing.assert_close(episodes.data["action"], torch.tensor([[-1.0, 1.0], [0.5, -0.5]]))
    torch.testing.assert_close(unscale_action(episodes.data["action"], episodes.spec), torch.tensor(actions).float())
    # A uniform density on [-2, 2] x [0, 10] is 1/40; on [-1, 1]^2 it is 1/4: ten times as much.
    expected = torch.tensor([0.0, -1.0]) + float(np.log(10.0))
    torch.testing.assert_close(episodes.data["behavior_log_prob"], expected)


def test_a_small_overshoot_is_clipped() -> None:
    actions = np.array([[1.0 + 1e-5], [-1.0 - 1e-5]], dtype=np.float32)
    episodes = load(line(2, actions=actions, terminals=at(2, 1)))
    assert episodes.data["action"].squeeze(-1).tolist() == [1.0, -1.0]


def test_actions_of_any_shape_are_flattened() -> None:
    space = spaces.Box(-1, 1, (2, 2))
    episodes = load(line(3, actions=np.full((3, 2, 2), 0.5), terminals=at(3, 2), action_space=space))
    assert episodes.data["action"].shape == (3, 4)


def test_discrete_actions() -> None:
    episodes = load(line(3, actions=np.array([0, 2, 1]), terminals=at(3, 2)))
    check_sound(episodes)
    assert episodes.spec["action_kind"] == "discrete" and episodes.spec["action_size"] == 3
    assert episodes.data["action"].tolist() == [0, 2, 1] and episodes.data["action"].dtype == torch.int64
    assert "taken as 3" in episodes.notes[0]
    given = load(line(3, actions=np.array([0, 2, 1]), terminals=at(3, 2), action_space=spaces.Discrete(5)))
    assert given.spec["action_size"] == 5 and given.notes == []


def test_the_environment_knows_its_actions() -> None:
    pendulum = load(line(3, actions=np.array([[2.0], [-2.0], [1.0]]), terminals=at(3, 2), environment="Pendulum-v1"))
    assert pendulum.spec["action_high"] == [2.0]
    assert pendulum.data["action"].squeeze(-1).tolist() == [1.0, -1.0, 0.5]
    cart = load(line(3, actions=np.array([0, 0, 0]), terminals=at(3, 2), environment="CartPole-v1"))
    assert cart.spec["action_size"] == 2


def test_a_discrete_observation_is_one_hot() -> None:
    arrays = line(3, terminals=at(3, 2), observation_space=spaces.Discrete(4))
    arrays["observations"], arrays["next_observations"] = np.array([0, 1, 2]), np.array([1, 2, 3])
    episodes = load(arrays)
    check_sound(episodes)
    assert episodes.spec["observation_shape"] == [4]
    assert torch.equal(episodes.data["observation"], torch.eye(4)[:3])
    assert torch.equal(episodes.data["next", "observation"], torch.eye(4)[1:])


@pytest.mark.parametrize("stored", [True, False], ids=["next stored", "next from the following row"])
def test_dictionaries_with_pictures(stored: bool) -> None:
    rng = np.random.default_rng(0)
    path = {
        "camera": rng.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8),
        "body": {"joints": rng.normal(size=(5, 2)), "phase": rng.normal(size=(5, 1)).astype(np.float32)},
    }

    def part(value: Any, rows: slice) -> Any:
        return {k: part(v, rows) for k, v in value.items()} if isinstance(value, dict) else value[rows]

    arrays = line(4, terminals=at(4, 1), timeouts=at(4, 3))
    arrays["observations"] = part(path, slice(0, 4))
    arrays["next_observations"] = part(path, slice(1, 5)) if stored else None
    episodes = load(arrays)
    check_sound(episodes)
    assert episodes.spec["observation_shape"] == {"body": {"joints": [2], "phase": [1]}, "camera": [4, 4, 3]}
    assert len(episodes) == (4 if stored else 3)
    camera = episodes.data["next", "observation", "camera"]
    assert camera.dtype == torch.uint8 and torch.equal(camera[0], torch.as_tensor(path["camera"][1]))
    assert episodes.data["observation", "body", "joints"].dtype == torch.float32
    chosen = episodes.select([episodes.n_episodes - 1])
    assert chosen.data["observation", "camera"].shape == (len(chosen), 4, 4, 3)


def test_pictures_are_copied() -> None:
    pictures = np.zeros((3, 2, 2, 3), dtype=np.uint8)
    pictures.flags.writeable = False
    arrays = line(3, observations=pictures, next_observations=None, terminals=at(3, 2))
    episodes = load(arrays)
    pictures.flags.writeable = True
    pictures[:] = 1
    assert int(episodes.data["observation"].max()) == 0


def test_a_spec_stands_in_for_spaces() -> None:
    spec = {"observation_shape": [1], "action_kind": "box", "action_size": 1, "action_low": [0.0], "action_high": [4.0]}
    episodes = load(line(2, actions=np.array([[4.0], [1.0]]), terminals=at(2, 1), spec=spec))
    assert episodes.spec == spec and episodes.data["action"].squeeze(-1).tolist() == [1.0, -0.5]


def test_columns_of_shape_t_by_one_are_accepted() -> None:
    arrays = line(3, terminals=at(3, 2)[:, None], rewards=np.ones((3, 1)))
    assert load(arrays).data["next", "reward"].shape == (3,)


def test_torch_tensors_and_lists_are_accepted() -> None:
    arrays = line(3, terminals=[False, False, True], rewards=torch.ones(3), observations=torch.arange(3.0)[:, None])
    assert load(arrays).returns().tolist() == [3.0]


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
