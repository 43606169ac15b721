"""Fixed points of learners in a table: by hand, against the losses that the pages minimize, and CQL's theorem 3.2."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.tabular_learning import (
    Log,
    conservative_evaluation,
    conservative_q_learning,
    implicit_q_learning,
    log_of,
    q_learning,
    softmax,
)
from lightning_offrl.envs.gridworld.environment import GridWorld
from lightning_offrl.envs.tabular import TabularMDP, without_action
from lightning_offrl.errors import InputError
from lightning_offrl.losses.discrete import log_sum_exp_gap, of_action
from lightning_offrl.losses.values import expectile, huber

UP, LEFT, RIGHT, DOWN = range(4)
DISCOUNT = 0.9


def draw(mdp: TabularMDP, policy: np.ndarray, episodes: int = 300, horizon: int = 30, seed: int = 0) -> dict:
    return mdp.sample_transitions(policy, episodes, horizon, seed)


def read(mdp: TabularMDP, data: dict) -> Log:
    return log_of(mdp, data["state"], data["action"], data["next_state"])


def a_cliff(quality: float = 0.0, slip: float = 0.0, episodes: int = 300) -> tuple[TabularMDP, dict, Log]:
    """The cliff, by random (or better) actions that never go left."""
    mdp = GridWorld("cliff", cliff_reward=-20.0, slip=slip).mdp
    data = draw(mdp, without_action(mdp.behavior_policy(quality), LEFT), episodes, 60)
    return mdp, data, read(mdp, data)


def greedy(mdp: TabularMDP, q: np.ndarray) -> np.ndarray:
    return mdp.deterministic(np.where(np.isfinite(q), q, -1e9).argmax(-1))


def some_policy(log: Log, seed: int = 0) -> np.ndarray:
    """Random probabilities of the seen actions."""
    chances = np.random.default_rng(seed).gamma(0.7, size=log.seen.shape) * np.where(log.states[:, None], log.seen, 1.0)
    return chances / chances.sum(-1, keepdims=True)


# -- the log ---------------------------------------------------------------------------------------------------------


def test_counts_by_hand() -> None:
    mdp = GridWorld("S.G", slip=0.5).mdp
    log = log_of(mdp, np.array([0, 0, 0, 1, 1]), np.array([2, 2, 0, 2, 2]), np.array([1, 0, 0, 2, 1]))
    assert log.count.tolist() == [[1, 0, 2, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(log.behavior, [[1 / 3, 0, 2 / 3, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(log.process.transition[0, RIGHT], [0.5, 0.5, 0.0])
    assert log.process.transition[0, LEFT].tolist() == [1.0, 0.0, 0.0]
    assert log.states.tolist() == [True, True, False]
    assert log.keeps_to(mdp.deterministic(np.array([0, 2, 3]))) and not log.keeps_to(mdp.uniform())


def test_a_state_that_is_only_entered_has_no_value() -> None:
    mdp = GridWorld("S.G").mdp
    with pytest.raises(InputError, match="enters state 1 and never leaves it"):
        log_of(mdp, np.array([0]), np.array([2]), np.array([1]))


# -- the naive learner: what the demonstration rests on, exactly -----------------------------------------------------


def test_with_a_step_cost_the_naive_learner_takes_the_missing_action_for_ever() -> None:
    """Zero is more than any true value, so the best of the data, -(1 - g^11) / (1 - g), turns into standing still."""
    mdp, _, log = a_cliff()
    q = q_learning(log, DISCOUNT)
    assert (q[log.states, LEFT] == 0.0).all()
    cliffs = log.process.reward == -21.0
    assert set(q[log.seen & ~cliffs].tolist()) == {-1.0}  # -1 + g max(0, ...): it misleads, and does not diverge
    naive = greedy(mdp, q)
    assert not naive[log.seen].any()  # nothing it does is in the data
    start = mdp.start
    assert start @ mdp.policy_value(naive, DISCOUNT)[0] == pytest.approx(-1.0 / (1.0 - DISCOUNT))
    best = greedy(mdp, q_learning(log, DISCOUNT, in_sample=True))
    assert start @ mdp.policy_value(best, DISCOUNT)[0] == pytest.approx(-(1.0 - DISCOUNT**11) / (1.0 - DISCOUNT))
    assert start @ mdp.policy_value(best, DISCOUNT)[0] == pytest.approx(start @ mdp.optimal(DISCOUNT).value)


def test_with_a_goal_reward_only_zero_initial_values_hide_it() -> None:
    """The same data: what is unknown is worth 0, the least there is, and the naive learner is optimal."""
    mdp = GridWorld("cliff", step_reward=0.0, goal_reward=1.0, cliff_reward=0.0).mdp
    data = draw(mdp, without_action(mdp.uniform(), LEFT), 300, 60)
    log = read(mdp, data)
    assert mdp.step_reward[data["state"], data["action"], data["next_state"]].sum() > 0.0  # somebody arrived
    naive, careful = (q_learning(log, DISCOUNT, in_sample=flag) for flag in (False, True))
    np.testing.assert_array_equal(naive[log.seen], careful[log.seen])
    assert mdp.start @ mdp.policy_value(greedy(mdp, naive), DISCOUNT)[0] == pytest.approx(DISCOUNT**10)
    hopeful = q_learning(log, DISCOUNT, initial=1.0)  # the effect is back once the unknown is overvalued
    assert mdp.start @ mdp.policy_value(greedy(mdp, hopeful), DISCOUNT)[0] == 0.0


def test_q_learning_is_what_watkins_updates_converge_to() -> None:
    """Transition by transition over the log; with random transitions the step sizes average, so these are fixed."""
    mdp, data, log = a_cliff(episodes=60)
    for in_sample in (False, True):
        rest = -np.inf if in_sample else 0.0
        q = np.where(log.seen, 0.0, rest)
        for _ in range(60):
            for s, a, n in zip(data["state"][::-1], data["action"][::-1], data["next_state"][::-1], strict=True):
                q[s, a] = mdp.step_reward[s, a, n] + DISCOUNT * (0.0 if mdp.terminal[n] else q[n].max())
        want = q_learning(log, DISCOUNT, in_sample=in_sample)
        np.testing.assert_allclose(q[log.seen], want[log.seen], atol=1e-6)


# -- IQL -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.5, 0.7, 0.95])
def test_implicit_values_minimize_the_page_s_loss(tau: float) -> None:
    """The brick that DiscreteIQL calls, weighted by the log, has no slope at V; Q is r + gamma P V."""
    _, _, log = a_cliff(slip=0.2)
    v, q = implicit_q_learning(log, DISCOUNT, tau)
    free = torch.tensor(v, requires_grad=True)
    known = torch.tensor(np.where(log.seen, q, 0.0))
    (torch.tensor(log.behavior) * expectile(known - free[:, None], tau)).sum().backward()
    assert free.grad is not None and free.grad.abs().max() < 1e-6  # the brick's two weights are float32
    backed = log.process.reward + DISCOUNT * log.process.transition @ v
    np.testing.assert_allclose(q[log.seen], backed[log.seen], atol=1e-8)


def test_expectiles_run_from_the_behavior_s_value_to_the_best_in_the_data() -> None:
    _, _, log = a_cliff(slip=0.2)
    ended = np.where(log.states[:, None], log.behavior, 0.25)
    want, _ = log.process.policy_value(ended, DISCOUNT)
    middle, _ = implicit_q_learning(log, DISCOUNT, 0.5)
    np.testing.assert_allclose(middle[log.states], want[log.states], atol=1e-8)
    top, _ = implicit_q_learning(log, DISCOUNT, 1.0 - 1e-7)
    best = q_learning(log, DISCOUNT, in_sample=True)
    np.testing.assert_allclose(top[log.states], best[log.states].max(-1), atol=1e-3)
    for tau in (0.0, 1.0):
        with pytest.raises(InputError, match=r"expectile must lie in \(0, 1\)"):
            implicit_q_learning(log, DISCOUNT, tau)


# -- CQL: theorem 3.2 ------------------------------------------------------------------------------------------------


def loss_of_eq_2(q: torch.Tensor, target: torch.Tensor, log: Log, policy: np.ndarray, weight: float) -> torch.Tensor:
    """``weight (E_pi Q - E_pi_b Q) + (Q - y)^2 / 2`` in expectation over the data, written out from the paper."""
    of_state = torch.tensor(log.count.sum(-1) / log.count.sum())
    b, pi = torch.tensor(log.behavior), torch.tensor(policy)
    return (of_state[:, None] * (weight * (pi - b) * q + b * (q - target) ** 2 / 2.0)).sum()


@pytest.mark.parametrize("weight", [0.0, 0.3, 5.0])
def test_conservative_evaluation_is_stationary_for_eq_2(weight: float) -> None:
    _, _, log = a_cliff(0.3, slip=0.2)
    policy = some_policy(log)
    value, q = conservative_evaluation(log, policy, DISCOUNT, weight)
    target = torch.tensor(log.process.reward + DISCOUNT * log.process.transition @ value)
    known = np.where(log.seen, q, 0.0)
    free = torch.tensor(known, requires_grad=True)
    loss_of_eq_2(free, target, log, np.where(log.seen, policy, 0.0), weight).backward()
    assert free.grad is not None and free.grad.abs().max() < 1e-10
    np.testing.assert_allclose(value[log.states], (policy * known).sum(-1)[log.states], atol=1e-9)


@pytest.mark.parametrize("weight", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("seed", range(3))
def test_theorem_3_2(weight: float, seed: int) -> None:
    """E_pi Q = V_pi minus what the chi-squared distances add up to, in every state, for any weight."""
    _, _, log = a_cliff(0.3, slip=0.2)
    policy = some_policy(log, seed)
    true, _ = log.process.policy_value(policy, DISCOUNT)
    value, _ = conservative_evaluation(log, policy, DISCOUNT, weight)
    b = np.where(log.seen, log.behavior, 1.0)
    distance = np.where(log.states, (np.where(log.seen, policy, 0.0) ** 2 / b).sum(-1) - 1.0, 0.0)
    visits = np.linalg.inv(np.eye(len(b)) - DISCOUNT * np.einsum("sa,sat->st", policy, log.process.transition))
    np.testing.assert_allclose((true - value)[log.states], (weight * visits @ distance)[log.states], rtol=1e-7)
    assert (value <= true)[log.states].all()


def test_the_bound_is_tight_for_the_behavior_itself() -> None:
    _, _, log = a_cliff(0.3, slip=0.2)
    behavior = np.where(log.states[:, None], log.behavior, 0.25)
    value, _ = conservative_evaluation(log, behavior, DISCOUNT, 7.0)
    np.testing.assert_allclose(value[log.states], log.process.policy_value(behavior, DISCOUNT)[0][log.states])


def test_q_of_a_single_action_of_the_data_lies_above_its_true_value() -> None:
    """Falling off the cliff, which the policy never does, is worth exactly -21, and gets ``weight`` more than that."""
    mdp, _, log = a_cliff()
    best = greedy(mdp, q_learning(log, DISCOUNT, in_sample=True))
    true, true_q = mdp.policy_value(best, DISCOUNT)
    value, q = conservative_evaluation(log, best, DISCOUNT, 0.5)
    falls = log.seen & (mdp.reward == -21.0)
    assert falls.sum() == 9 and (true_q[falls] == -21.0).all()
    np.testing.assert_allclose(q[falls], -20.5)
    assert (value <= true)[log.states].all()


def test_eq_2_needs_a_policy_within_the_data() -> None:
    mdp, _, log = a_cliff()
    with pytest.raises(InputError, match="actions the data does not have"):
        conservative_evaluation(log, mdp.uniform(), DISCOUNT, 1.0)


# -- CQL(H), as the page DiscreteCQL makes it ------------------------------------------------------------------------


@pytest.mark.parametrize(("quality", "weight"), [(0.0, 0.0), (0.0, 0.5), (0.6, 1.0), (0.3, 10.0)])
def test_conservative_q_learning_is_stationary_for_the_page_s_losses(quality: float, weight: float) -> None:
    """The bricks of DiscreteCQL on the log itself, every row once, with the target held still."""
    mdp, data, log = a_cliff(quality)
    q = conservative_q_learning(log, DISCOUNT, weight)
    value = np.where(log.states, q.max(-1), 0.0)
    state, action = torch.tensor(data["state"]), torch.tensor(data["action"])
    reward = mdp.step_reward[data["state"], data["action"], data["next_state"]]
    target = torch.tensor(reward + DISCOUNT * value[data["next_state"]])
    table = torch.tensor(q, requires_grad=True)
    rows = table[state].unsqueeze(0)  # [N, B, n] with one critic
    errors = huber(target - of_action(rows, action), None)
    (errors + weight * log_sum_exp_gap(rows, action)).sum().backward()
    assert table.grad is not None
    assert table.grad[torch.tensor(log.seen)].abs().max() < 1e-6 * len(reward)


def test_it_contracts_whatever_the_weight() -> None:
    """Targets that differ by at most d give minima that differ by at most d, which makes the update a contraction."""
    from benchmarks.tabular_learning import _minimize

    _, _, log = a_cliff(0.6)
    b, rng = log.behavior[log.states], np.random.default_rng(0)
    for weight in (0.1, 3.0, 100.0):
        y = rng.normal(scale=10.0, size=b.shape)
        shift = rng.uniform(-1.0, 1.0, size=b.shape)
        start = np.where(b > 0.0, 0.0, -np.inf)
        one, other = (_minimize(targets, b, weight, start)[b > 0.0] for targets in (y, y + shift))
        assert np.abs(one - other).max() <= 1.0 + 1e-9


def gaps(mdp: TabularMDP, log: Log, weight: float) -> np.ndarray:
    """``V - max Q`` of the greedy policy, in the states of the data."""
    q = conservative_q_learning(log, DISCOUNT, weight)
    return (mdp.policy_value(greedy(mdp, q), DISCOUNT)[0] - np.where(log.states, q.max(-1), 0.0))[log.states]


def test_the_greedy_policy_s_value_and_its_bound() -> None:
    """The identity of the module's docstring; below the value on uniform data, above on data that is good already."""
    for quality, weight, below in ((0.0, 0.1, True), (0.0, 0.5, True), (0.6, 0.5, False), (0.6, 1.0, False)):
        mdp, _, log = a_cliff(quality)
        q = conservative_q_learning(log, DISCOUNT, weight)
        policy = greedy(mdp, q)
        bracket = np.zeros(mdp.n_states)
        share = softmax(q[log.states]) / np.where(log.seen, log.behavior, 1.0)[log.states]
        bracket[log.states] = (policy[log.states] * (share - 1.0)).sum(-1)
        step = np.einsum("sa,sat->st", policy, mdp.transition)
        want = weight * np.linalg.solve(np.eye(len(step)) - DISCOUNT * step, bracket)[log.states]
        got = gaps(mdp, log, weight)
        np.testing.assert_allclose(got, want, atol=1e-7)
        assert (got >= 0.0).all() == below


def test_a_larger_weight_is_not_a_safer_one() -> None:
    """On good data the excess grows with the weight; on random data the policy becomes imitation and stands still."""
    mdp, _, log = a_cliff(0.6)
    over = [-gaps(mdp, log, weight).min() for weight in (0.1, 0.3, 1.0, 3.0)]
    assert over[0] > 0.2 and over == sorted(over) and over[-1] > 1.5
    mdp, _, log = a_cliff()
    assert (gaps(mdp, log, 1.0) >= 0.0).all()
    assert -gaps(mdp, log, 10.0).min() > 3.0
    assert mdp.start @ mdp.policy_value(greedy(mdp, conservative_q_learning(log, DISCOUNT, 10.0)), DISCOUNT)[0] < -9.99
