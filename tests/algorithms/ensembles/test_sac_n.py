"""SAC-N and EDAC against the authors' update written out in plain torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from lightning_offrl.algorithms.ensembles.edac import EDAC
from lightning_offrl.algorithms.ensembles.sac_n import SACN
from lightning_offrl.training.target_update import SoftTargetUpdate
from tests.algorithms.by_hand import SPEC, as_ours, batches, member, mlp, polyak, squashed, step_together, weights

N = 4


def critics(parameters, observation, action):
    return [mlp(member(parameters, i), torch.cat([observation, action], -1)).squeeze(-1) for i in range(N)]


def authors(page, data, eta, gamma=0.99, rate=3e-4):
    """All losses from the same values, then all steps: snu-mllab/EDAC's order."""
    q, target, policy = weights(page.q), weights(page.q_target), weights(page.policy)
    log_alpha = torch.zeros((), dtype=torch.float64, requires_grad=True)
    adams = [torch.optim.Adam(p, lr=rate) for p in ([log_alpha], policy, q)]
    for k, b in enumerate(data):
        obs, action, after = b["observation"], b["action"], b["next_observation"]
        page.draws.begin(k)
        noise = [page.draws.normal(action.shape, action) for _ in range(2)]
        pi, mean, std = squashed(policy, obs)
        new = torch.tanh(mean + std * noise[0])
        log_prob = pi.log_prob(new)
        alpha = log_alpha.exp().detach()
        alpha_loss = -(log_alpha * (log_prob.detach() - 2.0)).mean()  # target entropy -A, A = 2
        policy_loss = (alpha * log_prob - torch.stack(critics(q, obs, new)).min(0).values).mean()
        with torch.no_grad():
            next_pi, mean, std = squashed(policy, after)
            next_action = torch.tanh(mean + std * noise[1])
            value = torch.stack(critics(target, after, next_action)).min(0).values - alpha * next_pi.log_prob(
                next_action
            )
            y = b["reward"] + gamma * (~b["terminated"]).double() * value
        q_loss = sum(((x - y) ** 2).mean() for x in critics(q, obs, action))
        if eta:
            own = [action.clone().requires_grad_() for _ in range(N)]
            values = [mlp(member(q, i), torch.cat([obs, own[i]], -1)).sum() for i in range(N)]
            g = [torch.autograd.grad(v, a, create_graph=True)[0] for v, a in zip(values, own, strict=True)]
            g = [x / (x.norm(dim=1, keepdim=True) + 1e-10) for x in g]
            pairs = sum((g[i] * g[j]).sum(-1) for i in range(N) for j in range(N) if i != j)
            q_loss = q_loss + eta * pairs.mean() / (N - 1)
        step_together(adams, [alpha_loss, policy_loss, q_loss])
        polyak(target, q)
    return q, target, policy, [log_alpha]


@pytest.mark.parametrize(("kind", "settings", "eta"), [(SACN, {}, 0.0), (EDAC, {"eta": 2.0}, 2.0)])
def test_eight_updates_equal_the_authors(kind, settings, eta):
    page = kind(SPEC, critics=N, hidden=(8, 8), **settings).double()
    data = batches(8)
    expected = authors(page, data, eta)
    page.after_update = [SoftTargetUpdate(0.005).on_update_end]
    for b in data:
        page.gradient_update(as_ours(b, 0.99))
    for network, wanted in zip((page.q, page.q_target, page.policy, page.alpha), expected, strict=True):
        for got, want in zip(network.parameters(), wanted, strict=True):
            assert_close(got.detach(), want.detach(), rtol=1e-8, atol=1e-9)


def test_members_start_apart():
    """An ensemble whose members start alike stays alike."""
    page = SACN(SPEC, critics=N, hidden=(8, 8))
    assert page.q.mlp.linear[0].weight.std(0).min() > 0.0


def test_the_temperature_moves_towards_the_target_entropy():
    """Entropy above -A lowers alpha, below raises it."""
    page = SACN(SPEC, critics=2, hidden=(8, 8))
    batch = as_ours({k: v.float() if v.is_floating_point() else v for k, v in batches(1)[0].items()}, 0.99)
    start = page.alpha().item()
    assert page.gradient_update(batch)["entropy"].item() > -2.0
    assert page.alpha().item() < start == pytest.approx(math.exp(0.0))
