"""The dynamics ensemble against systems whose step is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.dynamics.ensemble import DynamicsEnsemble, Prediction, fit_dynamics
from lightning_offrl.errors import InputError
from tests.ope.linear_quadratic import ACTION_COST, BEHAVIOR, BOX, NOISE, STATE_COST, A, B


@pytest.fixture(scope="module")
def fitted() -> tuple[DynamicsEnsemble, Episodes]:
    episodes = BEHAVIOR.episodes(100, 40, seed=0)
    return fit_dynamics(episodes, members=3, updates=1500, hidden=(32, 32), learning_rate=3e-3), episodes


def test_mean_and_noise_of_a_linear_system(fitted) -> None:
    """``s' = A s + B a + 0.1 noise``: means within 0.05, deviations within 15 % of 0.1; the reward is known exactly."""
    model, _ = fitted
    other = BEHAVIOR.episodes(20, 30, seed=9).data
    s, a = other["observation"].double(), other["action"].double() * BOX
    want = s @ torch.as_tensor(A).T + a @ torch.as_tensor(B).T
    said = model.predict(other["observation"], other["action"])
    assert said.mean.shape == (3, 600, 3) and said.end.shape == (3, 600)
    assert float((said.mean.mean(0)[:, :2] - want).square().mean().sqrt()) < 0.05
    np.testing.assert_allclose(said.std[..., :2].mean((0, 1)).numpy(), NOISE, rtol=0.15)
    reward = -torch.einsum("bi,ij,bj->b", s, torch.as_tensor(STATE_COST), s)
    reward = reward - torch.einsum("bi,ij,bj->b", a, torch.as_tensor(ACTION_COST), a)
    assert float((said.mean.mean(0)[:, 2] - reward).square().mean().sqrt()) < 0.1 * float(reward.std())
    assert float(said.end.max()) == 0.0  # nothing ever ended


def test_what_it_measured_is_of_held_out_steps(fitted) -> None:
    """The best possible share explained is 1 - noise variance / variance of the change."""
    model, episodes = fitted
    data = episodes.data
    change = (data["next", "observation"] - data["observation"]).double()
    ceiling = 1.0 - NOISE**2 / change.var(0)
    assert model.measured["worst"] <= float(ceiling.min()) + 0.05
    assert model.measured["explained"] > (float(ceiling.sum()) + 1.0) / 3 - 0.05
    assert 0.0 < model.measured["disagreement"] < 0.5 and model.measured["end_cross_entropy"] < 0.01


def test_members_disagree_where_there_is_no_data(fitted) -> None:
    model, episodes = fitted
    near = episodes.data["observation"][:200]
    action = torch.zeros(200, 2)
    inside = model.predict(near, action).disagreement()
    outside = model.predict(near * 6.0, action).disagreement()
    assert float(outside.mean()) > 4.0 * float(inside.mean())


def test_steps_are_draws_from_the_prediction_within_the_datas_range(fitted) -> None:
    model, episodes = fitted
    generator = torch.Generator().manual_seed(0)
    observation = episodes.data["observation"][:1].expand(3, 20_000, 2)
    action = episodes.data["action"][:1].expand(3, 20_000, 2)
    said = model.predict(observation[0, :1], action[0, :1])
    out = model.step_each(observation, action, generator)
    torch.testing.assert_close(out.next_observation.mean(1), said.mean[:, 0, :2], atol=0.01, rtol=0.0)
    torch.testing.assert_close(out.next_observation.std(1), said.std[:, 0, :2], atol=0.01, rtol=0.0)
    assert not bool(out.terminated.any()) and not bool(out.clipped.any())
    far, _ = model.step(torch.full((50, 2), 30.0), torch.zeros(50, 2), generator)
    highest = torch.cat([episodes.data["observation"], episodes.data["next", "observation"]]).amax(0)
    assert bool((far.next_observation <= highest).all()) and bool(far.clipped.all())
    one, all_said = model.step(observation[0, :3000], action[0, :3000], generator)
    assert one.reward.shape == (3000,) and all_said.mean.shape == (3, 3000, 3)


def test_stacked_members_are_single_models() -> None:
    """Member i alone, with its own seed, is the same network to float32 rounding."""
    episodes = BEHAVIOR.episodes(12, 10, seed=1)
    common = {"updates": 30, "hidden": (8,), "bootstrap": False}
    together = fit_dynamics(episodes, members=2, **common)
    assert together.resampled is None
    inputs = episodes.data["observation"][:10], episodes.data["action"][:10]
    alone = fit_dynamics(episodes, members=1, **common).predict(*inputs)
    torch.testing.assert_close(together.predict(*inputs).mean[:1], alone.mean, atol=1e-5, rtol=1e-5)
    resampled = fit_dynamics(episodes, members=2, updates=2, hidden=(8,))
    assert resampled.resampled.shape == (2, 12)


def test_the_end_is_learned_and_a_known_rule_takes_its_place() -> None:
    """One number walks; the episode ends where it passes 1. Discrete actions: down and up."""
    rng = np.random.default_rng(0)
    x, action = rng.uniform(-1.0, 1.0, 4000), rng.integers(0, 2, 4000)
    following = x + np.where(action == 1, 0.3, -0.3)
    ended = following > 1.0
    episodes = from_arrays(
        {
            "observations": x[:, None].astype(np.float32),
            "actions": action,
            "rewards": following,
            "terminated": ended,
            "truncated": ~ended,
            "next_observations": following[:, None].astype(np.float32),
            "observation_space": spaces.Box(-np.inf, np.inf, (1,), np.float32),
            "action_space": spaces.Discrete(2),
        }
    )
    model = fit_dynamics(episodes, members=2, updates=800, hidden=(32,), learning_rate=1e-2)
    at = torch.tensor([[0.5], [0.9], [0.9], [-0.9]])
    end = model.predict(at, torch.tensor([1, 1, 0, 1])).end.mean(0)
    assert end[1] > 0.95 and float(end[[0, 2, 3]].max()) < 0.05
    model.termination = lambda observation, action, following: following[..., 0] < 0.0
    out = model.step_each(at.expand(2, 4, 1), torch.tensor([[0, 0, 0, 0]] * 2), torch.Generator().manual_seed(0))
    assert out.terminated.tolist() == [[False, False, False, True]] * 2


def test_a_checkpoint_holds_scales_and_range(fitted) -> None:
    model, episodes = fitted
    other = DynamicsEnsemble(episodes.spec, hidden=(32, 32), seeds=3, seed=77)
    other.load_state_dict(model.state_dict())
    inputs = episodes.data["observation"][:5], episodes.data["action"][:5]
    for one, two in zip(model.predict(*inputs), other.predict(*inputs), strict=True):
        assert torch.equal(one, two)


def test_disagreement_by_hand() -> None:
    mean = torch.tensor([[[0.0, 0.0, 9.0]], [[2.0, 4.0, 0.0]]])
    std = torch.tensor([[[3.0, 4.0, 0.0]], [[0.0, 0.0, 1.0]]])
    said = Prediction(mean, std, torch.zeros(2, 1), torch.tensor([1.0, 2.0, 0.5]))
    assert said.disagreement().item() == pytest.approx(1.0)  # deviations 1 and 2 / 2


def test_refusal() -> None:
    episodes = BEHAVIOR.episodes(3, 5, seed=1)
    with pytest.raises(InputError, match="one vector as observation"):
        DynamicsEnsemble({**episodes.spec, "observation_shape": {"a": [2]}})
