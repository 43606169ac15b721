"""Estimated behavior policies: densities that integrate to one, likelihoods against known ones, and `ris`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.data.split import split_by_episode
from lightning_offrl.networks.mixtures import BoxMixture, TruncatedGaussian
from lightning_offrl.ope.policies.behavior import BehaviorModel, fit_behavior
from lightning_offrl.ope.policies.target import TargetPolicy, TruncatedNormal
from lightning_offrl.ope.weighting.importance import importance_sampling
from lightning_offrl.ope.weighting.trajectories import trajectories
from tests.ope.doubles import Table, episodes_of, random_mdp, scripted


def one_step(observation, action, discrete: int = 0) -> Episodes:
    """Contextual episodes of one step."""
    n, size = observation.shape
    space = spaces.Discrete(discrete) if discrete else spaces.Box(-1.0, 1.0, action.shape[1:], np.float32)
    return from_arrays(
        {
            "observations": observation.numpy().astype(np.float32),
            "actions": action.numpy().astype(np.int64 if discrete else np.float32),
            "rewards": np.zeros(n),
            "terminated": np.ones(n, bool),
            "truncated": np.zeros(n, bool),
            "observation_space": spaces.Box(-np.inf, np.inf, (size,), np.float32),
            "action_space": space,
        }
    )


@pytest.mark.parametrize("squashed", [True, False])
def test_mixtures_integrate_to_one(squashed: bool) -> None:
    """By the midpoint rule on a fine grid of the square, with means outside the box and narrow components."""
    mean = torch.tensor([[[0.3, -0.5], [1.4, 0.2], [-0.9, -2.0]]], dtype=torch.float64)
    log_std = torch.tensor([[[-1.0, -0.3], [-0.5, 0.4], [-1.5, -0.2]]], dtype=torch.float64)
    mixture = BoxMixture(torch.tensor([[0.1, 1.0, -0.5]], dtype=torch.float64), mean, log_std, squashed)
    side = (torch.arange(600, dtype=torch.float64) + 0.5) / 300.0 - 1.0
    grid = torch.cartesian_prod(side, side)
    mass = mixture.log_prob(grid).exp().mean() * 4.0
    assert float(mass) == pytest.approx(1.0, abs=2e-3)


def test_truncated_brick_equals_the_policys_density_and_has_finite_gradients() -> None:
    mean = torch.linspace(-3.0, 3.0, 13, dtype=torch.float64).unsqueeze(-1).requires_grad_()
    log_std = torch.full_like(mean, -2.0).requires_grad_()
    action = torch.linspace(-1.0, 1.0, 13, dtype=torch.float64).unsqueeze(-1)
    found = TruncatedGaussian(mean, log_std).log_prob(action)
    want = TruncatedNormal(lambda _: (mean.detach(), log_std.detach().exp())).log_prob(None, action)
    torch.testing.assert_close(found.detach(), want, rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradcheck(lambda m, s: TruncatedGaussian(m, s).log_prob(action), (mean, log_std), eps=1e-6)


def test_counts_are_the_frequencies_of_all_episodes() -> None:
    mdp = random_mdp(seed=1)
    steps = mdp.sample_transitions(mdp.uniform(), 40, 10)
    model = fit_behavior(episodes_of(steps, mdp.n_states, mdp.n_actions), seed=3)
    assert model.kind == "counts" and isinstance(model, TargetPolicy)
    probabilities = model.probabilities(torch.eye(mdp.n_states))
    for s in range(mdp.n_states - 1):
        here = steps["action"][steps["state"] == s]
        want = np.bincount(here, minlength=mdp.n_actions) / len(here)
        np.testing.assert_allclose(probabilities[s].numpy(), want, atol=1e-12)
    assert probabilities[-1].tolist() == [1 / 3] * 3 and "1 states without data" in model.notes[1]
    assert model.held_out_nll == pytest.approx(np.log(3), abs=0.15)  # the entropy of uniform actions


def test_ris_has_no_error_on_a_deterministic_bandit() -> None:
    """Hanna et al., section 4: with counts and every action seen, each sample gives the exact value."""
    rng = np.random.default_rng(0)
    rewards, target = np.array([1.0, -2.0, 0.5]), np.array([0.2, 0.1, 0.7])
    for _ in range(5):
        actions = np.concatenate([[0, 1, 2], rng.integers(0, 3, 12)])
        episodes = scripted([[(0, int(a), float(rewards[a]))] for a in actions], 2, 3)
        policy = Table(np.tile(target, (2, 1)))
        padded = trajectories(episodes, policy, behavior=fit_behavior(episodes), discount=1.0)
        assert importance_sampling(padded).value == pytest.approx(float(rewards @ target), abs=1e-12)


def test_a_categorical_network_finds_the_probabilities() -> None:
    gen = torch.Generator().manual_seed(0)
    observation = torch.randn(6000, 2, generator=gen)
    truth = torch.softmax(torch.stack([observation[:, 0], -observation[:, 1], torch.zeros(6000)], -1), -1)
    action = torch.multinomial(truth, 1, generator=gen).squeeze(-1)
    model = fit_behavior(one_step(observation, action, discrete=3), hidden=(32, 32), updates=1000)
    assert model.kind == "categorical" and model.discrete
    entropy = -(truth * truth.log()).sum(-1).mean()
    assert model.held_out_nll == pytest.approx(float(entropy), abs=0.05)
    assert (model.probabilities(observation) - truth).abs().mean() < 0.03
    sample = model.sample(observation[:1], 20_000, gen)
    frequency = torch.bincount(sample.squeeze(-1), minlength=3) / 20_000
    torch.testing.assert_close(frequency.double(), model.probabilities(observation[:1])[0], atol=0.015, rtol=0.0)


def test_two_policies_at_once_need_two_components() -> None:
    """Actions near +.5 or -.5 by a coin: one component cannot, two reach the likelihood of the truth."""
    gen = torch.Generator().manual_seed(1)
    observation = torch.randn(6000, 2, generator=gen)
    sign = torch.where(torch.rand(6000, 1, generator=gen) < 0.5, 1.0, -1.0)
    action = (0.5 * sign + 0.05 * torch.randn(6000, 1, generator=gen)).clamp(-1.0, 1.0)
    episodes = one_step(observation, action)
    one = fit_behavior(episodes, hidden=(32, 32), updates=600, components=1)
    two = fit_behavior(episodes, hidden=(32, 32), updates=600, components=2)
    held = episodes.data["action"][split_by_episode(episodes, 0.1, 0)[1]]  # one step an episode
    normal = torch.distributions.Normal(0.5, 0.05)
    truth = -float(torch.logaddexp(normal.log_prob(held), normal.log_prob(-held)).mean()) + np.log(2)
    assert two.held_out_nll == pytest.approx(truth, abs=0.02)
    assert one.held_out_nll > truth + 0.8
    drawn = two.sample(observation[:2], 4000, gen)
    assert drawn.shape == (4000, 2, 1)
    assert float(drawn.abs().mean()) == pytest.approx(0.5, abs=0.02)
    assert float((drawn > 0).double().mean()) == pytest.approx(0.5, abs=0.1)


def test_clipped_actions_choose_truncated_normals() -> None:
    gen = torch.Generator().manual_seed(2)
    observation = torch.randn(3000, 2, generator=gen)
    action = (0.7 + 0.3 * torch.randn(3000, 1, generator=gen)).clamp(-1.0, 1.0)
    model = fit_behavior(one_step(observation, action), hidden=(16,), updates=100)
    assert model.kind == "truncated" and np.isfinite(model.held_out_nll)
    assert torch.isfinite(model.log_prob(observation, action)).all()
    drawn = model.sample(observation[:5], 100, gen)
    assert float(drawn.abs().max()) <= 1.0


def test_the_density_is_that_of_the_samples() -> None:
    """Its log_prob, by the midpoint rule, gives the mean of its own samples."""
    gen = torch.Generator().manual_seed(3)
    observation = torch.randn(2000, 2, generator=gen)
    action = torch.tanh(observation[:, :1] + 0.4 * torch.randn(2000, 1, generator=gen))
    model = fit_behavior(one_step(observation, action), hidden=(16, 16), updates=200)
    here = observation[:1]
    side = ((torch.arange(4000) + 0.5) / 2000.0 - 1.0).unsqueeze(-1)
    density = model.log_prob(here.expand(4000, 2), side).exp() / 2000.0
    assert float(density.sum()) == pytest.approx(1.0, abs=1e-3)
    mean = float(model.sample(here, 40_000, gen).mean())
    assert mean == pytest.approx(float((density * side.squeeze(-1)).sum()), abs=0.01)


def test_the_same_seed_gives_the_same_model_and_leaves_the_random_state_alone() -> None:
    gen = torch.Generator().manual_seed(4)
    episodes = one_step(torch.randn(200, 2, generator=gen), torch.rand(200, 1, generator=gen))
    state = torch.get_rng_state()
    models: list[BehaviorModel] = [fit_behavior(episodes, hidden=(8,), updates=40, seed=s) for s in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    logs = [m.log_prob(episodes.data["observation"], episodes.data["action"]) for m in models]
    assert torch.equal(logs[0], logs[1]) and not torch.equal(logs[0], logs[2])
