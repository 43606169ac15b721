"""The VAE and the perturbation: bounds, clipping, and which row belongs to which state."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_offrl.networks.critics import Critics
from lightning_offrl.networks.encoders import Encoder
from lightning_offrl.networks.generative import VAE, Perturbation, best_of, fixed_noise

SPEC = {
    "observation_shape": [3],
    "action_kind": "box",
    "action_size": 2,
    "action_low": [-1.0, -1.0],
    "action_high": [1.0, 1.0],
}


@pytest.fixture
def vae():
    return VAE(Encoder(SPEC), 2, (16, 16))


def test_shape_of_the_latent(vae):
    """Two latents per action dimension, as in the authors' code."""
    assert vae.latent == 4 and vae.sample(torch.randn(5, 3), torch.randn(5, 7, 4)).shape == (5, 7, 2)


def test_samples_are_squashed_and_unsquashed_ones_are_what_tanh_takes(vae):
    """Both ways of decoding differ by tanh exactly; one public library has had the flag inverted since 2023."""
    vae.decoder.linear[-1].weight.data.mul_(50)
    x, noise = torch.randn(5, 3), torch.randn(5, 7, 4)
    actions, raw = vae.sample(x, noise), vae.sample(x, noise, squash=False)
    assert actions.abs().max() <= 1.0 < raw.abs().max()
    assert_close(actions, torch.tanh(raw))


def test_the_latent_is_clipped_when_sampling_only(vae):
    """Noise of 9 is that of 0.5 in `sample`; in `losses` it is not clipped, where it would bias what the VAE learns."""
    x, a = torch.randn(5, 3), torch.rand(5, 2)
    assert_close(vae.sample(x, torch.full((5, 2, 4), 9.0)), vae.sample(x, torch.full((5, 2, 4), 0.5)))
    assert not torch.equal(vae.losses(x, a, torch.full((5, 4), 9.0))[0], vae.losses(x, a, torch.full((5, 4), 0.5))[0])


def test_losses_by_hand(vae):
    """Zero weights: mean 0.3, log std clamped from -9 to -4; reconstruction tanh(b); means over dimensions."""
    with torch.no_grad():
        for p in vae.parameters():
            p.zero_()
        vae.posterior.linear[-1].bias.copy_(torch.tensor([0.3] * 4 + [-9.0] * 4))
        vae.decoder.linear[-1].bias.copy_(torch.tensor([0.5, -0.5]))
    action = torch.tensor([[0.2, 0.4]])
    reconstruction, kl = vae.losses(torch.zeros(1, 3), action, torch.zeros(1, 4))
    half = torch.tanh(torch.tensor(0.5))
    assert_close(reconstruction, ((half - 0.2) ** 2 + (-half - 0.4) ** 2).reshape(1) / 2)
    assert_close(kl, torch.tensor([-0.5 * (1 - 8 - 0.09 - torch.tensor(-8.0).exp().item())]))


def test_each_state_with_its_own_samples(vae):
    """Sample m of state b is what that state alone would decode: `repeat`, in turns, mixes states without an error."""
    x, noise = torch.randn(4, 3), torch.randn(4, 6, 4)
    policy = Perturbation(Encoder(SPEC), 2, (8,), limit=0.3)
    actions = vae.sample(x, noise)
    corrected = policy(x, actions)
    for b in range(4):
        for m in range(6):
            alone = vae.sample(x[b : b + 1], noise[b : b + 1, m : m + 1])
            assert_close(actions[b, m], alone[0, 0])
            assert_close(corrected[b, m], policy(x[b : b + 1], alone)[0, 0])


def test_critics_value_each_state_with_its_own_samples():
    """Q = s + 10 a by hand: states 1, 2 with actions (0.1, 0.2), (0.3, 0.4) give (2, 3), (5, 6); in turns they mix."""
    spec = {**SPEC, "observation_shape": [1], "action_size": 1, "action_low": [-1.0], "action_high": [1.0]}
    critics = Critics(Encoder(spec), 1, (), count=1)
    with torch.no_grad():
        critics.mlp.linear[0].weight.copy_(torch.tensor([[[1.0], [10.0]]]))
        critics.mlp.linear[0].bias.zero_()
    actions = torch.tensor([[[0.1], [0.2]], [[0.3], [0.4]]])
    assert_close(critics.of_samples(torch.tensor([[1.0], [2.0]]), actions), torch.tensor([[[2.0, 3.0], [5.0, 6.0]]]))


def test_noise_shared_by_all_observations(vae):
    x, noise = torch.randn(4, 3), torch.randn(6, 4)
    assert_close(vae.sample(x, noise), vae.sample(x, noise.expand(4, 6, 4)))
    seeds = x.expand(2, 4, 3)
    assert vae.sample(seeds, noise).shape == (2, 4, 6, 2)


def test_perturbation_stays_within_its_limit_and_the_box():
    policy = Perturbation(Encoder(SPEC), 2, (8,), limit=0.05)
    nn.init.constant_(policy.mlp.linear[-1].bias, 100.0)
    got = policy(torch.randn(3, 3), torch.tensor([0.0, 0.99]).expand(3, 4, 2))
    assert_close(got, torch.tensor([0.05, 1.0]).expand(3, 4, 2))


def test_best_of_by_hand():
    actions = torch.arange(12.0).reshape(2, 3, 2)
    values = torch.tensor([[0.0, 2.0, 1.0], [5.0, 4.0, 3.0]])
    assert best_of(actions, values).tolist() == [[2.0, 3.0], [6.0, 7.0]]


def test_fixed_noise_is_fixed_and_normal():
    one = fixed_noise(2000, 3, torch.zeros(1))
    assert torch.equal(one, fixed_noise(2000, 3, torch.zeros(1)))
    assert one.mean().abs() < 0.05 and (one.std() - 1).abs() < 0.05
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fixed_noise(7, 7, torch.zeros(1))
    assert torch.equal(before, torch.get_rng_state())
