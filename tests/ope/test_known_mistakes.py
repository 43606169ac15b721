"""Mistakes that evaluation software is known to make, one test each, and examples that separate estimators.

Every test computes the mistaken number, too: it must differ from ours, or the test could not fail.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lightning_offrl.errors import InputError
from lightning_offrl.ope.checks.weight_diagnostics import check_weights
from lightning_offrl.ope.weighting.bandits import bandit_log
from lightning_offrl.ope.weighting.doubly_robust import direct, doubly_robust, magic, step_return
from lightning_offrl.ope.weighting.importance import PerEpisodeTerms, importance_sampling, naive, per_decision, plain
from lightning_offrl.ope.weighting.intervals import Resamples, difference, hoeffding, interval
from lightning_offrl.ope.weighting.trajectories import Trajectories
from tests.ope.enumeration import Process, enumerate_episodes, random_process, with_values

EXACT = 1e-10


@pytest.fixture(scope="module")
def ending():
    """A process that ends early on some paths."""
    process = random_process(1, ends=(2,))
    return process, enumerate_episodes(process)


def test_hoeffding_intervals_do_not_grow_with_the_data():
    sample = torch.rand(1000, generator=torch.Generator().manual_seed(0)).double()
    few, many = hoeffding(plain(sample[:30]), 0.0, 1.0).width, hoeffding(plain(sample), 0.0, 1.0).width
    assert many == pytest.approx(few * math.sqrt(30 / 1000))


def test_the_largest_value_of_a_sample_or_a_range_without_weights_is_no_range():
    """The term of an episode is weight times return: a range of returns alone must be refused when it is exceeded."""
    data = Trajectories(
        reward=torch.ones(5, 1),
        mask=torch.ones(5, 1, dtype=torch.bool),
        log_ratio=torch.tensor([[3.0], [0.5], [0.2], [0.1], [1.2]]).log(),
    )
    with pytest.raises(InputError, match="2 of 5 lie outside"):
        hoeffding(importance_sampling(data), 0.0, 1.0)
    assert hoeffding(importance_sampling(data), 0.0, 10.0).width > 10.0 * 0.5


def test_two_sided_intervals_use_the_two_sided_quantile():
    sample = torch.randn(500, generator=torch.Generator().manual_seed(0)).double()
    error = float(sample.std()) / math.sqrt(500)
    assert interval(plain(sample), method="delta").width / error == pytest.approx(2 * 1.959964, rel=1e-6)
    assert 2 * 1.644854 < 0.9 * 2 * 1.959964


def test_normalized_weights_are_not_frozen_while_resampling():
    """Frozen weights make an interval several times too wide, which hides behind a coverage of nearly 1."""
    process = random_process(0)
    every = enumerate_episodes(process)
    rows = torch.multinomial(every.probability, 300, replacement=True, generator=torch.Generator().manual_seed(0))
    data = every.data.select(rows)
    data = replace(data, reward=data.reward + 5.0)  # a constant that cancels only if the normalizer moves along
    terms = importance_sampling(data, normalized=True)
    frozen = interval(plain(terms.per_episode)).width
    assert interval(terms).width < 0.5 * frozen
    # every resample is what the estimator says of those episodes
    counts = next(Resamples(300, 5, seed=1).counts())
    for row, value in zip(counts, terms.resampled(counts), strict=True):
        again = data.select(torch.repeat_interleave(torch.arange(300), row.long()))
        assert importance_sampling(again, normalized=True).value == pytest.approx(float(value), abs=EXACT)


def test_ended_episodes_stay_in_the_normalizer_of_later_steps(ending):
    process, every = ending
    data, p = every.data, every.probability[:, None]
    weight, truth = data.log_weights.exp(), process.value(process.target)
    reward = data.factors * data.reward
    live_only = float(((p * weight * reward).sum(0) / (p * weight * data.mask).sum(0)).sum())
    reset = torch.where(data.mask, weight, 1.0)
    weight_of_one = float(((p * reset * reward).sum(0) / (p * reset).sum(0)).sum())
    for mistaken in (live_only, weight_of_one):
        assert abs(mistaken - truth) > 0.01
    assert every.limit(per_decision(data, normalized=True)) == pytest.approx(truth, abs=EXACT)


def test_ended_episodes_stay_in_weighted_doubly_robust(ending):
    process, every = ending
    q = torch.randn(3, 3, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    data = with_values(every.data, every.state, every.action, q, process.target)
    truth = process.value(process.target)
    assert every.limit(doubly_robust(data, normalized=True)) == pytest.approx(truth, abs=EXACT)
    p, weight = every.probability[:, None], data.log_weights.exp() * data.mask  # zero padding instead
    before = torch.cat([torch.ones(len(p), 1).double(), weight[:, :-1]], -1) * data.mask
    terms = (p * weight * (data.reward - data.q)).sum(0) / (p * weight).sum(0)
    terms = terms + (p * before * data.v).sum(0) / (p * before).sum(0)
    assert abs(float((data.factors[0] * terms).sum()) - truth) > 0.01


def test_same_policy_on_episodes_of_any_length_is_the_mean_of_the_data(ending):
    _, every = ending
    rows = torch.multinomial(every.probability, 60, replacement=True, generator=torch.Generator().manual_seed(0))
    data = every.data.select(rows)
    data = replace(data, log_ratio=torch.zeros_like(data.reward))
    assert len(data.length.unique()) == 3
    for estimate in (importance_sampling, per_decision):
        for normalized in (False, True):
            assert estimate(data, normalized=normalized).value == pytest.approx(naive(data).value, abs=EXACT)


def test_episodes_without_reward_count():
    """A bandit that rarely pays: the mean is over all episodes, not over those that earned something."""
    process = Process(
        start=torch.tensor([1.0]).double(),
        step=torch.ones(1, 2, 1).double(),
        reward=torch.zeros(1, 2, 1).double(),
        behavior=torch.tensor([[0.9, 0.1]], dtype=torch.float64),
        target=torch.tensor([[0.84, 0.16]], dtype=torch.float64),
        horizon=1,
        discount=1.0,
    )
    process.reward[0, 1] = 1.0
    every = enumerate_episodes(process, q=torch.zeros(1, 1, 2).double())
    for estimate in (importance_sampling, doubly_robust):
        assert every.expectation(estimate(every.data)) == pytest.approx(0.16, abs=EXACT)
    paid = every.data.reward[:, 0] != 0.0
    mistaken = float(
        (every.probability * paid) @ importance_sampling(every.data).per_episode / (every.probability @ paid.double())
    )
    assert mistaken == pytest.approx(1.6)


def test_reward_of_the_terminal_step_counts():
    process = random_process(0, ends=(2,))
    process.reward = torch.zeros(3, 2, 3).double()
    process.reward[:, :, 2] = 1.0  # only on the way into the end
    q, _ = process.backup(process.target)
    every = enumerate_episodes(process, q=q)
    truth = process.value(process.target)
    assert truth > 0.3
    for estimate in (importance_sampling, per_decision, doubly_robust):
        assert every.expectation(estimate(every.data)) == pytest.approx(truth, abs=EXACT)
    assert every.expectation(direct(every.data)) == pytest.approx(truth, abs=EXACT)


def test_ratios_are_never_clipped_unasked():
    ratio = torch.tensor([[12.0], [0.5], [0.001]]).log()
    data = Trajectories(reward=torch.ones(3, 1), mask=torch.ones(3, 1, dtype=torch.bool), log_ratio=ratio)
    assert importance_sampling(data).value == pytest.approx((12.0 + 0.5 + 0.001) / 3)


def biased_by_three() -> Trajectories:
    process = random_process(0)
    q, _ = process.backup(process.target)
    every = enumerate_episodes(process)
    rows = torch.multinomial(every.probability, 2000, replacement=True, generator=torch.Generator().manual_seed(2))
    return with_values(every.data, every.state, every.action, q + 3.0, process.target).select(rows)


def test_magic_takes_biases_as_an_outer_product():
    """Two returns that are biased in the same direction cannot cancel: squares alone would mix them half and half."""
    data = biased_by_three()
    _, share = magic(data, steps=[-1, 0])
    assert share[0] == pytest.approx(1.0, abs=1e-3)  # the less biased of the two, by a tenth
    squares = torch.tensor([3.0, 2.7], dtype=torch.float64) ** -2
    assert float(squares[1] / squares.sum()) < 0.6


def test_magic_takes_the_covariance_of_estimates_and_resamples_episodes():
    """The minimum of two by hand: variances of means, bias to the middle half of resampled episodes."""
    data = biased_by_three()
    data = replace(data, q=data.q - 2.94 * data.mask, v=data.v - 2.94 * data.mask)  # a small bias, about as the errors
    model, weights = step_return(data, -1).per_episode, doubly_robust(data, normalized=True)
    both = torch.stack([model, weights.per_episode])
    covariance = torch.cov(both) / data.n
    low, high = Resamples(data.n, 200, 0).values(weights).quantile(torch.tensor([0.25, 0.75]).double()).tolist()
    bias = max(float(model.mean()) - high, 0.0) + min(float(model.mean()) - low, 0.0)
    m = covariance + torch.tensor([[bias**2, 0.0], [0.0, 0.0]])
    expected = float((m[1, 1] - m[0, 1]) / (m[0, 0] + m[1, 1] - 2 * m[0, 1]))
    found = magic(data, steps=[-1, 2])[1][-1]
    assert found == pytest.approx(min(max(expected, 0.0), 1.0), abs=1e-6)
    assert 0.0 < found < 1.0


def test_first_values_are_of_first_states_only():
    """The value of a policy is that of states in which episodes begin, however long the episodes are."""
    data = Trajectories(
        reward=torch.zeros(2, 3),
        mask=torch.ones(2, 3, dtype=torch.bool),
        q=torch.full((2, 3), 9.0),
        v=torch.tensor([[1.0, 50.0, 50.0], [2.0, 50.0, 50.0]]),
    )
    assert direct(data).value == 1.5 == step_return(data_with_weights(data), -1).value


def data_with_weights(data: Trajectories) -> Trajectories:
    return replace(data, log_ratio=torch.zeros_like(data.reward))


def test_choosing_the_smallest_point_estimate_would_return_zero():
    """Unnormalized estimates collapse towards 0 where few weights count; they abstain instead of being chosen."""
    generator = torch.Generator().manual_seed(0)
    log_ratio = 2.5 * torch.randn(200, 4, generator=generator).double() - 3.125
    data = Trajectories(reward=torch.ones(200, 4), mask=torch.ones(200, 4, dtype=torch.bool), log_ratio=log_ratio)
    assert importance_sampling(data).value < 0.5 * 4.0  # truth: 4
    assert not check_weights(data).eligible


# -- examples that separate estimators (Thomas and Brunskill, 2016, section 7) --------------------------------------


def test_model_fail_is_found_by_the_disagreement_of_model_and_weights():
    """Observations that hide the state: models converge to the behavior's value, weights to the policy's."""
    policy, behavior = torch.tensor([0.88, 0.12]).double(), torch.tensor([0.3, 0.7]).double()
    generator = torch.Generator().manual_seed(0)
    n = 2000
    action = torch.multinomial(behavior, 2 * n, replacement=True, generator=generator).view(n, 2)
    reward = torch.zeros(n, 2).double()
    reward[:, 1] = 1.0 - 2.0 * action[:, 0]  # +1 after the first action, -1 after the second, unseen in between
    # finite-horizon fitted Q on the only observation there is: the mean reward of step 1, whatever the action
    q1 = torch.stack([reward[action[:, 1] == a, 1].mean() for a in (0, 1)])
    v1 = float(policy @ q1)
    data = Trajectories(
        reward=reward,
        mask=torch.ones(n, 2, dtype=torch.bool),
        behavior_log_prob=behavior[action].log(),
        target_log_prob=policy[action].log(),
        q=torch.stack([torch.full((n,), v1), q1[action[:, 1]].float()], -1).double(),
        v=torch.full((n, 2), v1).double(),
    )
    model, weights = direct(data), per_decision(data)
    assert model.value == pytest.approx(-0.40, abs=0.06)
    assert weights.value == pytest.approx(0.76, abs=4 * weights.standard_error)
    assert doubly_robust(data).value == pytest.approx(0.76, abs=4 * doubly_robust(data).standard_error)
    gap = interval(difference(weights, model))
    assert gap.low > 0.5  # flagged: the difference is nowhere near zero


def test_model_win_has_less_error_with_the_right_values():
    """Ten decisions in a row: weights are noisy, exact values remove most of it. V = sum_k gamma^2k (0.2 - 0.4 p)."""
    gamma, p, steps = 0.98, 0.27, 20
    behavior, policy = torch.tensor([0.73, 0.27]).double(), torch.tensor([p, 1 - p]).double()
    truth = sum(gamma ** (2 * k) * (0.2 - 0.4 * p) for k in range(10))
    assert truth == pytest.approx(0.772224, abs=1e-6)
    n = 5000
    generator = torch.Generator().manual_seed(0)
    action = torch.multinomial(behavior, n * steps, replacement=True, generator=generator).view(n, steps)
    # even steps: action 0 leads to +1 with probability 0.4, action 1 with 0.6, else -1; odd steps lead back
    up = torch.rand(n, steps, generator=generator).double() < torch.tensor([0.4, 0.6]).double()[action]
    even = (torch.arange(steps) % 2 == 0).expand(n, steps)
    reward = torch.where(even, torch.where(up, 1.0, -1.0), 0.0).double()
    tail = torch.tensor(
        [sum(gamma ** (k - t) * 0.092 for k in range(t, steps) if k % 2 == 0) for t in range(steps + 1)]
    ).double()
    mean_reward = torch.where(even, torch.tensor([-0.2, 0.2]).double()[action], 0.0)
    data = Trajectories(
        reward=reward,
        mask=torch.ones(n, steps, dtype=torch.bool),
        discount=gamma,
        behavior_log_prob=behavior[action].log(),
        target_log_prob=policy[action].log(),
        q=mean_reward + gamma * tail[1:],
        v=tail[:-1].expand(n, steps),
    )
    assert direct(data).value == pytest.approx(truth, abs=1e-6)
    noisy, helped = per_decision(data), doubly_robust(data)
    for terms in (noisy, helped):
        assert abs(terms.value - truth) < 4 * terms.standard_error
    assert magic(data)[1][-1] > 0.9


def test_bandit_and_episode_code_are_one():
    log = bandit_log(
        torch.tensor([1.0, 0.0]),
        torch.tensor([0, 1]),
        torch.tensor([[0.5, 0.5], [0.9, 0.1]]),
        torch.tensor([0.25, 0.5]),
    )
    assert log.horizon == 1 and isinstance(importance_sampling(log), PerEpisodeTerms)
    assert importance_sampling(log).value == pytest.approx(1.0)
