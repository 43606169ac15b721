"""IQL against the authors' update written out in plain torch: order, signs, clamps and targets."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from lightning_offrl.algorithms.iql import IQL
from lightning_offrl.training.target_update import SoftTargetUpdate
from tests.algorithms.by_hand import SPEC, as_ours, batches, descend, mlp, q_of, single, weights


def authors(page: IQL, data, tau=0.7, beta=3.0, gamma=0.99, polyak=0.005, rate=3e-4):
    """V (target Q), policy (target Q, new V), Q (new V), targets: train_offline.py's order.

    A widely read version weighs by the old V and bootstraps from it: another algorithm, which trains without complaint.
    """
    q, target, v = weights(page.q), weights(page.q_target), weights(page.v)
    *policy, log_std = [weights(page.policy)[i] for i in (*range(1, 7), 0)]
    adams = {n: torch.optim.Adam(p, lr=rate) for n, p in (("q", q), ("v", v), ("p", [*policy, log_std]))}
    for b in data:
        obs, action = b["observation"], b["action"].clamp(-1 + 1e-5, 1 - 1e-5)
        lowest = torch.minimum(*[x.detach() for x in q_of(target, obs, action)])
        u = lowest - mlp(v, obs).squeeze(-1)
        descend(adams["v"], ((tau - (u < 0).double()).abs() * u**2).mean())
        weight = torch.exp(beta * (lowest - mlp(v, obs).squeeze(-1).detach())).clamp(max=100)
        normal = torch.distributions.Normal(torch.tanh(mlp(policy, obs)), log_std.clamp(-5, 2).exp())
        descend(adams["p"], -(weight * normal.log_prob(action).sum(-1)).mean())
        y = b["reward"] + gamma * (1 - b["terminated"].double()) * mlp(v, b["next_observation"]).squeeze(-1).detach()
        descend(adams["q"], sum(((x - y) ** 2).mean() for x in q_of(q, obs, action)))
        with torch.no_grad():
            for t, s in zip(target, q, strict=True):
                t.copy_((1 - polyak) * t + polyak * s)
    return q, target, v, [log_std, *policy]


def test_ten_updates_equal_the_authors():
    page = IQL(SPEC, hidden=(8, 8), policy_schedule="constant").double()
    data = batches(10)
    expected = authors(page, data)
    page.after_update = [SoftTargetUpdate(0.005).on_update_end]
    for b in data:
        page.gradient_update(as_ours(b, 0.99))
    for network, wanted in zip((page.q, page.q_target, page.v, page.policy), expected, strict=True):
        for got, want in zip(network.parameters(), wanted, strict=True):
            assert_close(got.detach(), want.detach(), rtol=1e-9, atol=1e-10)


def test_order_matters():
    """A check that can fail: policy before V is another algorithm after ten updates."""
    page = IQL(SPEC, hidden=(8, 8), policy_schedule="constant").double()
    data = batches(10)
    expected = authors(page, data)[3]
    update = page.minimize
    held = {}

    def reordered(**losses):
        held.update(losses)
        if "q" in losses:
            update(**held)

    page.minimize = reordered
    for b in data:
        page.gradient_update(as_ours(b, 0.99))
    differences = [(p - e).abs().max().item() for p, e in zip(page.policy.parameters(), expected, strict=True)]
    assert max(differences) > 1e-6


def test_losses_of_one_transition_by_hand():
    """Zero weights but for biases: Q' = (2, 5), V = 1, V(s') = 1, log_std = 0, mean 0."""
    page = IQL(SPEC, hidden=(4,), policy_schedule="constant")
    with torch.no_grad():
        for p in page.parameters():
            p.zero_()
        page.q.mlp.linear[-1].bias.copy_(torch.tensor([[2.0], [5.0]]))
        page.q_target.load_state_dict(page.q.state_dict())
        page.v.mlp.linear[-1].bias.fill_(1.0)
    page.evaluating = True
    b = {k: v[:1] for k, v in batches(1)[0].items()}
    b |= {"action": torch.tensor([[0.5, -0.5]]), "reward": torch.tensor([3.0]), "terminated": torch.tensor([False])}
    got = page.update(as_ours(single(b), 0.5))
    assert_close(got["v_loss"].item(), 0.7)  # u = min(2, 5) - 1 = 1, positive
    log_prob = -math.log(2 * math.pi) - 0.25
    assert_close(got["policy_loss"].item(), -math.exp(3.0) * log_prob)
    assert_close(got["q_loss"].item(), (2 - 3.5) ** 2 + (5 - 3.5) ** 2)  # both against r + 0.5 V(s'): no minimum
    b["terminated"] = torch.tensor([True])
    got = page.update(as_ours(single(b), 0.5))
    assert_close(got["q_loss"].item(), (2 - 3.0) ** 2 + (5 - 3.0) ** 2)


def test_it_acts_by_the_mean_and_trains_with_dropout():
    page = IQL(SPEC, hidden=(8, 8), dropout=0.5, policy_schedule="constant")
    x = torch.randn(5, 3)
    page.draws.begin(0)
    assert not torch.equal(page.act(x), page.act(x)), "dropout is on in training"
    page.eval()
    assert_close(page.act(x), page.policy(x).mean)


def test_the_policy_is_a_normal_that_is_not_squashed():
    """Its density at 0.9 is the normal's: with tanh's Jacobian, as one public IQL had it, AntMaze stays at 0.

    The mean passes through tanh, the deviation does not depend on the state, and its logarithm stays in [-5, 2].
    """
    page = IQL(SPEC, hidden=(8, 8), policy_schedule="constant").double()
    for raw, log_std in ((0.3, 0.3), (-9.0, -5.0), (9.0, 2.0)):
        with torch.no_grad():
            page.policy.log_std.fill_(raw)
        x, action = torch.randn(5, 3).double(), torch.full((5, 2), 0.9).double()
        density = page.policy(x)
        mean = torch.tanh(page.policy.mlp(x))
        want = torch.distributions.Normal(mean, math.exp(log_std)).log_prob(action).sum(-1)
        assert_close(density.log_prob(action), want)
        assert_close(density.mode, mean)


@pytest.mark.parametrize("bad", [{"seeds": 0}, {"seeds": 2, "encoder": torch.nn.Linear(3, 3)}])
def test_bad_seeds(bad):
    with pytest.raises(ValueError, match=r"model.seeds"):
        IQL(SPEC, **bad)
