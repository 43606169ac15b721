"""Exact solutions: by hand, against each other, against brute force and against simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lightning_offrl.envs.gridworld.environment import GridWorld
from lightning_offrl.envs.tabular import TabularMDP, without_action
from lightning_offrl.errors import InputError


def two_states() -> TabularMDP:
    """Action 0 ends with probability 1/2 (reward 3, else -1), action 1 ends at once with nothing."""
    transition = np.array([[[0.5, 0.5], [0.0, 1.0]], [[0.3, 0.3], [9.0, 0.0]]])  # rows of the end do not matter
    reward = np.array([[[-1.0, 3.0], [5.0, 0.0]], [[7.0, 7.0], [7.0, 7.0]]])
    return TabularMDP(transition, reward, np.array([False, True]), np.array([1.0, 0.0]))


def random_mdp(n: int = 7, k: int = 3, seed: int = 0) -> TabularMDP:
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.full(n, 0.5), size=(n, k))
    return TabularMDP(
        transition, rng.normal(size=(n, k, n)), np.arange(n) == n - 1, np.eye(n)[0] / 2 + np.eye(n)[1] / 2
    )


def random_policy(mdp: TabularMDP, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(mdp.n_actions), size=mdp.n_states)


CASES = {
    "random": random_mdp,
    "cliff": lambda: GridWorld("cliff", slip=0.1).mdp,
    "windy": lambda: GridWorld("windy", goal_reward=5.0).mdp,
}
every_case = pytest.mark.parametrize("name", CASES)


def test_two_states_by_hand() -> None:
    mdp = two_states()
    assert mdp.reward.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    first = mdp.deterministic(np.array([0, 1]))
    value, q = mdp.policy_value(first, 0.8)
    # V = (-1 + 0.8 V) / 2 + 3 / 2
    assert value == pytest.approx([1.0 / 0.6, 0.0], abs=1e-14)
    np.testing.assert_allclose(q, [[1.0 / 0.6, 0.0], [0.0, 0.0]], atol=1e-14)
    assert mdp.policy_value(first, 1.0)[0] == pytest.approx([2.0, 0.0], abs=1e-14)
    best = mdp.optimal(0.8)
    assert best.value == pytest.approx(value) and best.policy[0].tolist() == [1.0, 0.0]
    np.testing.assert_allclose(mdp.visits(first, 3), [[1.75, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(mdp.state_distribution(first, 2), [[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]])
    assert mdp.finite_horizon_value(first, 3)[0][:, 0].tolist() == [0.0, 1.0, 1.5, 1.75]


def test_corridor_by_hand() -> None:
    """k steps from the goal V* is the geometric sum of k times -1; going left is one step lost and one back."""
    mdp = GridWorld("corridor").mdp
    best = mdp.optimal(0.9)
    steps = np.arange(7, -1, -1)
    np.testing.assert_allclose(best.value, -(1.0 - 0.9**steps) / 0.1, atol=1e-13)
    assert best.action_value[3, 1] == pytest.approx(-1.0 + 0.9 * best.value[2], abs=1e-13)
    assert best.action_value[0, 0] == pytest.approx(-1.0 + 0.9 * best.value[0], abs=1e-13)
    left = mdp.deterministic(np.full(8, 1))
    np.testing.assert_allclose(mdp.policy_value(left, 0.9)[0][:7], -10.0, atol=1e-12)
    # A fair random walk from 0 between a wall and an end n steps away takes n (n + 1) steps; only half of the
    # actions move here.
    assert mdp.policy_value(mdp.uniform(), 1.0)[0][0] == pytest.approx(-2.0 * 7 * 8, abs=1e-9)


@every_case
def test_values_and_distributions_agree(name: str) -> None:
    mdp, discount = CASES[name](), 0.97
    policy = random_policy(mdp)
    value, q = mdp.policy_value(policy, discount)
    live = ~mdp.terminal
    np.testing.assert_allclose(value[live], (policy * q).sum(-1)[live], atol=1e-10)
    np.testing.assert_allclose(q[live], (mdp.reward + discount * mdp.transition @ value)[live], atol=1e-12)
    expected, weights = (policy * mdp.reward).sum(-1), discount ** np.arange(2001)
    long = mdp.state_distribution(policy, 2000)
    np.testing.assert_allclose(long.sum(-1), 1.0, atol=1e-12)
    assert weights @ long @ expected == pytest.approx(mdp.start @ value, abs=1e-10)
    # From another start: each state in turn.
    for state in np.flatnonzero(live)[:3]:
        own = mdp.state_distribution(policy, 2000, np.eye(mdp.n_states)[state])
        assert weights @ own @ expected == pytest.approx(value[state], abs=1e-10)


@every_case
def test_finite_horizons_agree(name: str) -> None:
    mdp = CASES[name]()
    policy = random_policy(mdp)
    value, q = mdp.finite_horizon_value(policy, 30)
    assert mdp.start @ value[30] == pytest.approx((mdp.visits(policy, 30) * mdp.reward).sum(), abs=1e-10)
    assert mdp.expected_return(policy, 30) == mdp.start @ value[30]
    np.testing.assert_allclose(value[1:], (policy * q).sum(-1), atol=1e-12)
    np.testing.assert_allclose(value[1], np.where(mdp.terminal, 0.0, (policy * mdp.reward).sum(-1)), atol=1e-12)
    long, _ = mdp.finite_horizon_value(policy, 500, 0.9)
    np.testing.assert_allclose(long[-1], mdp.policy_value(policy, 0.9)[0], atol=1e-10)
    # An undiscounted value that exists is the limit of long horizons.
    if name != "windy":
        endless, _ = mdp.finite_horizon_value(policy, 4000)
        np.testing.assert_allclose(mdp.policy_value(policy, 1.0)[0], endless[-1], rtol=1e-9)


@every_case
@pytest.mark.parametrize("discount", [0.0, 0.9, 0.999])
def test_the_optimum_solves_bellmans_equation(name: str, discount: float) -> None:
    mdp = CASES[name]()
    best = mdp.optimal(discount)
    scale = max(1.0, np.abs(best.value).max())
    backup = np.where(mdp.terminal, 0.0, (mdp.reward + discount * mdp.transition @ best.value).max(-1))
    np.testing.assert_allclose(best.value, backup, atol=1e-11 * scale)
    np.testing.assert_allclose(mdp.policy_value(best.policy, discount)[0], best.value, atol=1e-9 * scale)
    for seed in range(5):
        assert (mdp.policy_value(random_policy(mdp, seed), discount)[0] <= best.value + 1e-10 * scale).all()


def test_the_optimum_is_the_best_of_all_deterministic_policies() -> None:
    mdp = random_mdp(5, 2, seed=3)
    everything = [
        mdp.policy_value(mdp.deterministic(np.array([*actions, 0])), 0.95)[0]
        for actions in itertools.product(range(2), repeat=4)
    ]
    np.testing.assert_allclose(mdp.optimal(0.95).value, np.max(everything, 0), atol=1e-11)


def test_ties_go_to_the_smallest_action() -> None:
    mdp = GridWorld("open").mdp
    policy = mdp.optimal(0.99).policy
    assert policy[0].argmax() == 2 and policy.sum(-1).tolist() == [1.0] * mdp.n_states  # right (2) or down (3)


def test_simulation_meets_the_exact_numbers() -> None:
    """Every mean over 4,000 simulated episodes lies within 4 standard errors (5 for the largest of many)."""
    mdp, horizon, episodes = GridWorld("cliff", slip=0.2).mdp, 60, 4000
    policy = mdp.behavior_policy(0.5)
    data = mdp.sample_transitions(policy, episodes, horizon, seed=1)
    number = data["episode"]
    assert (np.diff(number) >= 0).all() and len(np.unique(number)) == episodes
    first = np.r_[True, np.diff(number) > 0]
    last = np.r_[first[1:], True]
    assert ((data["terminated"] | data["truncated"]) == last).all()
    assert not (data["terminated"] & data["truncated"]).any() and data["truncated"].any()
    assert (data["next_state"][~last] == data["state"][1:][~first[1:]]).all()
    starts = np.flatnonzero(first)
    time = np.arange(len(number)) - starts[number]
    assert time.max() == horizon - 1 and (time[data["truncated"]] == horizon - 1).all()

    def close(values: np.ndarray, exact: float) -> None:
        assert abs(values.mean() - exact) < 4.0 * values.std(ddof=1) / np.sqrt(len(values))

    close(np.bincount(number, data["reward"]), mdp.expected_return(policy, horizon))
    value, _ = mdp.finite_horizon_value(policy, horizon, 0.9)
    close(np.bincount(number, data["reward"] * 0.9**time), mdp.start @ value[horizon])
    close(np.bincount(number).astype(float), mdp.visits(policy, horizon).sum())
    visits = np.zeros((mdp.n_states, mdp.n_actions, episodes))
    np.add.at(visits, (data["state"], data["action"], number), 1.0)
    error = np.maximum(visits.std(-1), 1e-2) / np.sqrt(episodes)
    assert (np.abs(visits.mean(-1) - mdp.visits(policy, horizon)) < 5.0 * error).all()
    np.testing.assert_allclose(data["log_prob"], np.log(policy[data["state"], data["action"]]))
    expected = mdp.visits(policy, horizon)
    shares = expected[:, :, None] * mdp.transition / expected.sum()
    seen = np.zeros_like(shares)
    np.add.at(seen, (data["state"], data["action"], data["next_state"]), 1.0 / len(number))
    assert not seen[shares == 0.0].any() and np.abs(seen - shares).max() < 0.01


def test_simulation_repeats_with_its_seed() -> None:
    mdp = random_mdp()
    a, b, c = (mdp.sample_transitions(mdp.uniform(), 20, 30, seed) for seed in (1, 1, 2))
    assert all((a[key] == b[key]).all() for key in a)
    assert not np.array_equal(a["state"], c["state"])
    start = np.eye(mdp.n_states)[4]
    moved = mdp.sample_transitions(mdp.uniform(), 20, 30, start=start)
    assert (moved["state"][np.r_[True, np.diff(moved["episode"]) > 0]] == 4).all()


def test_behavior_policy_slides_from_random_to_optimal() -> None:
    mdp = GridWorld("four-rooms").mdp
    np.testing.assert_allclose(mdp.behavior_policy(0.0), mdp.uniform())
    np.testing.assert_allclose(mdp.behavior_policy(1.0), mdp.optimal(0.99).policy)
    assert mdp.behavior_policy(0.4)[0] == pytest.approx([0.15, 0.15, 0.55, 0.15])
    returns = [mdp.expected_return(mdp.behavior_policy(q), 100) for q in np.linspace(0, 1, 9)]
    assert (np.diff(returns) > 0.0).all() and returns[-1] == -20.0


def test_without_action() -> None:
    policy = np.array([[0.1, 0.6, 0.3], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    np.testing.assert_allclose(without_action(policy, 1), [[0.25, 0.0, 0.75], [0.5, 0.0, 0.5], [0.5, 0.0, 0.5]])
    only = without_action(policy, 1, states=np.array([True, False, False]))
    np.testing.assert_allclose(only, [[0.25, 0.0, 0.75], *policy[1:]])
    np.testing.assert_allclose(without_action(policy, 1, states=np.array([0])), only)
    with pytest.raises(InputError, match="action 3 cannot be left out of 3"):
        without_action(policy, 3)


def test_a_missing_action_misleads_whoever_trusts_its_initial_value() -> None:
    """Q-iteration on the expected dataset, from zero: the maximum over all actions takes the one never seen."""
    world = GridWorld("cliff")
    mdp, discount = world.mdp, 0.95
    policy = without_action(mdp.behavior_policy(0.7), 1)  # never left, which the way to the goal does not need
    seen = mdp.visits(policy, 100) > 0.0
    assert not seen[:, 1].any()
    state, action = np.nonzero(seen)
    following_state = mdp.transition[state, action].argmax(-1)  # the world is deterministic

    def learn(supported: bool) -> np.ndarray:
        q = np.zeros((mdp.n_states, 4))
        for _ in range(500):
            best = np.where(seen, q, -np.inf).max(-1) if supported else q.max(-1)
            following = np.where(mdp.terminal[following_state], 0.0, best[following_state])
            q[seen] = mdp.step_reward[state, action, following_state] + discount * following
        return mdp.deterministic(np.where(seen | (not supported), q, -np.inf).argmax(-1))

    naive, careful = (mdp.start @ mdp.policy_value(learn(s), discount)[0] for s in (False, True))
    behavior = mdp.start @ mdp.policy_value(policy, discount)[0]
    assert naive == pytest.approx(-20.0)  # against the wall for ever: -1 / (1 - 0.95)
    assert careful == pytest.approx(mdp.start @ mdp.optimal(discount).value) and careful > behavior
    assert careful == pytest.approx(-(1.0 - 0.95**11) / 0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.policy_value(np.ones((2, 3)) / 3, 0.9), r"shape \[2, 2\] .* got \[2, 3\]"),
        (lambda m: m.policy_value(np.ones((2, 2)), 0.9), "add up to one in every state"),
        (lambda m: m.policy_value(np.array([[1.5, -0.5], [1, 0]]), 0.9), "add up to one in every state"),
        (lambda m: m.policy_value(np.full((2, 2), np.nan), 0.9), "add up to one in every state"),
        (lambda m: m.policy_value(m.uniform(), 1.1), "discount must be from 0 to 1, got 1.1"),
        (lambda m: m.optimal(1.0), "at least 0 and below 1, got 1.0"),
        (lambda m: m.state_distribution(m.uniform(), 2, np.ones(2)), "start must be 2 probabilities"),
        (lambda m: m.finite_horizon_value(m.uniform(), 0), "at least 1 step, got 0"),
        (lambda m: m.sample_transitions(m.uniform(), 0, 5), "at least 1 episode"),
        (lambda m: m.behavior_policy(1.2), "quality must be a number from 0"),
        (lambda m: TabularMDP(m.transition[0], 0.0, m.terminal, m.start), r"expected \[S, A, S\]"),
        (lambda m: TabularMDP(0.9 * m.transition, 0.0, m.terminal, m.start), "transition probabilities"),
        (lambda m: TabularMDP(m.transition, 0.0, m.terminal, m.start[::-1]), "0 in terminal states"),
        (lambda m: TabularMDP(m.transition, 0.0, m.terminal[:1], m.start), "one number per state"),
        (lambda m: TabularMDP(m.transition, np.nan, m.terminal, m.start), "finite numbers"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(two_states())


def test_an_undiscounted_value_needs_an_end() -> None:
    mdp = GridWorld("corridor").mdp
    with pytest.raises(InputError, match="never ends from state 0"):
        mdp.policy_value(mdp.deterministic(np.full(8, 1)), 1.0)
