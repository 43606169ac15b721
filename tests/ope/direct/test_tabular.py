"""Direct methods on finite processes: exact values, and the same number by five methods."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_offrl.errors import InputError
from lightning_offrl.ope.direct.lstd import lstd
from lightning_offrl.ope.direct.tabular import EmpiricalMDP
from tests.ope.direct.density_ratios import density_ratio, ratio_value
from tests.ope.doubles import Table, episodes_of, random_mdp, scripted


def five_methods(episodes, table, discount):
    """The value of one empirical distribution by LSTD, fitted Q, rollout, flow equations and DualDICE."""
    policy = torch.as_tensor(table, dtype=torch.float64)
    model = EmpiricalMDP.from_episodes(episodes)
    values = [lstd(Table(table), episodes, discount=discount).value]
    values.append(model.value(policy, model.fitted_q(policy, discount)))
    values.append(model.rollout_value(policy, discount))
    for by in ("flow", "dualdice"):
        values.append(ratio_value(model, density_ratio(model, policy, discount, by), discount))
    return values


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("n", [3, 50, 2000])
def test_five_methods_give_one_number(n: int, ends: bool) -> None:
    """With three episodes some pairs are never seen, and all five still agree."""
    mdp = random_mdp(ends=ends, seed=n)
    rng = np.random.default_rng(n)
    table = rng.dirichlet(np.ones(mdp.n_actions), size=mdp.n_states)
    episodes = episodes_of(mdp.sample_transitions(mdp.uniform(), n, 25, seed=n), mdp.n_states, mdp.n_actions)
    values = five_methods(episodes, table, 0.95)
    assert max(values) - min(values) <= 1e-10, values
    assert abs(values[0]) > 0.01  # not five times nothing


@pytest.mark.parametrize("ends", [False, True])
def test_the_exact_distribution_gives_the_exact_value(ends: bool) -> None:
    """Every transition with its probability: the process itself, whose value is solved in `envs.tabular`."""
    mdp = random_mdp(ends=ends, seed=3)
    table = np.random.default_rng(1).dirichlet(np.ones(mdp.n_actions), size=mdp.n_states)
    model = EmpiricalMDP(
        transition=torch.as_tensor(mdp.transition * ~mdp.terminal * ~mdp.terminal[:, None, None]),
        reward=torch.as_tensor(mdp.reward),
        data=torch.full((mdp.n_states, mdp.n_actions), 1.0 / (mdp.n_states * mdp.n_actions), dtype=torch.float64),
        terminated=torch.as_tensor(mdp.transition[..., mdp.terminal].sum(-1)),
        start=torch.as_tensor(mdp.start),
    )
    policy = torch.as_tensor(table)
    value, q = mdp.policy_value(table, 0.9)
    found = model.fitted_q(policy, 0.9)
    torch.testing.assert_close(found, torch.as_tensor(q), rtol=0.0, atol=1e-12)
    for by in ("flow", "dualdice"):
        ratio = density_ratio(model, policy, 0.9, by)
        assert ratio_value(model, ratio, 0.9) == pytest.approx(float(mdp.start @ value), abs=1e-12)
        # the discounted distribution of the steps that happen
        happened = 0.1 * (0.9 ** np.arange(501) @ mdp.state_distribution(table, 500))[~mdp.terminal].sum()
        assert float((model.data * ratio).sum()) == pytest.approx(happened, abs=1e-12)
    if not ends:
        assert float((model.data * ratio).sum()) == pytest.approx(1.0, abs=1e-12)


def test_a_reward_on_the_terminal_step_counts() -> None:
    """0 -> 1 -> 2 -> end, the only reward on the last step: V = 0.9^2 * 5."""
    episodes = scripted([[(0, 0, 0.0), (1, 0, 0.0), (2, 0, 5.0)]], 3, 2)
    table = np.tile([1.0, 0.0], (3, 1))
    for value in five_methods(episodes, table, 0.9):
        assert value == pytest.approx(0.81 * 5.0, abs=1e-12)


def test_a_timeout_bootstraps_and_a_terminal_does_not() -> None:
    """A self-loop with reward 1: cut after one step it is worth 1 / (1 - 0.9), ended after one step it is worth 1."""
    table = np.tile([1.0, 0.0], (2, 1))
    for terminal, value in ((False, 10.0), (True, 1.0)):
        found = five_methods(scripted([[(0, 0, 1.0)]], 2, 2, terminal=terminal), table, 0.9)
        assert found == pytest.approx([value] * 5, abs=1e-10)


def test_modelfail_direct_methods_give_the_behaviors_value() -> None:
    """Thomas and Brunskill's ModelFail, one observation for all states: V(pi) = .76 but every model says -.40.

    The first action decides between +1 and -1 on the second step, and the observation cannot tell. The behavior takes
    the good action with .3, so V(pi_b) = .3 - .7 = -.4; the target with .88, so V = .88 - .12. (With discount 1.)
    """
    paths = []
    for first, count_first in ((0, 3), (1, 7)):
        for second, count_second in ((0, 3), (1, 7)):
            paths += [[(0, first, 0.0), (0, second, 1.0 if first == 0 else -1.0)]] * (count_first * count_second)
    episodes = scripted(paths, 2, 2)
    table = np.tile([0.88, 0.12], (2, 1))
    assert episodes.returns().mean() == pytest.approx(-0.4)
    model = EmpiricalMDP.from_episodes(episodes)
    policy = torch.as_tensor(table)
    assert model.value(policy, model.fitted_q(policy, 1.0)) == pytest.approx(-0.4, abs=1e-12)
    assert model.rollout_value(policy, 1.0) == pytest.approx(-0.4, abs=1e-12)
    assert lstd(Table(table), episodes, discount=1.0).value == pytest.approx(-0.4, abs=1e-12)


def test_undiscounted_without_an_end_is_refused() -> None:
    episodes = scripted([[(0, 0, 1.0)]], 2, 2, terminal=False)
    model = EmpiricalMDP.from_episodes(episodes)
    policy = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    with pytest.raises(InputError, match="never ends from state 0"):
        model.fitted_q(policy, 1.0)
    with pytest.raises(InputError, match="do not end"):
        model.rollout_value(policy, 1.0)
    assert model.rollout_value(policy, 1.0, horizon=7) == 7.0
