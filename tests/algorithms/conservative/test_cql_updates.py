"""CQL's whole update written out in plain torch: with weight 0 it is SAC, with the term it is the authors'."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from lightning_offrl.algorithms.conservative.cal_ql import CalQL
from lightning_offrl.algorithms.conservative.cql import CQL
from lightning_offrl.training.target_update import SoftTargetUpdate
from tests.algorithms.by_hand import SPEC, as_ours, batches, polyak, q_of, squashed, step_together, weights

N = 3


def sac(page, data, *, entropy=True, best_of=0, imitation=0.0, extra=None, gamma=0.99, rates=(1e-4, 3e-4)):
    """Twin critics, automatic temperature towards entropy -A, squashed normal; its own parameters and Adams.

    The temperature steps first. ``extra(k, q, policy, batch)`` gives what CQL adds: losses of Q and of a multiplier,
    and the multiplier's Adam.
    """
    q, target, policy = weights(page.q), weights(page.q_target), weights(page.policy)
    log_alpha = torch.zeros((), dtype=torch.float64, requires_grad=True)
    adam_alpha, adam_policy = (torch.optim.Adam(p, lr=rates[0]) for p in ([log_alpha], policy))
    adam_q = torch.optim.Adam(q, lr=rates[1])
    for k, b in enumerate(data):
        obs, action, after = b["observation"], b["action"], b["next_observation"]
        page.draws.begin(k)
        pi, mean, std = squashed(policy, obs)
        new = torch.tanh(mean + std * page.draws.normal(action.shape, action))
        log_prob = pi.log_prob(new)
        step_together([adam_alpha], [-(log_alpha * (log_prob.detach() - 2.0)).mean()])
        alpha = log_alpha.exp().detach()
        value = torch.minimum(*q_of(q, obs, new))
        policy_loss = (alpha * log_prob - value).mean()
        if imitation:
            cloning = -pi.log_prob(action.clamp(-1 + 1e-6, 1 - 1e-6)).mean()
            policy_loss = alpha * log_prob.mean() - value.mean() / value.abs().mean().detach() + imitation * cloning
        with torch.no_grad():
            next_pi, mean, std = squashed(policy, after)
            if best_of:  # min_i max_k
                noise = page.draws.normal((len(obs), best_of, 2), action, batch_dim=-3)
                tried = [q_of(target, after, torch.tanh(mean + std * noise[:, j])) for j in range(best_of)]
                next_value = torch.minimum(*(torch.stack(one).max(0).values for one in zip(*tried, strict=True)))
            else:
                next_action = torch.tanh(mean + std * page.draws.normal(action.shape, action))
                next_value = torch.minimum(*q_of(target, after, next_action))
                if entropy:
                    next_value = next_value - alpha * next_pi.log_prob(next_action)
            y = b["reward"] + gamma * (~b["terminated"]).double() * next_value
        q_loss = sum(((x - y) ** 2).mean() for x in q_of(q, obs, action))
        adams, losses = [adam_policy], [policy_loss]
        if extra is not None:
            more, adam_multiplier, dual = extra(q, policy, b)
            q_loss = q_loss + more
            if dual is not None:
                adams, losses = [*adams, adam_multiplier], [*losses, dual]
        step_together([*adams, adam_q], [*losses, q_loss])
        polyak(target, q)
    return {"q": q, "q_target": target, "policy": policy, "alpha": [log_alpha]}


def conservative(page, *, weight, regularizer="h", temperature=1.0, gap=None, floor=None, least=None):
    """CQL's term with a loop over samples; everything is valued at s (never Q(s', a'), as a public page once did)."""
    log_multiplier = torch.zeros((), dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([log_multiplier], lr=3e-4)

    def drawn(policy, observation, action):
        noise = page.draws.normal((len(action), N, 2), action, batch_dim=-3)
        pi, mean, std = squashed(policy, observation)
        actions = [torch.tanh(mean + std * noise[:, j]).detach() for j in range(N)]
        return [(a, pi.log_prob(a).detach(), True) for a in actions]

    def extra(q, policy, b):
        obs, action = b["observation"], b["action"]
        samples = drawn(policy, obs, action)
        if regularizer != "rho":
            samples = samples + drawn(policy, b["next_observation"], action)
            uniform = 2 * page.draws.uniform((len(action), N, 2), action, batch_dim=-3) - 1
            density = torch.full((len(action),), math.log(1 / 4), dtype=torch.float64)  # 1 / 2 per dimension
            samples += [(uniform[:, j], density, False) for j in range(N)]
        differences = []
        for i, q_data in enumerate(q_of(q, obs, action)):
            exponents = []
            for a, log_density, own in samples:
                value = q_of(q, obs, a)[i]
                if floor is not None and own:
                    value = torch.maximum(value, b["mc_return"])
                exponents.append(value / temperature - (log_density if regularizer == "h" else 0.0))
            if regularizer == "authors2":
                exponents.append(q_data / temperature)
            soft = temperature * torch.logsumexp(torch.stack(exponents), 0)
            if regularizer == "rho":
                soft = soft - temperature * math.log(N)
            difference = soft - q_data
            if least is not None:
                difference = difference.clamp(min=least)
            differences.append(difference.mean())
        if gap is None:
            return weight * sum(differences), adam, None
        multiplier = log_multiplier.exp().clamp(0, 1e6)
        excess = sum(weight * d - gap for d in differences)
        return multiplier.detach() * excess, adam, -0.5 * multiplier * excess.detach()

    extra.multiplier = [log_multiplier]
    return extra


def ours(batch):
    out = as_ours(batch, 0.99)
    out["mc_return"] = batch["mc_return"]
    return out


def data(count):
    g = torch.Generator().manual_seed(8)
    return [{**b, "mc_return": torch.randn(16, generator=g).double()} for b in batches(count)]


def run(page, steps):
    page.after_update = [SoftTargetUpdate(0.005).on_update_end]
    for b in steps:
        page.gradient_update(ours(b))


def same(page, expected, tolerance=1e-9):
    for name, wanted in expected.items():
        for got, want in zip(page.get_submodule(name).parameters(), wanted, strict=True):
            assert_close(got.detach(), want.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("entropy", [True, False])
def test_weight_zero_is_sac(entropy):
    """Twelve updates. Without entropy in the target its action is still *sampled* from the policy.

    One public CQL takes the mean action there instead, which is another target.
    """
    page, steps = CQL(SPEC, weight=0.0, backup_entropy=entropy, samples=N, hidden=(8, 8)).double(), data(12)
    expected = sac(page, steps, entropy=entropy)
    run(page, steps)
    same(page, expected)


def test_a_little_weight_is_not_sac():
    """A check that can fail: weight 0.01 moves the critics a thousand times the tolerance."""
    page, steps = CQL(SPEC, weight=0.01, backup_entropy=True, samples=N, hidden=(8, 8)).double(), data(12)
    expected = sac(page, steps)
    run(page, steps)
    distance = max((p - e).abs().max().item() for p, e in zip(page.q.parameters(), expected["q"], strict=True))
    assert distance > 1e-6


@pytest.mark.parametrize(
    ("kind", "settings", "term"),
    [
        (CQL, {}, {}),
        (CQL, {"temperature": 2.0}, {"temperature": 2.0}),
        (CQL, {"regularizer": "rho"}, {"regularizer": "rho"}),
        (CQL, {"regularizer": "authors2", "temperature": 0.5}, {"regularizer": "authors2", "temperature": 0.5}),
        (CQL, {"min_difference": 3.6}, {"least": 3.6}),
        (CQL, {"lagrange_gap": 15.0}, {"gap": 15.0}),
        (CalQL, {}, {"floor": True}),
    ],
    ids=["h", "temperature", "rho", "authors2", "clipped", "lagrange", "calibrated"],
)
def test_ten_updates_by_hand(kind, settings, term):
    """Every choice that public code gets wrong stands in the loop above, one sample at a time.

    The log-sum-exp is over 3 N values per state (three public CQLs reduce over 3); densities are subtracted before it,
    of the same samples and the same state; Q alone is divided by the temperature; the difference is per sample (one
    CQL broadcasts [B] against [B, 1]); the multiplier's loss and Q's see each other detached (in one library it never
    reaches Q, and its own loss turns conservatism round above 2); calibration comes before the density.
    """
    page, steps = kind(SPEC, weight=5.0, samples=N, hidden=(8, 8), **settings).double(), data(10)
    extra = conservative(page, weight=5.0, **term)
    expected = sac(page, steps, entropy=False, extra=extra)
    if "gap" in term:
        expected["multiplier"] = extra.multiplier
    run(page, steps)
    same(page, expected, 1e-8)


@pytest.mark.parametrize(("settings", "hand"), [({"max_target": True}, {"best_of": N}), ({"imitation": 0.7},) * 2])
def test_ten_updates_of_targets_and_policies_by_hand(settings, hand):
    """The largest sampled target of each critic; likelihood of the *data's* action, where one page draws another."""
    page, steps = CQL(SPEC, weight=0.0, samples=N, hidden=(8, 8), **settings).double(), data(10)
    expected = sac(page, steps, entropy=False, **hand)
    run(page, steps)
    same(page, expected, 1e-8)
