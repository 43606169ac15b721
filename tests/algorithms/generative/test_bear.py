"""BEAR against its update written out in plain torch, its warm-up and its multiplier."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_offrl.algorithms.generative.bear import BEAR
from lightning_offrl.training.target_update import SoftTargetUpdate
from tests.algorithms.by_hand import SPEC, as_ours, batches, descend, mlp, q_of, single, weights

SMALL = {"hidden": (8, 8), "vae_hidden": (8, 8)}


def kernel_mean(x, y, sigma):
    return torch.exp(-(x[:, :, None] - y[:, None]).abs().sum(-1) / (2 * sigma)).mean((1, 2))


def authors(page: BEAR, data, noises, warm_up, sigma=20.0, epsilon=0.05, gamma=0.99, polyak=0.005):
    """VAE, Q, policy and multiplier at the same values, with rows of repeated states."""
    posterior, decoder = weights(page.vae.posterior), weights(page.vae.decoder)
    q, q_target = weights(page.q), weights(page.q_target)
    policy, policy_target = weights(page.policy), weights(page.policy_target)
    log_multiplier = torch.zeros((), dtype=torch.float64, requires_grad=True)
    adam_vae, adam_q = torch.optim.Adam([*posterior, *decoder], lr=3e-4), torch.optim.Adam(q, lr=3e-4)
    adam_policy, adam_multiplier = torch.optim.Adam(policy, lr=1e-4), torch.optim.Adam([log_multiplier], lr=1e-3)
    raw = lambda x, z: mlp(decoder, torch.cat([x, z], 1))  # noqa: E731

    def gaussian(parameters, x):
        mean, log_std = mlp(parameters, x).chunk(2, -1)
        return mean, log_std.clamp(-20, 2).exp()

    for it, (b, (e, n_next, z, n)) in enumerate(zip(data, noises, strict=True)):
        obs, action, after = b["observation"], b["action"], b["next_observation"]
        size = len(obs)
        out = mlp(posterior, torch.cat([obs, action], 1))
        mean, std = out[:, :4], out[:, 4:].clamp(-4, 15).exp()
        kl = -0.5 * (1 + std.pow(2).log() - mean.pow(2) - std.pow(2)).mean()
        descend(adam_vae, F.mse_loss(torch.tanh(raw(obs, mean + std * e)), action) + 0.5 * kl)
        with torch.no_grad():
            rows = torch.repeat_interleave(after, 10, 0)
            mean, std = gaussian(policy_target, rows)
            q1, q2 = q_of(q_target, rows, torch.tanh(mean + std * n_next.reshape(-1, 2)))
            best = (0.75 * torch.min(q1, q2) + 0.25 * torch.max(q1, q2)).reshape(size, 10).max(1)[0]
            y = b["reward"] + (~b["terminated"]).double() * gamma * best
        descend(adam_q, sum(F.mse_loss(x, y) for x in q_of(q, obs, action)))
        rows = torch.repeat_interleave(obs, 10, 0)
        theirs = raw(rows, z.reshape(-1, 4).clamp(-0.5, 0.5)).reshape(size, 10, 2).detach()
        mean, std = gaussian(policy, rows)
        own = (mean + std * n.reshape(-1, 2).clamp(-0.5, 0.5)).reshape(size, 10, 2)
        squared = (
            kernel_mean(own, own, sigma) + kernel_mean(theirs, theirs, sigma) - 2 * kernel_mean(own, theirs, sigma)
        )
        mmd = (squared + 1e-6).sqrt().mean()
        values = [x.reshape(size, 10).mean(1) for x in q_of(q, rows, torch.tanh(own).reshape(-1, 2))]
        loss = log_multiplier.exp().detach() * mmd
        if it >= warm_up:
            loss = loss - torch.min(*values).mean()
        dual = -log_multiplier.exp() * (mmd.detach() - epsilon)
        descend(adam_policy, loss)
        descend(adam_multiplier, dual)
        with torch.no_grad():
            log_multiplier.clamp_(-5, 10)
            for t, s in zip([*q_target, *policy_target], [*q, *policy], strict=True):
                t.copy_(polyak * s + (1 - polyak) * t)
    found = {"vae": [*posterior, *decoder], "q": q, "q_target": q_target, "policy": policy}
    return {**found, "policy_target": policy_target, "multiplier": [log_multiplier]}


def test_ten_updates_equal_the_authors():
    """Five of them within the warm-up."""
    page, data, noises = BEAR(SPEC, warm_up=5, **SMALL).double(), batches(10), []
    for k, b in enumerate(data):
        page.draws.begin(k)
        a, draw = b["action"], page.draws.normal
        rows = len(a)
        noises.append([draw((rows, 4), a)] + [draw((rows, 10, f), a, batch_dim=-3) for f in (2, 4, 2)])
    expected = authors(page, data, noises, warm_up=5)
    page.after_update = [SoftTargetUpdate(0.005).on_update_end]
    for b in data:
        page.gradient_update(as_ours(b, 0.99))
    for name, wanted in expected.items():
        for got, want in zip(page.get_submodule(name).parameters(), wanted, strict=True):
            assert_close(got.detach(), want.detach(), rtol=1e-8, atol=1e-10)


def test_during_the_warm_up_the_policy_does_not_see_q():
    """A huge Q changes nothing before, and everything after."""
    moved = []
    for warm_up, scale in ((9, 1.0), (9, 1e6), (0, 1e6)):
        page = BEAR(SPEC, warm_up=warm_up, **SMALL)
        with torch.no_grad():
            page.q.mlp.linear[-1].weight.mul_(scale)
        page.gradient_update(as_ours(single(batches(1)[0]), 0.99))
        moved.append(torch.cat([p.flatten() for p in page.policy.parameters()]))
    assert torch.equal(moved[0], moved[1]) and not torch.equal(moved[1], moved[2])


@pytest.mark.parametrize(("threshold", "rises"), [(0.0, True), (10.0, False)])
def test_the_multiplier_rises_while_the_constraint_is_violated_and_stays_in_its_range(threshold, rises):
    """Ascent on MMD - threshold; log multiplier in [-5, 10]."""
    page = BEAR(SPEC, threshold=threshold, multiplier_learning_rate=4.0, **SMALL)
    for b in batches(5):
        page.gradient_update(as_ours(single(b), 0.99))
    assert page.multiplier.log_value.item() == (10.0 if rises else -5.0)


def test_the_mmd_sees_actions_before_tanh():
    """Policy at u = 50, VAE at u = 5: both actions are 1 in float32, the MMD is not 0.

    One public library compares the VAE's actions after tanh with the policy's before it.
    """
    page = BEAR(SPEC, bandwidth=1.0, **SMALL)
    with torch.no_grad():
        for p in page.parameters():
            p.zero_()
        page.policy.mlp.linear[-1].bias.copy_(torch.tensor([50.0, 50.0, -20.0, -20.0]))
        page.vae.decoder.linear[-1].bias.fill_(5.0)
    page.evaluating = True
    page.draws.begin(0)
    got = page.update(as_ours(single(batches(1)[0]), 0.99))
    assert_close(got["mmd"], torch.tensor(2.0).sqrt(), rtol=1e-4, atol=0)


def test_the_policys_value_is_the_mean_over_samples_and_then_the_smaller_critic():
    """Q_1 = a_1 and Q_2 = -a_1 give -|mean_k a_1|; the smaller of each sample first, -mean |a_1|."""
    page, batch = BEAR(SPEC, hidden=(), vae_hidden=(4,)), as_ours(single(batches(1)[0]), 0.99)
    with torch.no_grad():
        for network in (page.q, page.policy):
            for p in network.parameters():
                p.zero_()
        page.q.mlp.linear[0].weight[:, 3, 0] = torch.tensor([1.0, -1.0])  # inputs are 3 observations, then the action
    page.evaluating = True
    page.draws.begin(0)
    got = page.update(batch)["q_policy"]
    page.draws.begin(0)
    a = batch["action"]
    page.draws.normal((16, 4), a)
    noise = [page.draws.normal((16, 10, f), a, batch_dim=-3) for f in (2, 4, 2)][-1].clamp(-0.5, 0.5)
    assert_close(got, -torch.tanh(noise[..., 0]).mean(1).abs().mean())


def test_acting_takes_the_best_of_fixed_samples():
    """By the first critic: the second, made small where the first is large, changes nothing."""
    page, x = BEAR(SPEC, **SMALL), torch.randn(6, 3)
    first = page.act(x)
    torch.manual_seed(5)
    assert torch.equal(page.act(x), first)
    with torch.no_grad():
        for p in page.q.parameters():
            p[1] = p[0]
        for p in page.q.mlp.linear[-1].parameters():
            p[1] = -50.0 * p[0]
    assert torch.equal(page.act(x), first)
    mode = page.policy(x).mode
    assert (page.q(x, first)[0] >= page.q(x, mode)[0]).float().mean() > 0.5
