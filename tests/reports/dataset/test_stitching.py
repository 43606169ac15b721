"""What recombining episodes could gain, in worlds where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_offrl.data.readers import load
from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.envs.gridworld.environment import GridWorld
from lightning_offrl.envs.gridworld.layouts import STITCH_POLICIES
from lightning_offrl.reports.dataset.states import (
    find_links,
    fit_scale,
)
from lightning_offrl.reports.dataset.stitching import stitched_values, stitching
from tests.reports.dataset.worlds import discounted, states_of, stitch, walks


def test_stitching_is_the_closed_form_where_one_change_is_enough() -> None:
    """Both ways take 16 steps, the best of both 10, at -1 per step."""
    data = stitch()
    found = stitching(find_links(data, fit_scale(data)), 0.99)
    assert found.logged == pytest.approx(discounted(16), abs=1e-12)
    assert found.single == pytest.approx(discounted(16), abs=1e-12)
    assert found.stitched == pytest.approx([discounted(10)] * 4, abs=1e-12)
    assert found.gain == pytest.approx(discounted(10) - discounted(16), abs=1e-12)
    assert found.gain_error == 0.0 and found.improved == 1.0


def test_no_potential_where_episodes_never_meet() -> None:
    world = GridWorld("stitch")
    one = load(world.dataset(world.policy_from_text(STITCH_POLICIES[0]), 3))
    found = stitching(find_links(one, fit_scale(one)))
    assert found.gain == 0.0 and found.improved == 0.0
    apart = walks(8, 30, lambda s, i, rng: np.zeros(1))
    apart.data["observation"] += 100.0 * apart.episode_index()[:, None]
    apart.data["next", "observation"] += 100.0 * apart.episode_index()[:, None]
    links = find_links(apart, fit_scale(apart))
    assert links.overlap == 0.0 and stitching(links).gain == 0.0


def test_stitching_reaches_the_optimum_of_what_is_in_the_data() -> None:
    """Four rooms under random actions, deterministic: with enough changes, V* of the world (all pairs are tried)."""
    world = GridWorld("four-rooms")
    data = load(world.dataset(world.mdp.behavior_policy(0.3), 120, seed=1))
    links = find_links(data, fit_scale(data))
    best = stitched_values(links, 0.99, 30)[-1]
    pairs = {(s, a) for s, a in zip(states_of(links.episodes), links.episodes.data["action"].tolist(), strict=True)}
    tried = np.zeros((world.mdp.n_states, 4), dtype=bool)
    for pair in pairs:
        tried[pair] = True
    value = world.mdp.optimal(0.99).value
    start = int(np.argmax(world.mdp.start))
    assert tried[start].all() and value[start] == pytest.approx(discounted(20))
    at_start = best[links.episodes.start]
    assert at_start.max() == pytest.approx(value[start], abs=1e-9)
    assert at_start.max() <= value[start] + 1e-9


def test_values_by_hand() -> None:
    """Two episodes that meet in the middle, discount 1/2; the second was cut and goes on with 4 per step: 4 / (1/2)."""
    first, second = [0.0, 1.0, 2.0], [10.0, 1.0, 30.0]
    observation = np.array([first[:2], second[:2]]).reshape(-1, 1)
    following = np.array([first[1:], second[1:]]).reshape(-1, 1)
    data = from_arrays(
        {
            "observations": np.tile(observation, (3, 1)),
            "actions": np.zeros((12, 1)),
            "rewards": np.tile([1.0, 2.0, 4.0, 4.0], 3),
            "terminated": np.tile([False, True, False, False], 3),
            "truncated": np.tile([False, False, False, True], 3),
            "next_observations": np.tile(following, (3, 1)),
        }
    )
    links = find_links(data, fit_scale(data))
    assert links.state is not None  # three copies: states repeat exactly
    logged, once = stitched_values(links, 0.5, 1)
    assert logged.tolist() == [2.0, 2.0, 8.0, 8.0] * 3
    assert once.tolist() == [1.0 + 0.5 * 8.0, 2.0, 8.0, 8.0] * 3
