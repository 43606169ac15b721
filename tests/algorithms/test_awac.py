"""AWAC's update written out in plain torch."""

from __future__ import annotations

import math

import torch
from torch.testing import assert_close

from lightning_offrl.algorithms.awac import AWAC
from lightning_offrl.training.target_update import SoftTargetUpdate
from tests.algorithms.by_hand import SPEC, as_ours, batches, descend, mlp, q_of, weights


def by_hand(page, data, lam=0.5, gamma=0.99, polyak=0.005, rate=3e-4):
    """Q; then the policy with the new Q: exp(A / lambda), A with Q of the policy's own action."""
    q, target = weights(page.q), weights(page.q_target)
    log_std, *policy = weights(page.policy)
    adam_q, adam_p = torch.optim.Adam(q, lr=rate), torch.optim.Adam([log_std, *policy], lr=rate)
    for k, b in enumerate(data):
        page.draws.begin(k)
        obs, action = b["observation"], b["action"].clamp(-1 + 1e-5, 1 - 1e-5)
        noise = [page.draws.normal(action.shape, action) for _ in range(2)]

        def sample(observation, draw):
            mean = torch.tanh(mlp(policy, observation))
            return (mean + log_std.clamp(-20, 2).exp() * draw).clamp(-1 + 1e-5, 1 - 1e-5)  # noqa: B023

        with torch.no_grad():
            after = b["next_observation"]
            value = torch.minimum(*q_of(target, after, sample(after, noise[0])))
            y = b["reward"] + gamma * (~b["terminated"]).double() * value
        descend(adam_q, sum(((x - y) ** 2).mean() for x in q_of(q, obs, action)))
        with torch.no_grad():
            v = torch.minimum(*q_of(q, obs, sample(obs, noise[1])))
            weight = ((torch.minimum(*q_of(q, obs, action)) - v) / lam).exp().clamp(max=100)
        normal = torch.distributions.Normal(torch.tanh(mlp(policy, obs)), log_std.clamp(-20, 2).exp())
        descend(adam_p, -(weight * normal.log_prob(action).sum(-1)).mean())
        with torch.no_grad():
            for t, s in zip(target, q, strict=True):
                t.copy_((1 - polyak) * t + polyak * s)
    return q, target, [log_std, *policy]


def test_a_small_lambda_is_greedier():
    """A / lambda, not lambda A: with lambda 1/2 a weight is exp(2 A)."""
    page = AWAC(SPEC, hidden=(), temperature=0.5)
    with torch.no_grad():
        for p in page.parameters():
            p.zero_()
        page.q.mlp.linear[0].weight[:, 3, 0] = 1.0  # Q = a_1, the policy's own action 0
    page.evaluating = True
    page.draws.normal = lambda shape, like: torch.zeros(shape)
    b = {k: v[:1].float() if v.is_floating_point() else v[:1] for k, v in batches(1)[0].items()}
    b["action"] = torch.tensor([[0.7, 0.0]])
    log_prob = -math.log(2 * math.pi) - 0.5 * 0.49
    assert_close(page.update(as_ours(b, 0.99))["policy_loss"].item(), -math.exp(1.4) * log_prob, rtol=1e-5, atol=0)


def test_eight_updates_by_hand():
    page = AWAC(SPEC, temperature=0.5, hidden=(8, 8)).double()
    data = batches(8)
    expected = by_hand(page, data)
    page.after_update = [SoftTargetUpdate(0.005).on_update_end]
    for b in data:
        page.gradient_update(as_ours(b, 0.99))
    for network, wanted in zip((page.q, page.q_target, page.policy), expected, strict=True):
        for got, want in zip(network.parameters(), wanted, strict=True):
            assert_close(got.detach(), want.detach(), rtol=1e-8, atol=1e-9)
