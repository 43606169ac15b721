"""TD3+BC against the authors' update written out in plain torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from lightning_offrl.algorithms.rebrac import ReBRAC
from lightning_offrl.algorithms.td3_bc import TD3BC
from lightning_offrl.training.target_update import SoftTargetUpdate
from tests.algorithms.by_hand import SPEC, as_ours, batches, descend, member, mlp, q_of, single, weights


def authors(page: TD3BC, data, noises, gamma=0.99, polyak=0.005, rate=3e-4, alpha=2.5):
    """TD3_BC.py's train(): critics; every second call policy and both targets."""
    q, q_target = weights(page.q), weights(page.q_target)
    policy, policy_target = weights(page.policy), weights(page.policy_target)
    adam_q, adam_policy = torch.optim.Adam(q, lr=rate), torch.optim.Adam(policy, lr=rate)
    for it, (b, noise) in enumerate(zip(data, noises, strict=True), start=1):
        obs, action, after = b["observation"], b["action"], b["next_observation"]
        with torch.no_grad():
            next_action = torch.tanh(mlp(policy_target, after)) + (0.2 * noise).clamp(-0.5, 0.5)
            next_q = torch.minimum(*q_of(q_target, after, next_action.clamp(-1, 1)))
            y = b["reward"] + (~b["terminated"]).double() * gamma * next_q
        descend(adam_q, sum(torch.nn.functional.mse_loss(x, y) for x in q_of(q, obs, action)))
        if it % 2 == 0:
            pi = torch.tanh(mlp(policy, obs))
            value = mlp(member(q, 0), torch.cat([obs, pi], -1)).squeeze(-1)
            lam = alpha / value.abs().mean().detach()
            descend(adam_policy, -lam * value.mean() + torch.nn.functional.mse_loss(pi, action))
            with torch.no_grad():
                for t, s in zip([*q_target, *policy_target], [*q, *policy], strict=True):
                    t.copy_(polyak * s + (1 - polyak) * t)
    return q, q_target, policy, policy_target


def test_ten_updates_equal_the_authors():
    page = TD3BC(SPEC, hidden=(8, 8)).double()
    data = batches(10)
    noises = []
    for k, b in enumerate(data):
        page.draws.begin(k)
        noises.append(page.draws.normal(b["action"].shape, b["action"]))
    expected = authors(page, data, noises)
    page.after_update = [SoftTargetUpdate(0.005, period=2).on_update_end]
    for b in data:
        page.gradient_update(as_ours(b, 0.99))
    for network, wanted in zip((page.q, page.q_target, page.policy, page.policy_target), expected, strict=True):
        for got, want in zip(network.parameters(), wanted, strict=True):
            assert_close(got.detach(), want.detach(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", [TD3BC, ReBRAC])
def test_noise_is_clipped_and_then_the_action(kind):
    """Target policy at 0.9, noise of 10 deviations: 0.2 * 10 is clipped to 0.5, and 0.9 + 0.5 to 1.

    Clipping the sum alone gives 1 and -1 for both signs; here they are 1 and 0.4.
    """
    page = kind(SPEC, hidden=(4,)).double()
    with torch.no_grad():
        for p in page.policy_target.parameters():
            p.zero_()
        page.policy_target.mlp.linear[-1].bias.fill_(math.atanh(0.9))
    sign = torch.tensor([1.0, -1.0]).repeat(8).double().unsqueeze(-1).expand(16, 2)
    page.draws.normal = lambda *args, **kwargs: 10.0 * sign
    seen = []
    page.q_target.forward = lambda obs, action: seen.append(action) or torch.zeros(2, 16).double()
    page.evaluating = True
    batch = as_ours(batches(1)[0], 0.99)
    batch["next", "action"] = batch["action"]
    page.update(batch)
    assert_close(seen[0], torch.where(sign > 0, 1.0, 0.4).double())


def test_lambda_by_hand():
    """Q_1 = -4 everywhere, so lambda = 2.5 / 4: the policy loss is bc + 2.5, whatever the scale of Q."""
    page = TD3BC(SPEC, hidden=(4,))
    with torch.no_grad():
        for p in page.parameters():
            p.zero_()
        page.q.mlp.linear[-1].bias.copy_(torch.tensor([[-4.0], [9.0]]))
    page.evaluating = True
    page.draws.begin(0)
    b = single(batches(1)[0])
    got = page.update(as_ours(b, 0.99))
    assert_close(got["bc_loss"], b["action"].square().mean())  # over the batch *and* the action's dimensions
    assert_close(got["policy_loss"], got["bc_loss"] + 2.5)


def test_the_policy_waits_and_the_targets_with_it():
    page = TD3BC(SPEC, hidden=(4,))
    page.after_update = [SoftTargetUpdate(0.005, period=2).on_update_end]
    b = as_ours(single(batches(1)[0]), 0.99)
    before = {k: v.clone() for k, v in page.state_dict().items()}
    moved = lambda prefix: any(  # noqa: E731
        not torch.equal(v, before[k]) for k, v in page.state_dict().items() if k.startswith(prefix)
    )
    page.gradient_update(b)
    assert moved("q.") and not moved("policy.") and not moved("q_target.") and not moved("policy_target.")
    page.gradient_update(b)
    assert moved("policy.") and moved("q_target.") and moved("policy_target.")
