"""DICE: the density ratio of solved processes, where it is known, beside other methods, and what the module refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_offrl.batch import TRANSITION
from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.errors import InputError
from lightning_offrl.ope.direct.dice import DICE, DICESettings, dice
from lightning_offrl.ope.direct.fqe import FQESettings, fqe
from lightning_offrl.ope.direct.lstd import lstd
from lightning_offrl.ope.direct.model_based import model_rollouts
from lightning_offrl.ope.direct.tabular import EmpiricalMDP
from tests.ope.direct.density_ratios import density_ratio
from tests.ope.doubles import Table, episodes_of, random_mdp, scripted
from tests.ope.linear_quadratic import BEHAVIOR, TARGET


def solved(ends: bool):
    """Episodes, policy, and the value and ratio of the empirical process by linear equations."""
    mdp = random_mdp(ends=ends, seed=21)
    table = mdp.behavior_policy(0.7)
    steps = mdp.sample_transitions(mdp.uniform(), 300, 20, seed=3)
    episodes = episodes_of(steps, mdp.n_states, mdp.n_actions)
    model, policy = EmpiricalMDP.from_episodes(episodes), torch.as_tensor(table)
    q = model.fitted_q(policy, 0.9)
    ratio = density_ratio(model, policy, 0.9)
    at = ratio[episodes.data["observation"].argmax(-1), episodes.data["action"]]
    return episodes, Table(table), model.value(policy, q), at, float(q.max() - q.min())


@pytest.mark.parametrize("ends", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_solved_ratio_and_one_value_by_four_methods(ends: bool) -> None:
    """LSTD and rollouts to rounding; DICE and FQE, by gradients, within 2 % of the range of Q.

    DICE's mass within 5 % of one, its ratios (up to 2.5) within 0.1 everywhere.
    """
    episodes, policy, value, ratio, span = solved(ends)
    assert lstd(policy, episodes, discount=0.9).value == pytest.approx(value, abs=1e-10)
    assert model_rollouts(policy, episodes, discount=0.9, replicates=0).value == pytest.approx(value, abs=1e-10)
    linear = {"hidden": (), "learning_rate": 1e-2, "batch_size": 1024}
    fitted = fqe(policy, episodes, discount=0.9, updates=800, settings=FQESettings(tau=0.08, held_out=0.0, **linear))
    assert fitted.value == pytest.approx(value, abs=0.02 * span)
    found = dice(policy, episodes, discount=0.9, updates=1200, settings=DICESettings(tau=0.01, **linear))
    assert found.value == pytest.approx(value, abs=0.02 * span)
    assert 0.95 <= found.diagnostics["mass"] <= 1.05 and not found.flags
    torch.testing.assert_close(found.ratio(episodes), ratio, atol=0.1, rtol=0.0)
    # and far from what the data's own distribution would say
    own = float(episodes.data["next", "reward"].double().mean()) / (1.0 - 0.9)
    assert abs(own - value) > 0.5 * span


@pytest.mark.slow
def test_networks_reach_five_per_cent() -> None:
    """Two hidden layers on one-hot states, 5,000 updates: V within 5 %, E_D[zeta] within 5 % of one."""
    episodes, policy, value, _, _ = solved(ends=False)
    found = dice(policy, episodes, discount=0.9, updates=5000, settings=DICESettings(hidden=(32, 32)))
    assert found.value == pytest.approx(value, rel=0.05)
    assert 0.95 <= found.diagnostics["mass"] <= 1.05


def test_the_end_takes_its_share_of_the_mass() -> None:
    """One step that ends, gamma .9: d_pi is 0.1 on it and 0.9 on the time after, so zeta is 0.1 and V the reward."""
    episodes = scripted([[(0, 0, 3.0)], [(0, 1, 1.0)]] * 20, 2, 2)
    policy = Table(np.tile([1.0, 0.0], (2, 1)))
    settings = DICESettings(hidden=(), learning_rate=1e-2, batch_size=64, tau=0.02)
    found = dice(policy, episodes, discount=0.9, updates=500, settings=settings)
    assert found.value == pytest.approx(3.0, rel=0.05)
    ratio = found.ratio(episodes)
    assert ratio[episodes.data["action"] == 0].numpy() == pytest.approx(0.2, abs=0.02)  # half the data takes action 0
    assert ratio[episodes.data["action"] == 1].numpy() == pytest.approx(0.0, abs=0.02)


def test_continuous_actions_heads_and_refits() -> None:
    episodes = BEHAVIOR.episodes(12, 10, seed=0)
    how = {"discount": 0.9, "updates": 30, "seeds": 2, "replicates": 3, "settings": DICESettings(hidden=(8,))}
    found = dice(TARGET.policy(), episodes, **how)
    assert found.per_seed.shape == (2,) and found.replicates.shape == (3,) and found.counts.shape == (3, 12)
    assert found.value == pytest.approx(float(found.per_seed.mean()))
    assert found.counts.sum(-1).tolist() == [12.0] * 3
    assert found.ratio(episodes).shape == (120,)
    again = dice(TARGET.policy(), episodes, **how)
    assert torch.equal(found.replicates, again.replicates)
    assert math.isnan(float(found.per_initial_state[0]))
    with pytest.raises(InputError, match="not values; take q and v from fqe"):
        found.v(episodes.data["observation"])


def test_gradients_of_the_saddle_have_their_signs() -> None:
    """One step from a state where zeta is too large everywhere: it falls, and lambda rises to push it down."""
    episodes = scripted([[(0, 0, 0.0), (1, 0, 0.0)]] * 4, 2, 2, terminal=False)
    page = DICE(episodes.spec, discount=0.9, hidden=(), seed=0).of(Table(np.tile([0.5, 0.5], (2, 1))))
    page.starting_at(episodes.data["observation"][episodes.start])
    with torch.no_grad():
        page.zeta.mlp.linear[0].bias.fill_(3.0)  # zeta about 9
    block = page.prepare(OfflineDataModule(episodes, discount=0.9).columns(TRANSITION)[:8].unsqueeze(0))
    before, after = page.losses_of(block[0]), page.losses_of(block[0])
    assert float(after["mass"]) < float(before["mass"]) and float(before["mass"]) > 5.0
    # L falls in lambda where 1 - E[zeta] < 0, so descent raises lambda
    assert float(page.multiplier().detach()) > 0.0


def test_refusals() -> None:
    episodes = BEHAVIOR.episodes(3, 5, seed=0)
    with pytest.raises(InputError, match="below 1"):
        dice(TARGET.policy(), episodes, discount=1.0)
    page = DICE(episodes.spec, discount=0.9, hidden=(4,)).of(TARGET.policy())
    with pytest.raises(InputError, match="starting_at"):
        page.prepare(OfflineDataModule(episodes).columns()[:4].unsqueeze(0))
    short = dice(TARGET.policy(), episodes, discount=0.9, updates=10, settings=DICESettings(hidden=(4,)))
    assert any("add up to" in flag for flag in short.flags)
