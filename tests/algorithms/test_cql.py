"""CQL: terms by hand, the multiplier by finite differences, limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from lightning_offrl.algorithms.behavior_weighted_cql import BehaviorWeightedCQL
from lightning_offrl.algorithms.cal_ql import CalQL
from lightning_offrl.algorithms.cql import CQL
from lightning_offrl.algorithms.return_weighted_cql import ReturnWeightedCQL

from .by_hand import SPEC, as_ours, batches, single

SMALL = {"hidden": (8, 8)}


def flat_critics(page, value: float) -> None:
    """Both critics equal ``value`` everywhere."""
    with torch.no_grad():
        for network in (page.q, page.q_target):
            for p in network.parameters():
                p.zero_()
            network.mlp.linear[-1].bias.fill_(value)


def evaluated(page, batch):
    page._evaluating = True
    page.draws.begin(0)
    return page.update(batch)


@pytest.mark.parametrize("samples", [1, 10, 50])
def test_a_flat_q_measures_the_box(samples):
    """Q = c: the difference is about A ln 2 + ln 3N, growing with N (peers 5.2: a reduction over 3 does not grow)."""
    page = CQL(SPEC, samples=samples, **SMALL)
    flat_critics(page, 7.0)
    batch = as_ours(single(batches(1, size=2_000)[0]), 0.99)
    got = evaluated(page, batch)["difference"].item()
    assert got == pytest.approx(2 * math.log(2) + math.log(3 * samples), abs=0.15)


def test_rho_of_a_flat_q_is_zero():
    page = CQL(SPEC, regulariser="rho", **SMALL)
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
    """Its own loss sees a detached difference, and Q's loss a detached multiplier (peers 5.2, TorchRL's leak).

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
    """Differences far below the bound count as the bound, sample by sample (peers 5.2, AntMaze's -200)."""
    page = CQL(SPEC, min_difference=100.0, **SMALL)
    assert evaluated(page, as_ours(single(batches(1)[0]), 0.99))["difference"].item() == pytest.approx(100.0)


def test_weight_zero_leaves_sac():
    """No conservative gradient reaches Q."""
    batch = as_ours(single(batches(1)[0]), 0.99)
    pages = [CQL(SPEC, weight=0.0, samples=n, **SMALL) for n in (1, 7)]
    for page in pages:
        page.gradient_update(batch)
    for one, other in zip(pages[0].q.parameters(), pages[1].q.parameters(), strict=True):
        assert_close(one, other)


def test_the_largest_target_takes_each_critics_best_action_first():
    page = CQL(SPEC, max_target=True, samples=3, **SMALL)
    page.q_target.of_samples = lambda obs, actions: torch.tensor([[[1.0, 9.0, 2.0]], [[8.0, 0.0, 3.0]]])
    pi = page.policy(torch.zeros(1, 3))
    page.draws.begin(0)
    assert page.next_value(torch.zeros(1, 3), pi, torch.zeros(1)).tolist() == [8.0]  # min(9, 8), not max(1, 0, 2)


def test_calibration_bounds_the_policys_actions_alone():
    """max(Q, return) before the densities, uniform actions untouched (peers 5.9: others clamp after, and all)."""
    page = CalQL(SPEC, samples=2, **SMALL)
    flat_critics(page, -1.0)
    batch = as_ours(single(batches(1, size=3)[0]), 0.99)
    batch["mc_return"] = torch.tensor([5.0, -9.0, 0.0])
    values = page.values_of(batch, torch.zeros(3, 6, 2), calibrated=4)
    assert_close(values[0], torch.tensor([[5.0] * 4 + [-1.0] * 2, [-1.0] * 6, [0.0] * 4 + [-1.0] * 2]))


def test_calibration_far_below_is_cql():
    batch = as_ours(single(batches(1)[0]), 0.99)
    batch["mc_return"] = torch.full((16,), -1e6)
    pages = [kind(SPEC, **SMALL) for kind in (CQL, CalQL)]
    for page in pages:
        page.gradient_update(batch)
    assert all(torch.equal(a, b) for a, b in zip(pages[0].parameters(), pages[1].parameters(), strict=True))


def test_likely_actions_are_spared():
    """w is 0 at the behaviour's mean and 1 far from it; Q + T log w enters the log-sum-exp."""
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
