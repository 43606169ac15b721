"""Fitted Q evaluation: fixed points that are solved, ends and cuts, stacked heads, and its flags."""

from __future__ import annotations

import math
from dataclasses import replace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from lightning_offrl.data.bootstrap import EpisodeBootstrap
from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.errors import InputError
from lightning_offrl.losses.quantiles import quantile_levels, quantile_regression
from lightning_offrl.ope.direct.fqe import FQESettings, fqe
from lightning_offrl.ope.direct.fqe_algorithm import FQE
from lightning_offrl.ope.direct.lstd import lstd
from lightning_offrl.ope.direct.tabular import EmpiricalMDP
from tests.ope.doubles import Linear, Table, episodes_of, random_mdp, scripted
from tests.ope.linear_quadratic import BEHAVIOR, DISCOUNT, TARGET

TABULAR = FQESettings(hidden=(), learning_rate=1e-2, held_out=0.0, batch_size=1024)
SMALL = replace(TABULAR, batch_size=64)


def tabular_case(ends: bool, n: int = 300):
    mdp = random_mdp(ends=ends, seed=11)
    table = mdp.behavior_policy(0.6)
    steps = mdp.sample_transitions(mdp.uniform(), n, 20, seed=3)
    return episodes_of(steps, mdp.n_states, mdp.n_actions), table


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


def test_bootstrap_rows_come_from_each_heads_own_episodes() -> None:
    start, length = torch.tensor([0, 3, 7, 8]), torch.tensor([3, 4, 1, 5])
    length[2] = 0  # held out
    sampler = EpisodeBootstrap(start, length, 4000, seed=5, originals=1, replicates=3)
    rows = sampler.indices(0, 2)
    assert rows.shape == (2, 4, 4000)
    episode = torch.searchsorted(start, rows, right=True) - 1
    assert sampler.episodes[0].tolist() == [0, 1, 2, 3]
    for head in range(4):
        times = torch.bincount(sampler.episodes[head], minlength=4) * length
        seen = torch.bincount(episode[:, head].flatten(), minlength=4) / 8000
        torch.testing.assert_close(seen, times / times.sum(), atol=0.03, rtol=0.0)
        within = (rows[:, head] - start[episode[:, head]]).flatten()
        assert bool((within < length[episode[:, head]].flatten()).all()) and int(within.min()) == 0
    assert torch.equal(rows, EpisodeBootstrap(start, length, 4000, 5, 1, 3).indices(0, 2))
    alone = EpisodeBootstrap(start, length, 4000, seed=8, originals=0, replicates=1)
    assert torch.equal(alone.indices(0, 2), rows[:, 3])


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


def test_quantile_regression_is_minimal_at_the_weighted_quantiles() -> None:
    """Against numpy's inverted CDF; moving any quantile by 0.2 either way costs."""
    gen = torch.Generator().manual_seed(0)
    target = torch.randn(1, 60, generator=gen, dtype=torch.float64)
    weight = torch.rand(1, 60, generator=gen, dtype=torch.float64)
    weight /= weight.sum()
    levels = quantile_levels(5, target).numpy()
    assert levels == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    want = np.quantile(target[0].numpy(), levels, method="inverted_cdf", weights=weight[0].numpy())
    best = torch.as_tensor(want).unsqueeze(0)
    at = float(quantile_regression(best, target, weight))
    for i in range(5):
        for step in (-0.2, 0.2):
            other = best.clone()
            other[0, i] += step
            assert float(quantile_regression(other, target, weight)) > at


def test_pessimism_is_a_labeled_variant_and_lies_lower() -> None:
    episodes = BEHAVIOR.episodes(20, 20, seed=4)
    settings = FQESettings(hidden=(16,), critics=4, learning_rate=1e-3)
    mean, low = (
        fqe(TARGET.policy(), episodes, discount=0.9, updates=300, settings=replace(settings, reduction=reduction))
        for reduction in ("mean", "min")
    )
    assert low.value < mean.value
    assert any("pessimistic" in flag for flag in low.flags) and not any("pessimistic" in f for f in mean.flags)


def test_flags_of_a_short_fit_and_of_targets_out_of_bounds() -> None:
    episodes = BEHAVIOR.episodes(20, 20, seed=4)
    short = fqe(TARGET.policy(), episodes, discount=0.99, updates=60, settings=FQESettings(hidden=(8,), tau=0.005))
    assert any("too few updates" in flag for flag in short.flags)
    # an untrained network far off its bounds: every target is cut, and that is said
    page = FQE(episodes.spec, discount=0.9, reward_range=(0.0, 1e-6), hidden=(8,)).of(TARGET.policy())
    block = OfflineDataModule(episodes, discount=0.9).columns()[:8].unsqueeze(0)
    with torch.no_grad():
        target, _, clipped = page.targets_of(page.prepare(block)[0])
    assert float(clipped) == 1.0 and float(target.max()) <= 1e-5


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


def test_every_draw_is_one_of_its_own_transition() -> None:
    """Draws marked by row and number: heads, updates and samples pick from the right row, and from all numbers."""
    episodes = BEHAVIOR.episodes(3, 4, seed=0)
    page = FQE(episodes.spec, discount=0.9, hidden=(4,), samples=3, seeds=2).of(TARGET.policy())
    block = OfflineDataModule(episodes, discount=0.9).columns()[:12]
    mark = 10.0 * torch.arange(12).view(12, 1, 1) + torch.arange(8).view(1, 8, 1) + torch.zeros(2)
    block["next", "policy_draws"] = mark
    block = block.expand(5, 2, 12)
    found = page.prepare(block)["next"]
    row, number = found["policy_action"][..., 0].div(10, rounding_mode="floor"), found["policy_action"][..., 0] % 10
    assert found["policy_action"].shape == (5, 2, 12, 3, 2) and "policy_draws" not in found.keys()
    assert torch.equal(row, torch.arange(12.0).view(12, 1).expand_as(row))
    assert number.unique().tolist() == list(range(8))
    assert not torch.equal(number[0], number[1]) and not torch.equal(number[:, 0], number[:, 1])
    assert torch.equal(found["policy_weight"], torch.full((5, 2, 12, 3), 1.0 / 3.0))


def test_it_trains_under_a_trainer_with_the_ordinary_data_module(tmp_path) -> None:
    """Same settings, same seed: the Trainer's batches differ from `fqe`'s, the fixed point does not."""
    episodes, table = tabular_case(True)
    data = OfflineDataModule(episodes, discount=0.8, batch_size=1024)
    page = FQE(episodes.spec, discount=0.8, hidden=(), learning_rate=1e-2, tau=0.03, decay=(500, 800)).of(Table(table))
    trainer = pl.Trainer(
        max_steps=800, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(page, data)
    q = EmpiricalMDP.from_episodes(episodes).fitted_q(torch.as_tensor(table), 0.8)
    with torch.no_grad():
        found = page.value(torch.eye(len(q)), torch.arange(3).expand(len(q), 3))[0, :, :, 0]
    seen = q != 0.0
    torch.testing.assert_close(found[seen].double(), q[seen], rtol=0.0, atol=0.03 * float(q.max() - q.min()))
    with pytest.raises(InputError, match="discount is 0.99 and that of the evaluation 0.8"):
        trainer.fit(page, OfflineDataModule(episodes))


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
