"""Small batches and algorithms that the tests of discrete actions share."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torch.nn import functional as F

from lightning_offrl.algorithms.discrete.bc import DiscreteBC
from lightning_offrl.algorithms.discrete.bcq import DiscreteBCQ
from lightning_offrl.algorithms.discrete.bcq_iql import DiscreteBCQIQL
from lightning_offrl.algorithms.discrete.cql import DiscreteCQL
from lightning_offrl.algorithms.discrete.dqn import DQN
from lightning_offrl.algorithms.discrete.iql import DiscreteIQL
from tests.algorithms.by_hand import as_ours, batches

ACTIONS = 4


SPEC = {"observation_shape": [3], "action_kind": "discrete", "action_size": ACTIONS}


PAGES = [DQN, DiscreteBC, DiscreteCQL, DiscreteIQL, DiscreteBCQ, DiscreteBCQIQL]


every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.__name__)


def data(count: int = 1, size: int = 16, masked: bool = False) -> list[TensorDict]:
    """Random float64 batches; masks allow the data's action and about half of the others, none after the end."""
    g, out = torch.Generator().manual_seed(2), []
    for b in batches(count, size):
        b["action"] = torch.randint(ACTIONS, (size,), generator=g)
        batch = as_ours(b, 0.99)
        if masked:
            legal = torch.rand(size, ACTIONS, generator=g) < 0.5
            batch["action_mask"] = legal | F.one_hot(b["action"], ACTIONS).bool()
            after = torch.rand(size, ACTIONS, generator=g) < 0.5
            after[:, 0] |= ~after.any(-1)
            batch["next", "action_mask"] = after & ~b["terminated"].unsqueeze(-1)
        out.append(batch)
    return out


def losses_of(page, batch):
    page.evaluating = True
    page.draws.begin(0)
    return page.update(batch)


def make_double(page, seed=0, **settings):
    made = page(SPEC, hidden=(8, 8), seed=seed, **settings).double()
    for name in made.targets:  # targets that differ, so that reading the wrong one shows
        for p in made.get_submodule(name).parameters():
            p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)).double()
    return made


class Member(nn.Module):
    """One of our critics as a plain network."""

    def __init__(self, critics, i):
        super().__init__()
        layers = []
        for linear in critics.mlp.linear:
            plain = nn.Linear(*linear.weight.shape[-2:])
            plain.weight.data, plain.bias.data = linear.weight.data[i].T.clone(), linear.bias.data[i].clone()
            layers += [plain, nn.ReLU()]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, observation):
        return self.net(observation)


def single(page, **settings):
    return page(SPEC, hidden=(16, 16), **settings), data(size=64)[0].apply(
        lambda x: x.float() if x.is_floating_point() else x
    )


def q_actor(page):
    from torchrl.data import Categorical
    from torchrl.modules import QValueActor

    return QValueActor(Member(page.q, 0), in_keys=["observation"], spec=Categorical(ACTIONS))
