"""CQL: terms by hand, the multiplier by finite differences, limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from lightning_offrl.algorithms.conservative.behavior_weighted_cql import BehaviorWeightedCQL
from lightning_offrl.algorithms.conservative.cal_ql import CalQL
from lightning_offrl.algorithms.conservative.cql import CQL
from lightning_offrl.algorithms.conservative.return_weighted_cql import ReturnWeightedCQL
from tests.algorithms.by_hand import SPEC, as_ours, batches, single

SMALL = {"hidden": (8, 8)}


def flat_critics(page, value: float) -> None:
    """Both critics equal ``value`` everywhere."""
    with torch.no_grad():
        for network in (page.q, page.q_target):
            for p in network.parameters():
                p.zero_()
            network.mlp.linear[-1].bias.fill_(value)


def evaluated(page, batch):
    page.evaluating = True
    page.draws.begin(0)
    return page.update(batch)


@pytest.mark.parametrize("samples", [1, 10, 50])
def test_a_flat_q_measures_the_box(samples):
    """Q = c: the difference is about A ln 2 + ln 3N, growing with N: a public one, reducing over 3, stays at ln 3."""
    page = CQL(SPEC, samples=samples, **SMALL)
    flat_critics(page, 7.0)
    batch = as_ours(single(batches(1, size=2_000)[0]), 0.99)
    got = evaluated(page, batch)["difference"].item()
    assert got == pytest.approx(2 * math.log(2) + math.log(3 * samples), abs=0.15)


def test_rho_of_a_flat_q_is_zero():
    page = CQL(SPEC, regularizer="rho", **SMALL)
    flat_critics(page, 7.0)
    assert evaluated(page, as_ours(single(batches(1)[0]), 0.99))["difference"].item() == pytest.approx(0.0, abs=1e-5)


def test_the_samples_are_valued_at_the_state_they_belong_to():
    """of_samples repeats each state M times in a row: another order would mix states."""
    page = CQL(SPEC, **SMALL)
    obs, actions = torch.randn(5, 3), torch.randn(5, 4, 2)
    got = page.q.of_samples(obs, actions)
    assert got.shape == (2, 5, 4)
    for i in range(5):
        for k in range(4):
            assert_close(got[:, i, k], page.q(obs[i : i + 1], actions[i, k : k + 1])[:, 0])


def test_the_multiplier_stays_apart_from_q():
    """Its own loss sees a detached difference, and Q's loss a detached multiplier.

    With Adam's first step of size lr, log multiplier moves by + lr where weight * difference exceeds the gap.
    """
    batch = as_ours(single(batches(1)[0]), 0.99)
    for gap, sign in ((-1e3, 1.0), (1e3, -1.0)):
        page = CQL(SPEC, lagrange_gap=gap, **SMALL)
        page.gradient_update(batch)
        assert page.multiplier.log_value.item() == pytest.approx(sign * 3e-4, rel=1e-3)
        fixed = CQL(SPEC, **SMALL)
        fixed.gradient_update(batch)
        for one, other in zip(page.q.parameters(), fixed.q.parameters(), strict=True):
            assert_close(one, other)  # the multiplier starts at 1: the same step on Q


def test_gradient_of_the_multiplier_by_finite_differences():
    page = CQL(SPEC, lagrange_gap=3.0, weight=2.0, **SMALL).double()
    captured = {}
    page.minimize = lambda **losses: captured.update(losses)
    batch = as_ours(batches(1)[0], 0.99)

    def loss(shift: float) -> float:
        with torch.no_grad():
            page.multiplier.log_value.fill_(0.4 + shift)
        page.draws.begin(0)
        page.update(batch)
        return captured["multiplier"].item()

    numeric = (loss(1e-5) - loss(-1e-5)) / 2e-5
    loss(0.0)
    (got,) = torch.autograd.grad(captured["multiplier"], page.multiplier.log_value, retain_graph=True)
    assert got.item() == pytest.approx(numeric, rel=1e-6)
    reached = torch.autograd.grad(captured["multiplier"], list(page.q.parameters()), allow_unused=True)
    assert all(g is None for g in reached)


def test_each_sample_is_clipped_before_the_mean():
    """Differences of 10 and -1000 with a bound of -200 have the mean -95; clipped after the mean it would be -200."""
    page = CQL(SPEC, min_difference=-200.0, **SMALL)
    page.push_down = lambda batch, q, pi, next_pi: q + torch.tensor([10.0, -1000.0]).repeat(8)
    assert evaluated(page, as_ours(single(batches(1)[0]), 0.99))["difference"].item() == pytest.approx(-95.0)


def multiplier_after_one_step(batch, weight, gap):
    page = CQL(SPEC, weight=weight, lagrange_gap=gap, samples=10, **SMALL)
    flat_critics(page, 7.0)
    page.gradient_update(batch)
    return page.multiplier().item()


def test_the_gap_is_compared_with_weight_times_the_difference_log_3n_included():
    """Flat Q, weight 5: weight * difference is about 5 (2 ln 2 + ln 30) = 23.9, so the multiplier turns there.

    Public code compares ``weight * (difference - gap)``, where a gap of 5 means what 1 means there: it would fall at
    both gaps here. Without log 3N in the difference the sign would change at 6.9.
    """
    batch = as_ours(single(batches(1, size=2_000)[0]), 0.99)
    turn = 5.0 * (2 * math.log(2) + math.log(30))
    assert multiplier_after_one_step(batch, 5.0, turn - 1.0) > 1.0 > multiplier_after_one_step(batch, 5.0, turn + 1.0)


def test_the_multiplier_is_bounded():
    page = CQL(SPEC, lagrange_gap=0.0, **SMALL)
    with torch.no_grad():
        page.multiplier.log_value.fill_(20.0)  # exp 20 is 4.9e8
    assert evaluated(page, as_ours(single(batches(1)[0]), 0.99))["multiplier"].item() == 1e6


def test_the_units_of_the_environment_change_nothing():
    """Actions are scaled to [-1, 1], where the uniform density is 1 / 2 per dimension.

    A public CQL draws them in the environment's bounds and takes that density all the same.
    """
    batch = as_ours(single(batches(1)[0]), 0.99)
    pages = [CQL({**SPEC, "action_low": [-low] * 2, "action_high": [9.0] * 2}, **SMALL) for low in (1.0, 30.0)]
    for page in pages:
        page.gradient_update(batch)
    assert all(torch.equal(a, b) for a, b in zip(pages[0].parameters(), pages[1].parameters(), strict=True))


def test_samples_are_valued_at_this_observation_also_those_of_the_next():
    """Q is 100 times the observation, 1 here and 2 after: a sample valued at s' would raise the difference by 100."""
    page = CQL(SPEC, hidden=(), samples=10)
    flat_critics(page, 0.0)
    with torch.no_grad():
        page.q.mlp.linear[0].weight[:, 0] = 100.0
    batch = as_ours(single(batches(1, size=500)[0]), 0.99)
    batch["observation"].fill_(1.0), batch["next", "observation"].fill_(2.0)
    got = evaluated(page, batch)["difference"].item()
    assert got == pytest.approx(2 * math.log(2) + math.log(30), abs=0.3)


def test_the_largest_target_takes_each_critics_best_action_first():
    page = CQL(SPEC, max_target=True, samples=3, **SMALL)
    page.q_target.of_samples = lambda obs, actions: torch.tensor([[[1.0, 9.0, 2.0]], [[8.0, 0.0, 3.0]]])
    pi = page.policy(torch.zeros(1, 3))
    page.draws.begin(0)
    assert page.next_value(torch.zeros(1, 3), pi, torch.zeros(1)).tolist() == [8.0]  # min(9, 8), not max(1, 0, 2)


def test_calibration_bounds_the_policys_actions_alone():
    """max(Q, return) before the densities, uniform actions untouched: others clamp after, and all."""
    page = CalQL(SPEC, samples=2, **SMALL)
    flat_critics(page, -1.0)
    batch = as_ours(single(batches(1, size=3)[0]), 0.99)
    batch["mc_return"] = torch.tensor([5.0, -9.0, 0.0])
    values = page.values_of(batch, torch.zeros(3, 6, 2), calibrated=4)
    assert_close(values[0], torch.tensor([[5.0] * 4 + [-1.0] * 2, [-1.0] * 6, [0.0] * 4 + [-1.0] * 2]))


def test_calibration_bounds_two_of_the_three_groups():
    """Q far below the return: what counts are the 2 N samples of the policy at it, none of the N uniform ones.

    5 + A ln 2 + ln 2N; with the uniform ones bounded as well, as in one public Cal-QL, it would be ln 3N, 0.41 more.
    """
    page = CalQL(SPEC, samples=50, **SMALL)
    flat_critics(page, -1e3)
    batch = as_ours(single(batches(1, size=500)[0]), 0.99)
    batch["mc_return"] = torch.full((500,), 5.0)
    got = evaluated(page, batch)["difference"].item() - 1e3
    assert got == pytest.approx(5.0 + 2 * math.log(2) + math.log(100), abs=0.1)


def test_calibration_far_below_is_cql():
    batch = as_ours(single(batches(1)[0]), 0.99)
    batch["mc_return"] = torch.full((16,), -1e6)
    pages = [kind(SPEC, **SMALL) for kind in (CQL, CalQL)]
    for page in pages:
        page.gradient_update(batch)
    assert all(torch.equal(a, b) for a, b in zip(pages[0].parameters(), pages[1].parameters(), strict=True))


def test_likely_actions_are_spared():
    """w is 0 at the behavior's mean and 1 far from it; Q + T log w enters the log-sum-exp."""
    page = BehaviorWeightedCQL(SPEC, temperature=2.0, **SMALL)
    flat_critics(page, 3.0)
    batch = as_ours(single(batches(1, size=2)[0]), 0.99)
    with torch.no_grad():
        page.behavior.log_std.fill_(-3.0)
        mean = page.behavior(batch["observation"]).mean
        half = math.sqrt(2 * math.log(2)) * math.exp(-3.0)  # where the density is half its maximum: w = 1 / 3
        actions = torch.stack([mean, mean + torch.tensor([half, 0.0]), mean + 5.0], dim=-2)
        values = page.values_of(batch, actions, calibrated=3)
    assert values[..., 0].max() < 3.0 - 2.0 * 13.0
    assert_close(values[..., 1], torch.full((2, 2), 3.0 - 2.0 * math.log(3)), rtol=1e-4, atol=1e-4)
    assert_close(values[..., 2], torch.full((2, 2), 3.0))


def test_good_episodes_are_raised_more():
    page = ReturnWeightedCQL(SPEC, low=1.0, high=3.0, **SMALL)
    batch = as_ours(single(batches(1, size=3)[0]), 0.99)
    batch["return_quantile"] = torch.tensor([0.0, 0.5, 1.0])
    assert_close(page.push_up(batch, torch.full((2, 3), 4.0))[0], torch.tensor([2.0, 4.0, 6.0]))


def test_equal_weights_are_cql():
    batch = as_ours(single(batches(1)[0]), 0.99)
    batch["return_quantile"] = torch.linspace(0, 1, 16)
    pages = [CQL(SPEC, **SMALL), ReturnWeightedCQL(SPEC, low=2.0, high=2.0, **SMALL)]
    for page in pages:
        page.gradient_update(batch)
    assert all(torch.equal(a, b) for a, b in zip(pages[0].parameters(), pages[1].parameters(), strict=True))
