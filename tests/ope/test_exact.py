"""Estimators on processes whose every episode is enumerated: expectations and limits to 1e-10, and what must differ."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lightning_offrl.errors import InputError
from lightning_offrl.ope.weighting.bounds import value_bounds
from lightning_offrl.ope.weighting.doubly_robust import direct, doubly_robust, magic, simplex_minimum, step_return
from lightning_offrl.ope.weighting.importance import PerEpisodeTerms, importance_sampling, naive, per_decision, plain
from lightning_offrl.ope.weighting.trajectories import Trajectories
from tests.ope.enumeration import enumerate_episodes, random_process, with_values

EXACT = 1e-10
PROCESSES = [
    pytest.param((seed, ends), id=f"{seed}{'-ends' if ends else ''}") for seed in (0, 1) for ends in ((), (2,))
]


@pytest.fixture(params=PROCESSES, scope="module")
def case(request):
    seed, ends = request.param
    process = random_process(seed, ends)
    return process, enumerate_episodes(process)


def arbitrary_q(seed: int = 5):
    return torch.randn(3, 3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_all_episodes_are_there(case):
    process, every = case
    assert process.ends or len(every.probability) == 648
    assert not process.ends or len(every.data.length.unique()) == 3
    assert float(every.probability.sum()) == pytest.approx(1.0, abs=EXACT)
    assert every.expectation(naive(every.data)) == pytest.approx(process.value(process.behavior), abs=EXACT)


def test_expected_weight_is_one_at_every_step(case):
    _, every = case
    assert (every.probability @ every.data.log_weights.exp() - 1.0).abs().max() < EXACT


@pytest.mark.parametrize("estimate", [importance_sampling, per_decision])
def test_unnormalized_estimates_are_unbiased(case, estimate):
    process, every = case
    assert every.expectation(estimate(every.data)) == pytest.approx(process.value(process.target), abs=EXACT)


@pytest.mark.parametrize("estimate", [importance_sampling, per_decision])
def test_normalized_estimates_are_consistent_for_episodes_of_any_length(case, estimate):
    process, every = case
    limit = every.limit(estimate(every.data, normalized=True))
    assert limit == pytest.approx(process.value(process.target), abs=EXACT)


def test_doubly_robust_is_unbiased_with_any_value_function(case):
    process, every = case
    data = with_values(every.data, every.state, every.action, arbitrary_q(), process.target)
    value = process.value(process.target)
    assert every.expectation(doubly_robust(data)) == pytest.approx(value, abs=EXACT)
    assert every.limit(doubly_robust(data, normalized=True)) == pytest.approx(value, abs=EXACT)
    # the control: v that does not belong to q is no control variate
    wrong = replace(data, v=data.v + data.mask * (torch.arange(3) == 1))
    assert abs(every.expectation(doubly_robust(wrong)) - value) > 0.05


def test_doubly_robust_is_unbiased_with_exact_values_and_wrong_probabilities(case):
    process, _ = case
    wrong = torch.full((3, 2), 0.5, dtype=torch.float64)
    q, _ = process.backup(process.target)
    every = enumerate_episodes(process, behavior=wrong, q=q)
    value = process.value(process.target)
    assert every.expectation(doubly_robust(every.data)) == pytest.approx(value, abs=EXACT)
    assert every.expectation(direct(every.data)) == pytest.approx(value, abs=EXACT)
    for estimate in (importance_sampling, per_decision):  # the control: weights alone are wrong
        assert abs(every.expectation(estimate(every.data)) - value) > 0.01


def test_weighted_estimates_of_one_episode_are_the_behavior(case):
    process, every = case
    terms = importance_sampling(every.data, normalized=True)
    single = (terms.numerator / terms.denominator).sum(-1)
    behavior, target = process.value(process.behavior), process.value(process.target)
    assert float(every.probability @ single) == pytest.approx(behavior, abs=EXACT)
    top, bottom = terms.numerator.squeeze(-1), terms.denominator.squeeze(-1)
    pairs = (top[:, None] + top) / (bottom[:, None] + bottom)
    two = float(every.probability @ pairs @ every.probability)
    assert min(behavior, target) < two < max(behavior, target)


def sampled(every, n=50, seed=3) -> Trajectories:
    rows = torch.multinomial(every.probability, n, replacement=True, generator=torch.Generator().manual_seed(seed))
    return every.data.select(rows)


def test_same_policy_gives_the_mean_of_the_data(case):
    _, every = case
    data = replace(sampled(every), log_ratio=torch.zeros(50, 3))
    for estimate in (importance_sampling, per_decision):
        for normalized in (False, True):
            terms = estimate(data, normalized=normalized)
            assert terms.value == pytest.approx(float(data.returns.mean()), abs=EXACT)
            assert terms.standard_error >= 0.0
    assert importance_sampling(data).standard_error == pytest.approx(naive(data).standard_error, rel=1e-12)


def test_without_values_doubly_robust_is_per_decision(case):
    _, every = case
    data = sampled(every)
    data = replace(data, q=torch.zeros(50, 3), v=torch.zeros(50, 3))
    for normalized in (False, True):
        expected = per_decision(data, normalized=normalized)
        found = doubly_robust(data, normalized=normalized)
        assert found.value == pytest.approx(expected.value, abs=EXACT)
        torch.testing.assert_close(found.per_episode, expected.per_episode, atol=EXACT, rtol=0)


def test_exact_values_leave_no_variance_in_a_deterministic_process():
    process = random_process(4)
    chosen = process.step.argmax(-1)
    process.step = torch.nn.functional.one_hot(chosen, 3).double()
    process.start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    q, value = process.backup(process.target)
    every = enumerate_episodes(process, q=q)
    torch.testing.assert_close(
        doubly_robust(every.data).per_episode, value[0, 0].expand(len(every.probability)), atol=EXACT, rtol=0
    )


@pytest.mark.parametrize("factor", [-3.0, 0.25])
def test_scaled_rewards_scale_every_estimate(case, factor):
    process, every = case
    data = with_values(every.data, every.state, every.action, arbitrary_q(), process.target)
    scaled = replace(data, reward=factor * data.reward, q=factor * data.q, v=factor * data.v)
    for estimate in (importance_sampling, per_decision, doubly_robust):
        for normalized in (False, True):
            before, after = estimate(data, normalized=normalized), estimate(scaled, normalized=normalized)
            assert after.value == pytest.approx(factor * before.value, abs=EXACT)
            assert after.standard_error == pytest.approx(abs(factor) * before.standard_error, abs=EXACT)


def test_shifted_rewards_shift_normalized_estimates_exactly_and_others_not():
    every = enumerate_episodes(random_process(0))  # all episodes are equally long
    data = sampled(every)
    shifted = replace(data, reward=data.reward + 2.0)
    total = 2.0 * float(data.factors[0].sum())
    for estimate in (importance_sampling, per_decision):
        moved = estimate(shifted, normalized=True).value - estimate(data, normalized=True).value
        assert moved == pytest.approx(total, abs=EXACT)
        assert abs(estimate(shifted).value - estimate(data).value - total) > 1e-3


def test_order_and_duplication_of_episodes_do_not_matter(case):
    process, every = case
    whole = with_values(every.data, every.state, every.action, arbitrary_q(), process.target)
    data = whole.select(torch.randint(whole.n, (40,), generator=torch.Generator().manual_seed(1)))
    shuffled, twice = data.select(torch.randperm(40)), data.select(torch.arange(40).repeat(2))
    for estimate in (importance_sampling, per_decision, doubly_robust):
        for normalized in (False, True):
            value = estimate(data, normalized=normalized).value
            assert estimate(shuffled, normalized=normalized).value == pytest.approx(value, abs=EXACT)
            assert estimate(twice, normalized=normalized).value == pytest.approx(value, abs=EXACT)


def test_magic_at_its_limits_is_the_model_or_the_weighted_estimate(case):
    process, every = case
    whole = with_values(every.data, every.state, every.action, arbitrary_q(), process.target)
    data = whole.select(torch.randint(whole.n, (40,), generator=torch.Generator().manual_seed(1)))
    assert magic(data, steps=[2])[0].value == pytest.approx(doubly_robust(data, normalized=True).value, abs=EXACT)
    assert magic(data, steps=[-1])[0].value == pytest.approx(direct(data).value, abs=EXACT)
    blend, share = magic(data)
    assert sum(share.values()) == pytest.approx(1.0) and min(share.values()) >= 0.0 and set(share) == {-1, 0, 1, 2}
    parts = sum(x * step_return(data, j).value for j, x in share.items())
    assert blend.value == pytest.approx(parts, abs=EXACT)


def test_magic_trusts_exact_values_and_distrusts_biased_ones():
    process = random_process(0)
    q, _ = process.backup(process.target)
    every = enumerate_episodes(process)
    rows = torch.multinomial(every.probability, 4000, replacement=True, generator=torch.Generator().manual_seed(2))
    exact = with_values(every.data, every.state, every.action, q, process.target).select(rows)
    biased = with_values(every.data, every.state, every.action, q + 5.0, process.target).select(rows)
    assert magic(exact)[1][-1] > 0.5
    assert magic(biased)[1][-1] < 0.01


def test_smallest_quadratic_form_on_the_simplex():
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 3, 5, 8):
        for rank in (1, size):
            root = torch.randn(size, rank, generator=generator, dtype=torch.float64)
            matrix = root @ root.T
            x = simplex_minimum(matrix)
            assert float(x.sum()) == pytest.approx(1.0) and float(x.min()) >= 0.0
            # the conditions of Karush, Kuhn and Tucker: no direction inside the simplex goes down
            gradient = matrix @ x
            assert float(gradient.min()) >= float(x @ gradient) - 1e-9 * float(matrix.abs().max())
    by_hand = simplex_minimum(torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64)))
    torch.testing.assert_close(by_hand, torch.tensor([0.75, 0.25], dtype=torch.float64))


def test_behavior_regressed_on_the_same_data_has_no_error_in_a_deterministic_bandit():
    """Hanna, Niekum and Stone, 2019: the sampling error of the actions is corrected, too."""
    rewards, target = torch.tensor([1.0, -2.0, 7.0]).double(), torch.tensor([0.2, 0.5, 0.3]).double()
    truth = float(rewards @ target)
    behavior = torch.tensor([0.6, 0.3, 0.1]).double()
    errors = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        actions = torch.multinomial(behavior, 40, replacement=True, generator=generator)
        if len(actions.unique()) < 3:
            continue
        counts = torch.bincount(actions, minlength=3).double()
        for probabilities, exact in ((counts / counts.sum(), True), (behavior, False)):
            data = Trajectories(
                reward=rewards[actions, None],
                mask=torch.ones(40, 1, dtype=torch.bool),
                behavior_log_prob=probabilities[actions, None].log(),
                target_log_prob=target[actions, None].log(),
            )
            error = abs(importance_sampling(data).value - truth)
            if exact:
                assert error < EXACT
            else:
                errors.append(error)
    assert max(errors) > 0.5


def test_huge_weights_neither_overflow_nor_vanish():
    generator = torch.Generator().manual_seed(0)
    log_ratio = 0.1 * torch.randn(20, 2000, generator=generator, dtype=torch.float64)
    data = Trajectories(
        reward=torch.randn(20, 2000, generator=generator).double(),
        mask=torch.ones(20, 2000, dtype=torch.bool),
        discount=0.99,
        log_ratio=log_ratio,
    )
    for estimate in (importance_sampling, per_decision):
        expected = estimate(data, normalized=True).value
        for shift in (900.0, -900.0):  # a factor common to all weights cancels
            moved = log_ratio.clone()
            moved[:, 0] += shift
            found = estimate(replace(data, log_ratio=moved), normalized=True)
            assert found.value == pytest.approx(expected, rel=1e-9)
            assert torch.isfinite(found.per_episode).all()


def test_policy_that_never_takes_a_logged_action_has_no_weighted_estimate():
    mask = torch.ones(3, 2, dtype=torch.bool)
    ratio = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0], [-torch.inf, -torch.inf]])
    data = Trajectories(reward=torch.ones(3, 2), mask=mask, log_ratio=ratio)
    assert importance_sampling(data).value == 0.0
    assert importance_sampling(data, normalized=True).value != importance_sampling(data, normalized=True).value
    assert per_decision(data).value == pytest.approx(1 / 3)


def test_impossible_logged_actions_are_an_error_with_their_number():
    mask = torch.ones(2, 2, dtype=torch.bool)
    logged = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]])
    with pytest.raises(InputError, match="1 logged actions have no finite log-probability under the behavior"):
        Trajectories(reward=torch.ones(2, 2), mask=mask, behavior_log_prob=logged, target_log_prob=torch.zeros(2, 2))


def test_what_lies_after_the_end_is_never_read():
    mask = torch.tensor([[True, False], [True, True]])
    junk = torch.tensor([[0.0, torch.nan], [0.0, 0.0]])
    data = Trajectories(
        reward=torch.tensor([[1.0, torch.nan], [1.0, 1.0]]), mask=mask, log_ratio=junk, q=junk.clone(), v=junk.clone()
    )
    assert per_decision(data, normalized=True).value == pytest.approx(1.5)
    assert doubly_robust(data).value == pytest.approx(1.5)


@pytest.mark.parametrize("limit", [0.3, 1.0, 2.0, 1e9])
@pytest.mark.parametrize("missing", [False, True])
def test_bounds_enclose_the_value_with_and_without_support(limit, missing):
    process = random_process(1, ends=(2,))
    if missing:  # the behavior never takes action 1 in state 0
        process.behavior = process.behavior.clone()
        process.behavior[0] = torch.tensor([1.0, 0.0])
    every = enumerate_episodes(process)
    low, high = float(process.reward.min()), float(process.reward.max())
    lower, upper = (every.expectation(side) for side in value_bounds(every.data, (low, high), limit))
    truth = process.value(process.target)
    assert lower <= truth + EXACT and truth - EXACT <= upper
    if limit > 1e6 and not missing:  # nothing cut, nothing missing: both are per-decision importance sampling
        assert lower == pytest.approx(truth, abs=EXACT) and upper == pytest.approx(truth, abs=EXACT)
    if missing:
        assert abs(every.expectation(per_decision(every.data)) - truth) > 0.01
    with pytest.raises(InputError, match="must hold every possible one"):
        value_bounds(every.data, (low + 0.1, high))


def test_discounting_by_elapsed_time():
    mask = torch.ones(1, 3, dtype=torch.bool)
    data = Trajectories(
        reward=torch.ones(1, 3),
        mask=mask,
        discount=0.5,
        elapsed=torch.tensor([[0.0, 0.5, 3.0]]),
        log_ratio=torch.zeros(1, 3),
    )
    assert naive(data).value == pytest.approx(1 + 0.5**0.5 + 0.5**3, abs=1e-12)
    assert per_decision(data).value == naive(data).value


def test_delta_method_error_of_a_ratio_by_hand():
    top, bottom = torch.tensor([1.0, 4.0, 2.0, 5.0]).double(), torch.tensor([1.0, 2.0, 2.0, 1.0]).double()
    ratio = float(top.mean() / bottom.mean())
    influence = (top - ratio * bottom) / bottom.mean()
    terms = PerEpisodeTerms(top[:, None], bottom[:, None])
    assert terms.standard_error == pytest.approx(float(influence.std() / 2.0), rel=1e-12)
    assert plain(top).standard_error == pytest.approx(float(top.std() / 2.0), rel=1e-12)


def test_estimate_of_a_resample_is_the_estimate_of_those_episodes(case):
    process, every = case
    whole = with_values(every.data, every.state, every.action, arbitrary_q(), process.target)
    data = whole.select(torch.arange(0, whole.n, 7))
    rows = torch.randint(data.n, (data.n,), generator=torch.Generator().manual_seed(9))
    counts = torch.bincount(rows, minlength=data.n).double().unsqueeze(0)
    for estimate in (importance_sampling, per_decision, doubly_robust):
        for normalized in (False, True):
            terms = estimate(data, normalized=normalized)
            value, error = terms.resampled(counts), terms.resampled_errors(counts)
            again = estimate(data.select(rows), normalized=normalized)
            assert float(value) == pytest.approx(again.value, rel=1e-10)
            assert float(error) == pytest.approx(again.standard_error, rel=1e-9)
