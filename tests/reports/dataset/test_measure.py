"""What the dataset report measures, against worlds where the answer is known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers import load
from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.data.strata import episode_hashes
from lightning_offrl.envs.gridworld.environment import GridWorld
from lightning_offrl.envs.gridworld.layouts import STITCH_POLICIES
from lightning_offrl.reports.dataset import statistics as facts
from lightning_offrl.reports.dataset.copies import find_copies
from lightning_offrl.reports.dataset.measure import _tables
from lightning_offrl.reports.dataset.mixture import find_policies
from lightning_offrl.reports.dataset.states import (
    find_links,
    fit_scale,
    noise_variance,
    row_hashes,
    state_space,
)
from lightning_offrl.reports.dataset.stitching import stitched_values, stitching


def walks(episodes: int, length: int, act: Any, *, seed: int = 0, size: int = 3) -> Episodes:
    """Random walks of a state on which ``act(state, number of the episode, rng)`` [-1, 1] has no influence."""
    rng = np.random.default_rng(seed)
    observation, action = [], []
    for i in range(episodes):
        state = np.cumsum(0.3 * rng.normal(size=(length + 1, size)), 0)
        state = np.tanh(state / 2)
        observation.append(state)
        action.append(np.stack([act(s, i, rng) for s in state[:-1]]))
    path = np.stack(observation).astype(np.float32)
    actions = np.concatenate(action)
    return from_arrays(
        {
            "observations": path[:, :-1].reshape(-1, size),
            "actions": np.clip(actions, -1, 1).astype(np.float32) if actions.dtype.kind == "f" else actions,
            "rewards": np.ones(episodes * length, dtype=np.float32),
            "terminated": np.zeros(episodes * length, dtype=bool),
            "truncated": np.tile(np.arange(length) == length - 1, episodes),
            "next_observations": path[:, 1:].reshape(-1, size),
        }
    )


# -- stitching ---------------------------------------------------------------------------------------------------------


def discounted(steps: int, discount: float = 0.99) -> float:
    return -(1 - discount**steps) / (1 - discount)


def stitch(episodes: int = 5) -> Episodes:
    world = GridWorld("stitch")
    return Episodes.join([load(world.dataset(world.policy_from_text(text), episodes)) for text in STITCH_POLICIES])


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
    pairs = {(s, a) for s, a in zip(_state(links.episodes), links.episodes.data["action"].tolist(), strict=True)}
    seen = np.zeros((world.mdp.n_states, 4), dtype=bool)
    for pair in pairs:
        seen[pair] = True
    value = world.mdp.optimal(0.99).value
    start = int(np.argmax(world.mdp.start))
    assert seen[start].all() and value[start] == pytest.approx(discounted(20))
    at_start = best[links.episodes.start]
    assert at_start.max() == pytest.approx(value[start], abs=1e-9)
    assert at_start.max() <= value[start] + 1e-9


def _state(episodes: Episodes) -> list[int]:
    return episodes.data["observation"].argmax(-1).tolist()


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


# -- policies ----------------------------------------------------------------------------------------------------------

GAINS = np.array([[0.6, 0.0, 0.2], [-0.6, 0.3, 0.0], [0.0, -0.7, 0.5], [0.5, 0.5, -0.5]])


def linear(which: list[int], noise: float = 0.15) -> Any:
    def act(state: np.ndarray, i: int, rng: np.random.Generator) -> np.ndarray:
        return np.array([GAINS[which[i % len(which)]] @ state]) + noise * rng.normal(size=1)

    return act


@pytest.mark.parametrize(
    ("which", "effective"),
    [
        ([0], 1.0),
        ([0, 1], 2.0),
        ([0, 1, 2], 3.0),
        ([0, 1, 2, 3], 4.0),
        ([0, 0, 0, 1], math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))),
    ],
)
def test_policies_of_a_known_mixture_are_counted(which: list[int], effective: float) -> None:
    data = walks(48, 40, linear(which))
    found = find_policies(data, fit_scale(data))
    assert found.number == len(set(which))
    assert found.effective == pytest.approx(effective, abs=0.05)
    truth = torch.tensor([which[i % len(which)] for i in range(48)])
    for policy in range(found.number):  # every episode in the right company
        assert len(set(truth[found.of_episode == policy].tolist())) == 1


def test_policies_that_differ_by_less_than_the_noise_are_one() -> None:
    """Means 0.2 noise deviations apart gain d^2 / 8 = 0.005 nats per decision."""
    data = walks(48, 40, lambda s, i, rng: np.array([0.3 * s[0] + 0.03 * (-1) ** i]) + 0.3 * rng.normal(size=1))
    assert find_policies(data, fit_scale(data)).number == 1


def test_one_policy_that_is_not_linear_is_one() -> None:
    data = walks(60, 40, lambda s, i, rng: np.array([np.sin(4 * s[0]) * s[1]]) + 0.2 * rng.normal(size=1))
    assert find_policies(data, fit_scale(data)).number == 1


def test_tables_of_a_known_mixture_are_counted() -> None:
    data = stitch(20)
    found = find_policies(data, fit_scale(data))
    assert found.number == 2 and found.effective == pytest.approx(2.0, abs=1e-3)
    assert found.of_episode[:20].unique().tolist() != found.of_episode[20:].unique().tolist()
    world = GridWorld("four-rooms")
    one = load(world.dataset(world.mdp.behavior_policy(0.5), 60))
    assert find_policies(one, fit_scale(one)).number == 1


def test_the_spread_of_actions_is_the_noise_that_was_added() -> None:
    """Gamma test: standard deviations 0.1 and 0.3 around a smooth policy; the rest of the variance is the state's."""

    def act(state: np.ndarray, i: int, rng: np.random.Generator) -> np.ndarray:
        mean = np.array([0.4 * np.tanh(2 * state[0]), 0.2 * state[1] * state[2]])
        return mean + np.array([0.1, 0.3]) * rng.normal(size=2)

    data = walks(60, 60, act)
    left, total = noise_variance(data, fit_scale(data))
    # A variance from n = 3000 queries with 10 neighbors each: about 5 % error.
    assert left.sqrt().tolist() == pytest.approx([0.1, 0.3], rel=0.12)
    assert (left <= total).all()
    still = walks(30, 40, lambda s, i, rng: np.array([0.5 * s[0]]))
    assert find_policies(still, fit_scale(still)).randomness < 0.02


def test_discrete_spread_is_the_chance_to_differ() -> None:
    """Policies of probabilities p differ with 1 - sum p^2: 1/2 of two actions alike, 0.375 of 3/4 and 1/4."""
    for share, chance in ((0.5, 0.5), (0.75, 0.375)):
        data = walks(40, 60, lambda s, i, rng, p=share: np.int64(rng.random() > p))
        found = find_policies(data, fit_scale(data))
        assert found.disagreement == pytest.approx(chance, abs=0.02)
        assert found.randomness == pytest.approx(chance / 0.5, abs=0.04)
        entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
        # An upper bound: 48 cells of 25 held-out steps each cost about 48 / 2400 nats.
        assert entropy - 0.01 < found.entropy < entropy + 0.05 and found.entropy <= math.log(2)


def test_random_is_random_among_legal_actions() -> None:
    """Two of four actions legal, both as often: as random as it can be, ln 2 nats; without masks 1/2 over 3/4."""
    data = walks(40, 60, lambda s, i, rng: np.int64(rng.random() > 0.5))
    data = replace(data, spec={**data.spec, "action_size": 4})
    free = find_policies(data, fit_scale(data))
    assert free.uniform_entropy == pytest.approx(math.log(4)) and free.randomness == pytest.approx(2 / 3, abs=0.03)
    data.data["action_mask"] = torch.tensor([True, True, False, False]).repeat(len(data), 1)
    found = find_policies(data, fit_scale(data))
    assert found.uniform_entropy == pytest.approx(math.log(2)) and found.randomness == pytest.approx(1.0, abs=0.04)
    assert found.disagreement == free.disagreement
    data.data["action_mask"][::2] = torch.eye(4, dtype=torch.bool)[
        data.data["action"][::2]
    ]  # no choice in half of them
    half = find_policies(data, fit_scale(data))
    assert half.uniform_entropy == pytest.approx(math.log(2) / 2)


def test_entropy_comes_from_the_log_where_there_is_one() -> None:
    world = GridWorld("corridor")
    data = load(world.dataset(world.mdp.uniform(), 40, seed=3))
    found = find_policies(data, fit_scale(data))
    assert found.logged and found.entropy == pytest.approx(math.log(4)) and found.entropy_error == pytest.approx(0.0)


# -- states ------------------------------------------------------------------------------------------------------------


def test_row_hashes_tell_rows_apart() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(5000, 4)).astype(np.float32))
    hashes = row_hashes(torch.cat([x, x]))
    assert torch.equal(hashes[:5000], hashes[5000:]) and len(hashes.unique()) == 5000
    assert len(row_hashes(torch.eye(200)).unique()) == 200
    assert row_hashes(torch.tensor([[0.0], [-0.0]])).unique().numel() == 1
    grid = torch.cartesian_prod(torch.arange(40), torch.arange(40), torch.arange(5)).float()
    assert len(row_hashes(grid).unique()) == 8000 == len(row_hashes(grid[:, :1], grid[:, 1:]).unique())
    swapped = row_hashes(grid[:, [1, 0, 2]])
    assert (swapped == row_hashes(grid)).sum() == 40 * 5  # only where both are the same


def test_coverage_of_a_finite_world() -> None:
    world = GridWorld("corridor")
    data = load(world.dataset(world.mdp.uniform(), 200, seed=0))
    space = state_space(data, fit_scale(data))
    visited = len(set(_state(data)))
    pairs = len(set(zip(_state(data), data.data["action"].tolist(), strict=True)))
    assert space.tabular and space.distinct == visited and space.pairs == pairs
    assert space.possible_pairs == 4 * visited and space.by_successors
    # A corridor has one direction: the first axis of where one goes from here orders its cells.
    first = {s: float(p) for s, p in zip(_state(data), space.map[:, 0], strict=True)}
    along = [first[s] for s in sorted(first)]
    assert along == sorted(along) or along == sorted(along, reverse=True)


def test_effective_dimension() -> None:
    rng = np.random.default_rng(0)
    data = walks(20, 50, lambda s, i, rng: np.zeros(1), size=4)
    noise = rng.normal(size=(1000, 1)).astype(np.float32)
    same = torch.from_numpy(np.concatenate([noise, 2 * noise, -noise, np.ones_like(noise)], 1))
    data.data["observation"] = same
    space = state_space(data, fit_scale(data))
    assert space.effective_dimension == pytest.approx(1.0, abs=1e-4)
    assert space.constant == 1 and not space.tabular
    assert space.explained == pytest.approx((1.0, 0.0), abs=1e-4)


# -- copies and facts --------------------------------------------------------------------------------------------------


def copies_of(data: Episodes) -> Any:
    step = row_hashes(
        *_tables(data.data["observation"]),
        data.data["action"],
        data.data["next", "reward"],
        data.data["next", "observation"],
    )
    return find_copies(data, episode_hashes(data), step)


def test_copies_and_what_they_leak(arrays: dict[str, Any], make_arrays: Any) -> None:
    data = load(make_arrays(episodes=10))
    plain = copies_of(data)
    assert (plain.duplicated, plain.most, plain.example, plain.shared_steps, plain.leak) == (0, 1, None, 0.0, 0.0)
    found = copies_of(data.select([0, 1, 2, 3, 1, 4, 1, 5]))
    assert (found.duplicated, found.groups, found.most, found.example) == (2, 1, 3, (1, 4))
    # Each of the three has a copy in training unless both others are held out as well: 1 - 0.1^2.
    assert found.leak == pytest.approx(3 * 0.99 / 8) and found.shared_steps == 0.0
    half = make_arrays(episodes=10)
    for key in ("observations", "next_observations", "actions", "rewards"):
        half[key][20:30] = half[key][40:50]  # the first half of episode 2 again in episode 1
    half["next_observations"][29] = half["observations"][30]
    found = copies_of(load(half))
    assert found.duplicated == 0 and found.shared_steps == pytest.approx(18 / 200) and found.partly_shared == 0


def test_summaries_by_hand() -> None:
    found = facts.summary(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert (found.mean, found.smallest, found.median, found.largest) == (3.0, 1.0, 2.5, 6.0)
    assert found.error == pytest.approx(math.sqrt(14 / 3) / 2)
    assert math.isnan(facts.summary(torch.tensor([1.0])).error)


def endings_of(data: Episodes) -> facts.Endings:
    return facts.endings(data, row_hashes(data.data["observation"]), row_hashes(data.data["next", "observation"]))


def test_ends_are_audited(arrays: dict[str, Any]) -> None:
    found = endings_of(load(arrays))
    assert (found.terminal, found.cut, found.longest, found.cut_at_longest) == (3, 3, 20, 3)
    assert found.one_length and not found.one_start and found.into_start == found.continued == 0
    reset = {key: value.copy() for key, value in arrays.items()}
    for i in range(5):  # the reset was logged in place of the last observation
        reset["next_observations"][20 * i + 19] = reset["observations"][20 * i + 20]
    found = endings_of(load(reset))
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
    reward = facts.rewards(data, 0.9)
    assert reward.zero == 0.75 and reward.distinct == 3 and reward.at_end == 0.5
    assert reward.size == pytest.approx(6 / 8 / 0.1)
    correlation = np.corrcoef([1, 2, 5], [0, 4, 2])[0, 1]
    assert reward.length_explains == pytest.approx(correlation**2)
    assert reward.per_step == pytest.approx(np.polyfit([1, 2, 5], [0, 4, 2], 1)[0])
    found = facts.imbalance(data)
    assert (found.best_tenth, found.best_tenth_steps, found.longest_tenth_steps) == (4.0, 2 / 8, 5 / 8)
    assert found.upper_spread == pytest.approx(math.sqrt(4 / 3) / 4)
    assert found.effective_episodes == pytest.approx(64 / 30)
    use = facts.actions(data)
    assert use.saturated == (0.25,) and use.any_saturated == 0.25 and use.reach == (1.0,) and use.constant == 0


def test_drift_is_found_where_it_was_put_and_not_elsewhere() -> None:
    data = walks(60, 30, lambda s, i, rng: np.array([0.3 * rng.normal(), 0.3 * rng.normal() + 0.01 * i]))
    changes = {change.name: change for change in facts.drift(data, fit_scale(data))}
    assert abs(changes["action 1"].z) > 10 and changes["action 1"].last - changes["action 1"].first == pytest.approx(
        0.4, abs=0.05
    )
    assert all(abs(change.z) < 4 for name, change in changes.items() if name != "action 1")
    assert changes["return"].z == 0.0  # every return is the same
    assert facts.drift(data.select(range(5)), fit_scale(data)) == []
