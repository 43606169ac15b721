"""BCQ against the authors' update written out in plain torch, and its limits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_offrl.algorithms.generative.bcq import BCQ
from lightning_offrl.algorithms.generative.iql_bcq import IQLBCQ
from lightning_offrl.errors import InputError
from lightning_offrl.networks.generative import fixed_noise
from lightning_offrl.training.target_update import SoftTargetUpdate
from tests.algorithms.by_hand import SPEC, as_ours, batches, descend, member, mlp, q_of, weights

SMALL = {"hidden": (8, 8), "vae_hidden": (8, 8)}


def noises_of(page, data, *, target=(10, 4), policy=(1, 4)):
    """The numbers that each update draws: VAE, next samples, the policy's."""
    out = []
    for k, b in enumerate(data):
        page.draws.begin(k)
        a = b["action"]
        rows = len(a)
        draw = [page.draws.normal((rows, 4), a), page.draws.normal((rows, *target), a, batch_dim=-3)]
        out.append([*draw, page.draws.normal((rows, *policy), a, batch_dim=-3)])
    return out


def authors(page: BCQ, data, noises, gamma=0.99, polyak=0.005, rate=1e-3, phi=0.05, lam=0.75):
    """Rows of repeated states as in the authors' train(); three optimizers in the order VAE, critics, perturbation."""
    posterior, decoder = weights(page.vae.posterior), weights(page.vae.decoder)
    q, q_target = weights(page.q), weights(page.q_target)
    policy, policy_target = weights(page.policy), weights(page.policy_target)
    adam_vae = torch.optim.Adam([*posterior, *decoder], lr=rate)
    adam_q, adam_policy = torch.optim.Adam(q, lr=rate), torch.optim.Adam(policy, lr=rate)
    decode = lambda x, z: torch.tanh(mlp(decoder, torch.cat([x, z], 1)))  # noqa: E731
    perturb = lambda p, x, a: (a + phi * torch.tanh(mlp(p, torch.cat([x, a], 1)))).clamp(-1, 1)  # noqa: E731
    for b, (e, z_next, z) in zip(data, noises, strict=True):
        obs, action, after = b["observation"], b["action"], b["next_observation"]
        out = mlp(posterior, torch.cat([obs, action], 1))
        mean, std = out[:, :4], out[:, 4:].clamp(-4, 15).exp()
        kl = -0.5 * (1 + std.pow(2).log() - mean.pow(2) - std.pow(2)).mean()
        descend(adam_vae, F.mse_loss(decode(obs, mean + std * e), action) + 0.5 * kl)
        with torch.no_grad():
            rows = torch.repeat_interleave(after, 10, 0)
            sampled = perturb(policy_target, rows, decode(rows, z_next.reshape(-1, 4).clamp(-0.5, 0.5)))
            q1, q2 = q_of(q_target, rows, sampled)
            mixed = lam * torch.min(q1, q2) + (1 - lam) * torch.max(q1, q2)
            y = b["reward"] + (~b["terminated"]).double() * gamma * mixed.reshape(len(after), -1).max(1)[0]
        descend(adam_q, sum(F.mse_loss(x, y) for x in q_of(q, obs, action)))
        mine = perturb(policy, obs, decode(obs, z[:, 0].clamp(-0.5, 0.5)).detach())
        descend(adam_policy, -mlp(member(q, 0), torch.cat([obs, mine], 1)).mean())
        with torch.no_grad():
            for t, s in zip([*q_target, *policy_target], [*q, *policy], strict=True):
                t.copy_(polyak * s + (1 - polyak) * t)
    return {
        "vae": [*posterior, *decoder],
        "q": q,
        "q_target": q_target,
        "policy": policy,
        "policy_target": policy_target,
    }


def test_ten_updates_equal_the_authors():
    """Order, current VAE, target perturbation, mixing before the maximum, repeat_interleave, Q_1."""
    page, data = BCQ(SPEC, **SMALL).double(), batches(10)
    with torch.no_grad():
        page.q.mlp.linear[-1].bias[1] -= 1.0  # the second critic is the smaller one: the policy must not follow it
    expected = authors(page, data, noises_of(page, data))
    page.after_update = [SoftTargetUpdate(0.005).on_update_end]
    for b in data:
        page.gradient_update(as_ours(b, 0.99))
    for name, wanted in expected.items():
        for got, want in zip(page.get_submodule(name).parameters(), wanted, strict=True):
            assert_close(got.detach(), want.detach(), rtol=1e-9, atol=1e-10)


def test_phi_0_picks_among_samples_of_the_vae():
    page, x = BCQ(SPEC, limit=0.0, **SMALL), torch.randn(40, 3)
    samples = page.vae.sample(x, fixed_noise(100, 4, x))
    distance = (samples - page.act(x).unsqueeze(1)).abs().amax(-1)
    assert (distance.amin(-1) < 1e-6).all()
    q1 = page.q.of_samples(x, samples)[0]
    assert torch.equal(q1.argmax(-1), distance.argmin(-1))


def test_acting_uses_the_first_critic_alone():
    page, x = BCQ(SPEC, **SMALL), torch.randn(40, 3)
    before = page.act(x)
    with torch.no_grad():
        for p in page.q.parameters():
            p[1] = p[0]
        for p in page.q.mlp.linear[-1].parameters():
            p[1] = -50.0 * p[0]  # as small as the first is large
    assert torch.equal(page.act(x), before)


@pytest.mark.parametrize("page", [BCQ, IQLBCQ])
def test_acting_is_a_function_of_the_observation(page):
    """Neither the call, nor the other rows, nor the global generator matters."""
    made, x = page(SPEC, **SMALL).double(), torch.randn(6, 3).double()
    first = made.act(x)
    torch.manual_seed(123)
    assert_close(made.act(x), first, rtol=0, atol=0)
    assert_close(torch.cat([made.act(row) for row in x.split(1)]), first)
    assert first.abs().max() <= 1.0


@pytest.mark.parametrize("page", [BCQ, IQLBCQ])
def test_the_vae_learns_two_modes(page):
    """Actions are +0.8 or -0.8: samples lie near both, where a squared error alone would answer 0."""
    made = page(
        SPEC,
        hidden=(16,),
        vae_hidden=(64,),
        learning_rate=3e-3,
        **({"vae_learning_rate": 3e-3} if page is IQLBCQ else {}),
    )
    g = torch.Generator().manual_seed(0)
    for b in batches(300, 64):
        sign = (torch.rand(64, 1, generator=g) < 0.5).double() * 2 - 1
        b["action"] = (0.8 * sign).expand(64, 2)
        made.gradient_update(as_ours({k: v.float() if v.is_floating_point() else v for k, v in b.items()}, 0.9))
    first = made.vae.sample(torch.randn(50, 3), torch.randn(50, 40, 4, generator=g))[..., 0]
    assert (first > 0.4).float().mean() > 0.1 and (first < -0.4).float().mean() > 0.1


def test_hybrid_takes_the_sample_with_the_largest_min_q():
    page, x = IQLBCQ(SPEC, **SMALL), torch.randn(40, 3)
    samples = page.vae.sample(x, fixed_noise(100, 4, x))
    low = torch.minimum(*page.q.of_samples(x, samples))
    assert_close(page.act(x), samples[torch.arange(40), low.argmax(-1)])


def test_hybrid_has_iqls_v_and_q():
    """Three updates leave V, Q and its target where IQL's page leaves them."""
    from lightning_offrl.algorithms.iql import IQL

    hybrid, iql = IQLBCQ(SPEC, **SMALL).double(), IQL(SPEC, hidden=(8, 8), policy_schedule="constant").double()
    for page in (hybrid, iql):
        page.after_update = [SoftTargetUpdate(0.005).on_update_end]
        for b in batches(3):
            page.gradient_update(as_ours(b, 0.99))
    for name in ("q", "q_target", "v"):
        for a, b in zip(hybrid.get_submodule(name).parameters(), iql.get_submodule(name).parameters(), strict=True):
            assert torch.equal(a, b)


def test_discrete_data_is_refused():
    with pytest.raises(InputError, match="BCQ learns from continuous"):
        BCQ({"observation_shape": [3], "action_kind": "discrete", "action_size": 4})
