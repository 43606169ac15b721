"""Fitted Q evaluation: fixed points that are solved, ends and cuts, stacked heads, and its flags."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.errors import InputError
from lightning_offrl.ope.direct.fqe import FQESettings, fqe
from lightning_offrl.ope.direct.fqe_algorithm import FQE
from lightning_offrl.ope.direct.lstd import lstd
from lightning_offrl.ope.direct.tabular import EmpiricalMDP
from tests.ope.doubles import Linear, Table, scripted, tabular_case
from tests.ope.linear_quadratic import BEHAVIOR, DISCOUNT, TARGET

TABULAR = FQESettings(hidden=(), learning_rate=1e-2, held_out=0.0, batch_size=1024)
SMALL = replace(TABULAR, batch_size=64)


@pytest.mark.parametrize("ends", [pytest.param(False, marks=pytest.mark.slow), True])
def test_linear_in_one_hot_converges_to_the_tabular_fixed_point(ends: bool) -> None:
    """Within 3 % of the range of Q everywhere, 1 % in the value, of the empirical model solved by backups."""
    episodes, table = tabular_case(ends)
    found = fqe(Table(table), episodes, discount=0.8, updates=1000, settings=replace(TABULAR, tau=0.04))
    model = EmpiricalMDP.from_episodes(episodes)
    q = model.fitted_q(torch.as_tensor(table), 0.8)
    state, action = episodes.data["observation"].argmax(-1), episodes.data["action"]
    span = float(q.max() - q.min())
    assert float((found.q(episodes) - q[state, action]).abs().max()) < 0.03 * span
    assert found.value == pytest.approx(model.value(torch.as_tensor(table), q), abs=0.01 * span)
    v = (torch.as_tensor(table) * q).sum(-1)
    torch.testing.assert_close(found.v(torch.eye(len(v)))[:4], v[:4], rtol=0.0, atol=0.03 * span)
    assert not found.flags, found.flags


@pytest.mark.parametrize(("terminal", "value"), [(True, 0.64 * 5.0), (False, 0.64 * 5.0 / (1 - 0.8))])
def test_a_reward_at_the_end_and_a_cut_that_bootstraps(terminal: bool, value: float) -> None:
    """0 -> 1 -> 2 with reward 5 on the last step, which ends the episode or, cut, stays in 2 for ever."""
    episodes = scripted([[(0, 0, 0.0), (1, 0, 0.0), (2, 0, 5.0)]] * 4, 3, 2, terminal=terminal)
    policy = Table(np.tile([1.0, 0.0], (3, 1)))
    found = fqe(policy, episodes, discount=0.8, updates=500, settings=replace(SMALL, tau=0.1))
    assert found.value == pytest.approx(value, rel=0.02)


def test_the_reward_mean_is_subtracted_only_where_nothing_ends() -> None:
    """All rewards 2: without ends V = 2 / (1 - gamma); with ends each episode of one step is worth 2."""
    policy = Table(np.tile([1.0, 0.0], (2, 1)))
    endless = scripted([[(0, 0, 2.0)]] * 4, 2, 2, terminal=False)
    going = fqe(policy, endless, discount=0.9, updates=300, settings=SMALL)
    assert going.value == pytest.approx(20.0, abs=0.01)  # transformed, every reward is 0
    ended = fqe(policy, scripted([[(0, 0, 2.0)]] * 4, 2, 2), discount=0.9, updates=500, settings=SMALL)
    assert ended.value == pytest.approx(2.0, rel=0.02)


def test_continuous_actions_agree_with_a_closed_form() -> None:
    """Linear-quadratic: within 10 % of V, solved from a Lyapunov equation; so is LSTD with quadratic features."""
    episodes = BEHAVIOR.episodes(150, 50, seed=0)
    first = episodes.data["observation"][episodes.start].double().numpy()
    p = TARGET.lyapunov()
    truth = TARGET.value() + np.trace(p) - np.einsum("bi,ij,bj->b", first, p, first).mean()
    exact = lstd(TARGET.policy(), episodes, discount=DISCOUNT)
    assert exact.value == pytest.approx(truth, rel=0.1)
    settings = FQESettings(hidden=(64, 64), learning_rate=3e-3)
    found = fqe(TARGET.policy(), episodes, discount=DISCOUNT, updates=1000, settings=settings)
    assert found.value == pytest.approx(truth, rel=0.1)
    assert abs(found.value - BEHAVIOR.value()) > 1.0  # it is the target's value, not the data's


@pytest.mark.slow
def test_linear_quadratic_over_five_seeds() -> None:
    """Five stacked fits, one pass: each within 10 % of the closed form, at the first states of the data."""
    episodes = BEHAVIOR.episodes(200, 50, seed=1)
    first = episodes.data["observation"][episodes.start].double().numpy()
    p = TARGET.lyapunov()
    truth = TARGET.value() + np.trace(p) - np.einsum("bi,ij,bj->b", first, p, first).mean()
    settings = FQESettings(hidden=(64, 64))
    found = fqe(TARGET.policy(), episodes, discount=DISCOUNT, updates=6000, settings=settings, seeds=5)
    assert found.per_seed.tolist() == pytest.approx([truth] * 5, rel=0.1)
    assert not found.flags, found.flags


def test_stacked_heads_are_single_fits_and_the_first_is_the_data_itself() -> None:
    """Head i alone, with its own seed and rows, gives the same network (to float32's order of summation)."""
    episodes = BEHAVIOR.episodes(12, 10, seed=2)
    policy = Linear(TARGET.policy().gain)
    common = {"discount": 0.9, "updates": 40, "settings": FQESettings(hidden=(8,), held_out=0.0)}
    together = fqe(policy, episodes, seeds=2, **common)
    alone = [fqe(policy, episodes, seed=s, **common) for s in (0, 1)]
    assert together.value == pytest.approx((alone[0].value + alone[1].value) / 2, abs=1e-5)
    assert alone[0].value != alone[1].value


@pytest.mark.slow
def test_bootstrap_refits_spread_as_the_tabular_refits_do() -> None:
    """One pass of 20 heads against 200 exact refits: standard errors within a factor of 1.6."""
    episodes, table = tabular_case(True, n=60)
    found = fqe(Table(table), episodes, discount=0.8, updates=600, replicates=20, settings=TABULAR)
    exact = lstd(Table(table), episodes, discount=0.8, replicates=200)
    assert found.replicates.shape == (20,)
    assert 1 / 1.6 <= found.standard_error() / exact.standard_error() <= 1.6
    assert float(found.replicates.mean()) == pytest.approx(exact.value, abs=2 * exact.standard_error())


def test_quantiles_of_a_coin() -> None:
    """Return +1 or -1 after one step, and a sure 2 before it: quantiles 1 and 3 (gamma .5: 2 +- .5)."""
    paths = [[(0, 0, 2.0), (1, 0, reward)] for reward in (1.0, -1.0)] * 5
    policy = Table(np.tile([1.0, 0.0], (2, 1)))
    settings = replace(TABULAR, quantiles=8, batch_size=256)
    found = fqe(policy, scripted(paths, 2, 2), discount=0.5, updates=500, settings=settings)
    assert found.value == pytest.approx(2.0, abs=0.05)
    torch.testing.assert_close(
        found.return_quantiles.sort().values, torch.tensor([1.5] * 4 + [2.5] * 4).double(), atol=0.1, rtol=0.0
    )


def test_pessimism_is_a_labeled_variant_and_lies_lower() -> None:
    episodes = BEHAVIOR.episodes(20, 20, seed=4)
    settings = FQESettings(hidden=(16,), critics=4, learning_rate=1e-3)
    mean, low = (
        fqe(TARGET.policy(), episodes, discount=0.9, updates=300, settings=replace(settings, reduction=reduction))
        for reduction in ("mean", "min")
    )
    assert low.value < mean.value
    assert any("pessimistic" in flag for flag in low.flags) and not any("pessimistic" in f for f in mean.flags)


def test_policies_that_draw_nothing_are_asked_once() -> None:
    calls = []

    class Counting(Linear):
        def sample(self, observation, n, generator):
            calls.append(len(observation))
            return super().sample(observation, n, generator)

    episodes = BEHAVIOR.episodes(5, 10, seed=0)
    fqe(Counting(TARGET.policy().gain), episodes, discount=0.9, updates=100, settings=FQESettings(hidden=(4,)))
    assert calls == [50, 5, 5]  # the table's 50 next observations; the 5 first ones to read, and to follow


def test_policies_that_draw_are_asked_once_per_transition_in_long_fits() -> None:
    """Eight actions for each of 50 transitions at first; how long the fit is does not matter any more."""
    asked = []

    class Counting(Linear):
        def sample(self, observation, n, generator):
            asked.append((len(observation), n))
            return super().sample(observation, n, generator)

    episodes = BEHAVIOR.episodes(5, 10, seed=0)
    net = FQESettings(hidden=(4,), held_out=0.0)
    fqe(Counting(TARGET.policy().gain, 0.1), episodes, discount=0.9, updates=40, settings=net)
    short, asked[:] = asked.copy(), []
    fqe(Counting(TARGET.policy().gain, 0.1), episodes, discount=0.9, updates=80, settings=net)
    assert asked == short and asked.count((50, 8)) == 1 and len(asked) == 4
    asked.clear()
    few = replace(net, batch_size=2)
    fqe(Counting(TARGET.policy().gain, 0.1), episodes, discount=0.9, updates=5, settings=few)
    assert asked.count((2, 1)) == 5 and (50, 8) not in asked  # a short fit draws for what it visits


def test_refusals() -> None:
    episodes = BEHAVIOR.episodes(5, 10, seed=0)
    policy = TARGET.policy()
    for arguments, said in (
        ({"discount": 1.0}, "below 1"),
        ({"discount": 0.9, "horizon": 20}, "unlimited horizon; for a horizon of 20"),
        ({"discount": -0.1}, "discount must be"),
    ):
        with pytest.raises(InputError, match=said):
            fqe(policy, episodes, updates=10, **arguments)
    with pytest.raises(InputError, match="discrete actions, but those of"):
        fqe(Table(np.ones((2, 2)) / 2), episodes, discount=0.9)
    with pytest.raises(InputError, match="say which with .of"):
        page = FQE(episodes.spec, discount=0.9, hidden=(4,))
        page.prepare(OfflineDataModule(episodes).columns()[:4].unsqueeze(0))


def test_the_callers_random_state_and_gradient_mode_are_untouched() -> None:
    episodes = BEHAVIOR.episodes(5, 10, seed=0)
    how = {"discount": 0.9, "updates": 30, "settings": FQESettings(hidden=(4,))}
    state = torch.get_rng_state()
    with torch.inference_mode():
        value = fqe(TARGET.policy(), episodes, **how).value
    assert torch.equal(torch.get_rng_state(), state) and math.isfinite(value)
    assert value == fqe(TARGET.policy(), episodes, **how).value
