"""Ensembles of critics."""

import torch
from torch.testing import assert_close

from lightning_offrl.networks.critics import Critics
from lightning_offrl.networks.encoders import Encoder
from lightning_offrl.networks.mlp import MLP

BOX = {"action_kind": "box", "action_size": 2, "action_low": [-1.0, -1.0], "action_high": [1.0, 1.0]}


def test_ensemble_members_differ_and_have_no_trailing_one():
    spec = {"observation_shape": [3], **BOX}
    critics = Critics(Encoder(spec), 2, (8,), count=4)
    q = critics(torch.randn(5, 3), torch.randn(5, 2))
    assert q.shape == (4, 5)
    assert (q[0] - q[1]).abs().max() > 1e-3
    first = critics(torch.zeros(5, 3), torch.zeros(5, 2), members=1)
    assert_close(first, critics(torch.zeros(5, 3), torch.zeros(5, 2))[:1])


def test_bfloat16_stays_inside_the_network():
    net = MLP(3, (8,), 1)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        assert net(torch.randn(4, 3)).dtype == torch.float32
