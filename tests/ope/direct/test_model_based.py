"""Rollouts in models: rewards at the end count, what follows does not, and closed forms are reached."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.dynamics.ensemble import Step, fit_dynamics
from lightning_offrl.errors import InputError
from lightning_offrl.ope.direct.lstd import lstd
from lightning_offrl.ope.direct.model_based import model_rollouts
from tests.ope.doubles import Linear, Table, episodes_of, random_mdp, scripted
from tests.ope.linear_quadratic import ACTION_COST, BEHAVIOR, BOX, DISCOUNT, NOISE, STATE_COST, TARGET, A, B


@dataclass
class TrueSystem:
    """The linear-quadratic system itself as a model of one member."""

    noise: float = NOISE

    def step_each(self, observation, action, generator) -> Step:
        s, a = observation.double(), action.double() * BOX
        cost = torch.einsum("mbi,ij,mbj->mb", s, torch.as_tensor(STATE_COST), s)
        cost = cost + torch.einsum("mbi,ij,mbj->mb", a, torch.as_tensor(ACTION_COST), a)
        following = s @ torch.as_tensor(A).T + a @ torch.as_tensor(B).T
        following = following + self.noise * torch.randn(s.shape, generator=generator, dtype=s.dtype)
        never = torch.zeros(cost.shape, dtype=torch.bool)
        return Step(following.float(), -cost, never, never)


@dataclass
class Countdown:
    """The number falls by one a step, reward 1 a step and 10 on the step to 0, which ends the episode."""

    def step_each(self, observation, action, generator) -> Step:
        following = observation - 1.0
        ended = following[..., 0] <= 0.5
        reward = torch.where(ended, 10.0, 1.0)
        return Step(following, reward, ended, torch.zeros_like(ended))


def truth_at(episodes) -> float:
    first = episodes.data["observation"][episodes.start].double().numpy()
    p = TARGET.lyapunov()
    return TARGET.value() + np.trace(p) - np.einsum("bi,ij,bj->b", first, p, first).mean()


def test_the_true_system_gives_the_true_value() -> None:
    """Within 4 standard errors of 20 x 100 rollouts; the cut tail is 1/1000 of the weight."""
    episodes = BEHAVIOR.episodes(100, 2, seed=0)
    found = model_rollouts(TARGET.policy(), episodes, discount=DISCOUNT, model=TrueSystem(), rollouts=20)
    repeats = [
        model_rollouts(TARGET.policy(), episodes, discount=DISCOUNT, model=TrueSystem(), seed=s).value
        for s in range(1, 9)
    ]
    error = np.std(repeats, ddof=1) / np.sqrt(20)
    assert found.diagnostics["steps"] == np.ceil(np.log(1e-3) / np.log(DISCOUNT))
    assert found.value == pytest.approx(truth_at(episodes), abs=4 * error + 1e-3 * abs(TARGET.value()))
    assert found.replicates is None and not found.flags


def test_without_noise_it_is_the_sum_by_hand() -> None:
    episodes = BEHAVIOR.episodes(5, 2, seed=0)
    policy = Linear(TARGET.policy().gain)
    found = model_rollouts(policy, episodes, discount=0.9, horizon=30, model=TrueSystem(0.0))
    closed = A + B @ TARGET.gain
    cost = STATE_COST + TARGET.gain.T @ ACTION_COST @ TARGET.gain
    want = []
    for s in episodes.data["observation"][episodes.start].double().numpy():
        total = 0.0
        for t in range(30):
            total -= 0.9**t * s @ cost @ s
            s = closed @ s
        want.append(total)
    np.testing.assert_allclose(found.per_initial_state.numpy(), want, rtol=1e-4)
    np.testing.assert_allclose(found.v(episodes.data["observation"][episodes.start]).numpy(), want, rtol=1e-4)
    # Q of the policy's own action is V
    own = policy.sample(episodes.data["observation"], 1, torch.Generator())[0].float()
    data = episodes.data.clone()
    data["action"] = own
    same = found.q(type(episodes)(data, episodes.start, episodes.length, episodes.spec))
    np.testing.assert_allclose(same[episodes.start].numpy(), want, rtol=1e-4)


def test_the_reward_of_the_last_step_counts_and_none_after_it() -> None:
    """From 3: 1 + 0.9 + 0.81 * 10; from 1: 10 at once."""
    import gymnasium

    observation = np.array([[3.0], [1.0]], np.float32)
    episodes = from_arrays(
        {
            "observations": observation,
            "actions": np.zeros((2, 1), np.float32),
            "rewards": np.zeros(2),
            "terminated": np.ones(2, bool),
            "truncated": np.zeros(2, bool),
            "observation_space": gymnasium.spaces.Box(-9, 9, (1,), np.float32),
            "action_space": gymnasium.spaces.Box(-1, 1, (1,), np.float32),
        }
    )
    found = model_rollouts(Linear([[0.1]]), episodes, discount=0.9, model=Countdown())
    assert found.per_initial_state.tolist() == pytest.approx([1.0 + 0.9 + 8.1, 10.0])
    assert found.diagnostics["alive_at_end"] == 0.0
    short = model_rollouts(Linear([[0.1]]), episodes, discount=1.0, model=Countdown(), horizon=2)
    assert short.per_initial_state.tolist() == [2.0, 10.0] and short.diagnostics["alive_at_end"] == 0.5
    assert "above the largest discounted return" in short.flags[0]  # the data's rewards were all 0


@pytest.mark.slow
def test_a_fitted_ensemble_on_the_linear_quadratic_system() -> None:
    """Within 10 % of the closed form; refits are of resampled episodes, one per member."""
    episodes = BEHAVIOR.episodes(200, 50, seed=1)
    model = fit_dynamics(episodes, members=5, updates=4000, hidden=(64, 64))
    found = model_rollouts(TARGET.policy(), episodes, discount=DISCOUNT, model=model, rollouts=4)
    assert found.value == pytest.approx(truth_at(episodes), rel=0.1)
    assert found.replicates.shape == (5,) and found.counts.shape == (5, 200)
    assert torch.equal(found.counts[2], torch.bincount(model.resampled[2], minlength=200).double())
    assert found.diagnostics["clipped"] < 0.01 and found.diagnostics["model_explained"] > 0.5


@pytest.mark.parametrize("horizon", [None, 7])
def test_tabular_data_need_no_network(horizon: int | None) -> None:
    """The same number as LSTD, without sampling; with a horizon, that of the process cut there."""
    mdp = random_mdp(seed=6)
    table = mdp.behavior_policy(0.5)
    steps = mdp.sample_transitions(mdp.uniform(), 40, 12)
    episodes = episodes_of(steps, mdp.n_states, mdp.n_actions)
    found = model_rollouts(Table(table), episodes, discount=0.9, horizon=horizon, replicates=3, seed=4)
    linear = lstd(Table(table), episodes, discount=0.9, replicates=3, seed=4)
    if horizon is None:
        assert found.value == pytest.approx(linear.value, abs=1e-10)
        torch.testing.assert_close(found.replicates, linear.replicates, atol=1e-10, rtol=0.0)
        torch.testing.assert_close(found.q(episodes), linear.q(episodes), atol=1e-10, rtol=0.0)
    assert torch.equal(found.counts, linear.counts)
    assert float(found.per_initial_state.mean()) == pytest.approx(found.value, abs=1e-12)
    if horizon is not None:
        many = episodes_of(mdp.sample_transitions(mdp.uniform(), 4000, 12), mdp.n_states, mdp.n_actions)
        value, _ = mdp.finite_horizon_value(table, 7, 0.9)
        near = model_rollouts(Table(table), many, discount=0.9, horizon=7, replicates=200)
        assert near.value == pytest.approx(float(mdp.start @ value[7]), abs=4 * near.standard_error())


def test_starts_and_refusals() -> None:
    episodes = BEHAVIOR.episodes(30, 2, seed=0)
    some = model_rollouts(TARGET.policy(), episodes, discount=0.5, model=TrueSystem(), starts=7)
    assert len(some.per_initial_state) == 7 and len(set(some.episodes.tolist())) == 7
    with pytest.raises(InputError, match="needs a horizon"):
        model_rollouts(TARGET.policy(), episodes, discount=1.0, model=TrueSystem())
    with pytest.raises(InputError, match="imagined steps; take q and v from fqe"):
        found = model_rollouts(TARGET.policy(), episodes, discount=0.99, model=TrueSystem(), starts=2)
        found.v(torch.zeros(200_000, 2))
    with pytest.raises(InputError, match="discrete actions, but those"):
        model_rollouts(Table(np.ones((2, 2)) / 2), episodes, discount=0.9, model=TrueSystem())
    endless = scripted([[(0, 0, 1.0)]], 2, 2, terminal=False)
    with pytest.raises(InputError, match="never ends from state 0"):
        model_rollouts(Table(np.tile([1.0, 0.0], (2, 1))), endless, discount=1.0)
