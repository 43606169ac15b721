"""Direct methods on finite processes: exact values, and the same number by five roads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.errors import InputError
from lightning_offrl.ope.direct.estimate import multiplicities
from lightning_offrl.ope.direct.features import quadratic_features
from lightning_offrl.ope.direct.lstd import lstd
from lightning_offrl.ope.direct.tabular import EmpiricalMDP
from tests.ope.doubles import Linear, Table, episodes_of, random_mdp, scripted


def five_roads(episodes, table, discount):
    """The value of one empirical distribution by LSTD, fitted Q, rollout, flow equations and DualDICE."""
    policy = torch.as_tensor(table, dtype=torch.float64)
    model = EmpiricalMDP.from_episodes(episodes)
    values = [lstd(Table(table), episodes, discount=discount).value]
    values.append(model.value(policy, model.fitted_q(policy, discount)))
    values.append(model.rollout_value(policy, discount))
    for by in ("flow", "dualdice"):
        values.append(model.ratio_value(model.density_ratio(policy, discount, by), discount))
    return values


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("n", [3, 50, 2000])
def test_five_roads_to_one_number(n: int, ends: bool) -> None:
    """With three episodes some pairs are never seen, and all five still agree."""
    mdp = random_mdp(ends=ends, seed=n)
    rng = np.random.default_rng(n)
    table = rng.dirichlet(np.ones(mdp.n_actions), size=mdp.n_states)
    episodes = episodes_of(mdp.sample_transitions(mdp.uniform(), n, 25, seed=n), mdp.n_states, mdp.n_actions)
    values = five_roads(episodes, table, 0.95)
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
        ratio = model.density_ratio(policy, 0.9, by)
        assert model.ratio_value(ratio, 0.9) == pytest.approx(float(mdp.start @ value), abs=1e-12)
        # the discounted distribution of the steps that happen: `occupancy` without its terminal states
        happened = mdp.occupancy(table, 0.9)[~mdp.terminal].sum()
        assert float((model.data * ratio).sum()) == pytest.approx(happened, abs=1e-12)
    if not ends:
        assert float((model.data * ratio).sum()) == pytest.approx(1.0, abs=1e-12)


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


def test_a_reward_on_the_terminal_step_counts() -> None:
    """0 -> 1 -> 2 -> end, the only reward on the last step: V = 0.9^2 * 5."""
    episodes = scripted([[(0, 0, 0.0), (1, 0, 0.0), (2, 0, 5.0)]], 3, 2)
    table = np.tile([1.0, 0.0], (3, 1))
    for value in five_roads(episodes, table, 0.9):
        assert value == pytest.approx(0.81 * 5.0, abs=1e-12)


def test_a_timeout_bootstraps_and_a_terminal_does_not() -> None:
    """A self-loop with reward 1: cut after one step it is worth 1 / (1 - 0.9), ended after one step it is worth 1."""
    table = np.tile([1.0, 0.0], (2, 1))
    for terminal, value in ((False, 10.0), (True, 1.0)):
        found = five_roads(scripted([[(0, 0, 1.0)]], 2, 2, terminal=terminal), table, 0.9)
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
    with pytest.raises(InputError, match="below 1|in \\[0, 1\\)"):
        model.density_ratio(policy, 1.0)
    assert model.rollout_value(policy, 1.0, horizon=7) == 7.0


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


def test_bootstrap_refits_equal_refits_to_the_resampled_episodes() -> None:
    mdp = random_mdp(seed=2)
    episodes = episodes_of(mdp.sample_transitions(mdp.uniform(), 60, 20), mdp.n_states, mdp.n_actions)
    table = mdp.behavior_policy(0.5)
    estimate = lstd(Table(table), episodes, discount=0.9, replicates=4, seed=11)
    times = multiplicities(60, 4, 11).long()
    assert times.sum(-1).tolist() == [60] * 5 and bool((times[1:] == 0).any())
    for i in range(4):
        resampled = episodes.select(torch.repeat_interleave(torch.arange(60), times[1 + i]))
        assert float(estimate.replicates[i]) == pytest.approx(
            lstd(Table(table), resampled, discount=0.9).value, abs=1e-10
        )
    assert estimate.standard_error() == pytest.approx(float(estimate.replicates.std()))


def test_bootstrap_spread_is_the_sampling_error() -> None:
    """Over 200 fresh datasets of 80 episodes the estimates spread as the refits to one of them do, within a third."""
    mdp = random_mdp(seed=4)
    policy = Table(mdp.behavior_policy(0.4))

    def data(seed: int):
        return episodes_of(mdp.sample_transitions(mdp.uniform(), 80, 15, seed=seed), mdp.n_states, mdp.n_actions)

    fresh = np.std([lstd(policy, data(100 + i), discount=0.9).value for i in range(200)])
    refits = np.mean([lstd(policy, data(i), discount=0.9, replicates=50).standard_error() for i in range(4)])
    assert 0.67 <= refits / fresh <= 1.5


def test_quadratic_features_hold_a_linear_quadratic_value_exactly() -> None:
    """Deterministic linear dynamics, quadratic reward, linear policy: Q is a quadratic, found to rounding."""
    gen = torch.Generator().manual_seed(0)
    a = torch.tensor([[0.9, 0.2], [-0.1, 0.8]], dtype=torch.float64)
    b = torch.tensor([[0.3], [0.5]], dtype=torch.float64)
    gain = torch.tensor([[-0.05, -0.08]], dtype=torch.float64)
    s = torch.randn(400, 2, generator=gen, dtype=torch.float64)
    u = 2.0 * torch.rand(400, 1, generator=gen, dtype=torch.float64) - 1.0
    s, u = s.float().double(), u.float().double()
    following = (s @ a.T + u @ b.T).float().double()
    reward = -s.square().sum(-1) - 0.5 * u.square().sum(-1)
    from gymnasium import spaces

    episodes = from_arrays(
        {
            "observations": s.float().numpy(),
            "actions": u.float().numpy(),
            "rewards": reward.numpy(),
            "terminated": np.zeros(400, bool),
            "truncated": np.ones(400, bool),
            "next_observations": following.float().numpy(),
            "observation_space": spaces.Box(-np.inf, np.inf, (2,), np.float32),
            "action_space": spaces.Box(-1.0, 1.0, (1,), np.float32),
        }
    )
    estimate = lstd(Linear(gain), episodes, discount=0.9, features=quadratic_features(episodes))
    closed = a + b @ gain
    # P = Q + K' R K + 0.9 closed' P closed, V(s) = -s' P s
    cost = torch.eye(2, dtype=torch.float64) + 0.5 * gain.T @ gain
    system = torch.eye(4, dtype=torch.float64) - 0.9 * torch.kron(closed.T.contiguous(), closed.T.contiguous())
    p = torch.linalg.solve(system, cost.flatten()).view(2, 2)
    want = -torch.einsum("bi,ij,bj->b", s, p, s)
    # rewards and next observations are stored in float32
    torch.testing.assert_close(estimate.v(s.float()), want, rtol=1e-5, atol=1e-5)


def test_refusals() -> None:
    episodes = scripted([[(0, 0, 1.0)]], 2, 2)
    policy = Table(np.tile([0.5, 0.5], (2, 1)))
    with pytest.raises(InputError, match="discount must be in"):
        lstd(policy, episodes, discount=1.1)
    with pytest.raises(InputError, match="continuous actions, but those of arrays are discrete"):
        lstd(Linear([[0.1, 0.1]]), episodes, discount=0.9)
