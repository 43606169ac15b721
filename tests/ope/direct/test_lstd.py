"""LSTD: sampling errors, features that the data never shows, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_offrl.errors import InputError
from lightning_offrl.ope.direct.lstd import lstd
from lightning_offrl.ope.direct.tabular import EmpiricalMDP
from tests.ope.doubles import Linear, Table, episodes_of, random_mdp, scripted


def test_many_episodes_come_near_the_true_value() -> None:
    """The error falls as the square root of the number of episodes."""
    mdp = random_mdp(seed=7)
    table = mdp.optimal(0.9).policy * 0.8 + 0.2 * mdp.uniform()
    truth = float(mdp.start @ mdp.policy_value(table, 0.9)[0])

    def error(n: int) -> float:
        found = []
        for seed in range(30):
            steps = mdp.sample_transitions(mdp.uniform(), n, 30, seed=seed)
            found.append(lstd(Table(table), episodes_of(steps, mdp.n_states, mdp.n_actions), discount=0.9).value)
        return float(np.sqrt(np.mean((np.array(found) - truth) ** 2)))

    small, large = error(40), error(1280)
    assert 0.35 <= np.log(small / large) / np.log(32) <= 0.65  # n^-1/2


def test_q_and_v_of_the_estimate_are_the_processes_own() -> None:
    mdp = random_mdp(ends=False, seed=5)
    table = mdp.uniform()
    steps = mdp.sample_transitions(table, 3000, 10, seed=1)
    episodes = episodes_of(steps, mdp.n_states, mdp.n_actions)
    estimate = lstd(Table(table), episodes, discount=0.8)
    model = EmpiricalMDP.from_episodes(episodes)
    q = model.fitted_q(torch.as_tensor(table), 0.8)
    torch.testing.assert_close(
        estimate.q(episodes), q[torch.as_tensor(steps["state"]), torch.as_tensor(steps["action"])], rtol=0, atol=1e-10
    )
    torch.testing.assert_close(estimate.v(torch.eye(mdp.n_states)), (q / 3).sum(-1), rtol=0.0, atol=1e-10)
    assert estimate.value == pytest.approx(float(estimate.per_initial_state.mean()), abs=1e-12)
    assert not estimate.flags and estimate.diagnostics["growth"] == pytest.approx(0.8, abs=1e-9)


def test_what_the_data_never_shows_is_said() -> None:
    episodes = scripted([[(0, 0, 1.0), (1, 0, 1.0)]] * 3, 2, 2)
    estimate = lstd(Table(np.tile([0.5, 0.5], (2, 1))), episodes, discount=0.9)
    assert "never seen" in estimate.flags[0] and estimate.diagnostics["unsupported"] == pytest.approx(0.5)


def test_bootstrap_spread_is_the_sampling_error() -> None:
    """Over 200 fresh datasets of 80 episodes the estimates spread as the refits to one of them do, within a third."""
    mdp = random_mdp(seed=4)
    policy = Table(mdp.behavior_policy(0.4))

    def data(seed: int):
        return episodes_of(mdp.sample_transitions(mdp.uniform(), 80, 15, seed=seed), mdp.n_states, mdp.n_actions)

    fresh = np.std([lstd(policy, data(100 + i), discount=0.9).value for i in range(200)])
    refits = np.mean([lstd(policy, data(i), discount=0.9, replicates=50).standard_error() for i in range(4)])
    assert 0.67 <= refits / fresh <= 1.5


def test_refusals() -> None:
    episodes = scripted([[(0, 0, 1.0)]], 2, 2)
    policy = Table(np.tile([0.5, 0.5], (2, 1)))
    with pytest.raises(InputError, match="discount must be in"):
        lstd(policy, episodes, discount=1.1)
    with pytest.raises(InputError, match="continuous actions, but those of arrays are discrete"):
        lstd(Linear([[0.1, 0.1]]), episodes, discount=0.9)
