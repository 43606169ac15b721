"""ReBRAC's update written out in plain torch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_offrl.algorithms.rebrac import ReBRAC
from lightning_offrl.training.target_update import SoftTargetUpdate
from tests.algorithms.by_hand import SPEC, as_ours, batches, descend, mlp, single, weights


def critic(parameters, i, x):
    """Linear, LayerNorm, ReLU, ...: parameters come as all linears, then all norms."""
    linears, norms = parameters[:6], parameters[6:]
    for k in range(2):
        x = x @ linears[2 * k][i] + linears[2 * k + 1][i]
        x = F.relu(F.layer_norm(x, x.shape[-1:], norms[2 * k][i], norms[2 * k + 1][i]))
    return (x @ linears[4][i] + linears[5][i]).squeeze(-1)


def by_hand(page, data, noises, beta=(0.1, 0.3), gamma=0.99, polyak=0.005, rates=(1e-3, 1e-3)):
    """Penalties summed over the action's dimensions, the critic's with the data's next action."""
    q, q_target = weights(page.q), weights(page.q_target)
    policy, policy_target = weights(page.policy), weights(page.policy_target)
    adam_q, adam_p = (torch.optim.Adam(p, lr=rate) for p, rate in zip((q, policy), rates, strict=True))
    for it, (b, noise) in enumerate(zip(data, noises, strict=True), start=1):
        obs, action, after = b["observation"], b["action"], b["next_observation"]
        with torch.no_grad():
            chosen = (torch.tanh(mlp(policy_target, after)) + (0.2 * noise).clamp(-0.5, 0.5)).clamp(-1, 1)
            x = torch.cat([after, chosen], -1)
            value = torch.minimum(critic(q_target, 0, x), critic(q_target, 1, x))
            value = value - beta[1] * ((chosen - b["next_action"]) ** 2).sum(-1)
            y = b["reward"] + gamma * (~b["terminated"]).double() * value
        x = torch.cat([obs, action], -1)
        descend(adam_q, sum(((critic(q, i, x) - y) ** 2).mean() for i in range(2)))
        if it % 2 == 0:
            pi = torch.tanh(mlp(policy, obs))
            x = torch.cat([obs, pi], -1)
            value = torch.minimum(critic(q, 0, x), critic(q, 1, x))
            loss = beta[0] * ((pi - action) ** 2).sum(-1) - value / value.abs().mean().detach()
            descend(adam_p, loss.mean())
            with torch.no_grad():
                for t, s in zip([*q_target, *policy_target], [*q, *policy], strict=True):
                    t.copy_(polyak * s + (1 - polyak) * t)
    return q, q_target, policy, policy_target


def with_next_action(batch):
    g = torch.Generator().manual_seed(9)
    return {**batch, "next_action": torch.rand(batch["action"].shape, generator=g).to(batch["action"]) * 2 - 1}


def ours(batch):
    out = as_ours(batch, 0.99)
    out["next", "action"] = batch["next_action"]
    return out


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, (1e-3, 1e-3)),
        ({"learning_rate": 2e-4}, (2e-4, 2e-4)),
        ({"policy_learning_rate": 3e-4, "q_learning_rate": 5e-5}, (5e-5, 3e-4)),  # the authors' AntMaze
        ({"q_learning_rate": 5e-5}, (5e-5, 1e-3)),
    ],
)
def test_eight_updates_by_hand(settings, rates):
    page = ReBRAC(SPEC, policy_penalty=0.1, critic_penalty=0.3, hidden=(8, 8), **settings).double()
    data = [with_next_action(b) for b in batches(8)]
    noises = []
    for k, b in enumerate(data):
        page.draws.begin(k)
        noises.append(page.draws.normal(b["action"].shape, b["action"]))
    expected = by_hand(page, data, noises, rates=rates)
    page.after_update = [SoftTargetUpdate(0.005, period=2).on_update_end]
    for b in data:
        page.gradient_update(ours(b))
    for network, wanted in zip((page.q, page.q_target, page.policy, page.policy_target), expected, strict=True):
        for got, want in zip(network.parameters(), wanted, strict=True):
            assert_close(got.detach(), want.detach(), rtol=1e-8, atol=1e-9)


def test_only_the_critics_are_normalized():
    page = ReBRAC(SPEC, hidden=(8, 8))
    assert page.q.mlp.norm is not None and page.policy.mlp.norm is None


def test_the_critics_penalty_is_the_distance_to_the_datas_next_action():
    """Q = 0, r = 0, pi'(s') = 0, next actions of +-1: y = -gamma beta_2 A, so Q's loss is its square, twice.

    At the last step of an episode the columns hold the action itself, never the first one of the next episode.
    """
    page = ReBRAC(SPEC, critic_penalty=0.5, policy_noise=0.0, hidden=(4,))
    with torch.no_grad():
        for p in page.parameters():
            p.zero_()
    page.evaluating = True
    batch = ours(with_next_action(single(batches(1)[0])))
    batch["next", "action"], batch["next", "reward"] = batch["next", "action"].sign(), torch.zeros(16)
    batch["next", "terminated"] = torch.zeros(16, dtype=torch.bool)
    assert_close(page.update(batch)["q_loss"].item(), 2 * (0.99 * 0.5 * 2) ** 2)


def test_the_penalty_is_a_sum_over_dimensions():
    """TD3+BC's is a mean: a factor A between the two coefficients."""
    page = ReBRAC(SPEC, hidden=(8, 8))
    with torch.no_grad():
        for p in page.policy.parameters():
            p.zero_()
    page.evaluating = True
    page.draws.begin(0)
    b = with_next_action(single(batches(1)[0]))
    assert_close(page.update(ours(b))["policy_penalty"], b["action"].square().sum(-1).mean())
