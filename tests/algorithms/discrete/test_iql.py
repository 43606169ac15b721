"""Discrete IQL by hand and beside TorchRL."""

from __future__ import annotations

import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_offrl.algorithms.discrete.iql import DiscreteIQL
from lightning_offrl.batch import to_torchrl
from tests.algorithms.by_hand import descend, mlp, weights
from tests.algorithms.discrete.cases import (
    Member,
    data,
    losses_of,
    make_double,
    single,
)


def test_iql_by_hand():
    """Order V, policy (new V), Q (new V), with the target critics' minimum; three Adams."""
    page, steps = make_double(DiscreteIQL, inverse_temperature=2.0), data(5)
    q, target, v, policy = (weights(n) for n in (page.q, page.q_target, page.v, page.policy))
    adams = [torch.optim.Adam(p, lr=3e-4) for p in (q, v, policy)]
    pick = lambda ps, x, a: [mlp([p[i] for p in ps], x).gather(1, a[:, None])[:, 0] for i in range(2)]  # noqa: E731
    value = lambda x: mlp(v, x).squeeze(-1)  # noqa: E731
    for b in steps:
        obs, action = b["observation"], b["action"]
        with torch.no_grad():
            low = torch.minimum(*pick(target, obs, action))
        u = low - value(obs)
        descend(adams[1], ((0.7 - (u < 0).double()).abs() * u**2).mean())
        weight = torch.exp(2.0 * (low - value(obs))).clamp(max=100).detach()
        descend(adams[2], (weight * F.cross_entropy(mlp(policy, obs), action, reduction="none")).mean())
        y = b["next", "reward"] + 0.99 * (~b["next", "terminated"]).double() * value(b["next", "observation"]).detach()
        descend(adams[0], sum(F.mse_loss(x, y) for x in pick(q, obs, action)))
        page.gradient_update(b)
    for network, wanted in zip((page.q, page.v, page.policy), (q, v, policy), strict=True):
        for got, want in zip(network.parameters(), wanted, strict=True):
            assert_close(got.detach(), want.detach(), rtol=1e-9, atol=1e-10)


def test_iql_equals_torchrl():
    from torch.distributions import Categorical
    from torchrl.modules import ProbabilisticActor
    from torchrl.objectives import DiscreteIQLLoss

    page, batch = single(DiscreteIQL, expectile=0.8, inverse_temperature=2.0)
    module = lambda call, key: TensorDictModule(call, in_keys=["observation"], out_keys=[key])  # noqa: E731

    class Call(nn.Module):
        def __init__(self, f):
            super().__init__()
            self.f = f

        def forward(self, x):
            return self.f(x)

    actor = ProbabilisticActor(
        module(Call(page.policy.logits), "logits"), in_keys=["logits"], distribution_class=Categorical
    )
    loss = DiscreteIQLLoss(
        actor,
        [module(Member(page.q, i), "state_action_value") for i in range(2)],
        module(Call(lambda x: page.v(x).unsqueeze(-1)), "state_value"),
        action_space="categorical",
        loss_function="l2",
        temperature=2.0,
        expectile=0.8,
    )
    loss.make_value_estimator(gamma=0.99)
    theirs, ours = loss(to_torchrl(batch)), losses_of(page, batch)
    assert_close(ours["policy_loss"], theirs["loss_actor"])
    assert_close(ours["q_loss"], theirs["loss_qvalue"])
    assert_close(ours["v_loss"], theirs["loss_value"])
