"""Our losses against TorchRL's on the same networks and batch: an implementation that is not ours.

Importing TorchRL sets the process start method to spawn; only these tests do it.
"""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torch.testing import assert_close

from lightning_offrl.algorithms.iql import IQL
from lightning_offrl.algorithms.td3_bc import TD3BC
from lightning_offrl.batch import from_torchrl, to_torchrl

SPEC = {
    "observation_shape": [3],
    "action_kind": "box",
    "action_size": 2,
    "action_low": [-1.0, -1.0],
    "action_high": [1.0, 1.0],
}


class Member(nn.Module):
    """One of our critics as a plain Q(s, a) with a trailing 1, as TorchRL wants it."""

    def __init__(self, critics, i):
        super().__init__()
        layers = []
        for linear in critics.mlp.linear:
            plain = nn.Linear(*linear.weight.shape[-2:])
            plain.weight.data, plain.bias.data = linear.weight.data[i].T.clone(), linear.bias.data[i].clone()
            layers += [plain, nn.ReLU()]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, observation, action):
        return self.net(torch.cat([observation, action], -1))


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    return TensorDict(
        {
            "observation": torch.randn(64, 3, generator=g),
            "action": torch.rand(64, 2, generator=g) * 1.9 - 0.95,
            "next": {
                "observation": torch.randn(64, 3, generator=g),
                "reward": torch.randn(64, generator=g),
                "terminated": torch.rand(64, generator=g) < 0.3,
                "truncated": torch.rand(64, generator=g) < 0.3,
            },
            "discount": torch.full((64,), 0.97),
        },
        [64],
    )


def losses_without_a_step(page, batch):
    page.evaluating = True
    page.draws.begin(0)
    return page.update(batch)


def critics_of(page):
    from torchrl.modules import ValueOperator

    return [ValueOperator(Member(page.q, i), in_keys=["observation", "action"]) for i in range(2)]


def test_layouts_go_both_ways(batch):
    theirs = to_torchrl(batch)
    assert theirs["next", "reward"].shape == (64, 1) and theirs["next", "done"].dtype == torch.bool
    assert_close(theirs["next", "done"], (batch["next", "terminated"] | batch["next", "truncated"]).unsqueeze(-1))
    back = from_torchrl(theirs)
    assert set(back.keys(True, True)) == set(batch.keys(True, True))
    assert all(torch.equal(back[key], batch[key]) for key in batch.keys(True, True))


def test_our_data_in_a_torchrl_buffer(batch):
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(64), batch_size=8)
    buffer.extend(to_torchrl(batch))
    sample = from_torchrl(buffer.sample().exclude("index"))
    assert sample["next", "reward"].shape == (8,)


def test_iql_losses(batch):
    from torchrl.modules import IndependentNormal, ProbabilisticActor, ValueOperator
    from torchrl.objectives import IQLLoss

    page = IQL(SPEC, hidden=(16, 16), policy_schedule="constant", expectile=0.8, inverse_temperature=2.0)
    page.policy.log_std.data.uniform_(-1, 0)

    class Density(nn.Module):
        def forward(self, observation):
            density = page.policy(observation)
            return density.mean, density.log_std.exp().expand_as(density.mean)

    actor = ProbabilisticActor(
        TensorDictModule(Density(), in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=IndependentNormal,
    )

    class V(nn.Module):
        def forward(self, observation):
            return page.v(observation).unsqueeze(-1)

    loss = IQLLoss(
        actor,
        critics_of(page),
        ValueOperator(V(), in_keys=["observation"]),
        loss_function="l2",
        temperature=2.0,
        expectile=0.8,
    )
    loss.make_value_estimator(gamma=0.97)
    theirs, ours = loss(to_torchrl(batch)), losses_without_a_step(page, batch)
    assert_close(ours["policy_loss"], theirs["loss_actor"])
    assert_close(ours["q_loss"], theirs["loss_qvalue"])
    assert_close(ours["v_loss"], theirs["loss_value"])


def test_td3_bc_losses(batch):
    from torchrl.data import Bounded
    from torchrl.modules import Actor
    from torchrl.objectives import TD3BCLoss

    page = TD3BC(SPEC, hidden=(16, 16), policy_noise=0.0, alpha=2.5)
    loss = TD3BCLoss(
        Actor(page.policy, in_keys=["observation"]),
        critics_of(page),
        action_spec=Bounded(-torch.ones(2), torch.ones(2)),
        loss_function="l2",
        policy_noise=0.0,
        alpha=2.5,
    )
    loss.make_value_estimator(gamma=0.97)
    theirs, ours = loss(to_torchrl(batch)), losses_without_a_step(page, batch)
    assert_close(ours["q_loss"], theirs["loss_qvalue"])
    assert_close(ours["policy_loss"], theirs["loss_actor"])
