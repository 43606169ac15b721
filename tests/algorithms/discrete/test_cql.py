"""Discrete CQL by hand and beside TorchRL."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_offrl.algorithms.discrete.cql import DiscreteCQL
from lightning_offrl.batch import to_torchrl
from tests.algorithms.discrete.cases import (
    SPEC,
    data,
    losses_of,
    q_actor,
    single,
)


def test_cql_by_hand():
    """Q = (0, 1, 2, 3) everywhere: target 3 gamma + r, and log-sum-exp minus Q of the data's action."""
    page = DiscreteCQL(SPEC, hidden=(4,), weight=2.0).double()
    with torch.no_grad():
        for p in page.parameters():
            p.zero_()
        for network in (page.q, page.q_target):
            network.mlp.linear[-1].bias.copy_(torch.arange(4.0))
    (batch,) = data()
    got = losses_of(page, batch)
    q = batch["action"].double()
    y = batch["next", "reward"] + 0.99 * 3.0 * (~batch["next", "terminated"]).double()
    gap = math.log(sum(math.exp(i) for i in range(4))) - q.mean()
    assert_close(got["conservative"], gap)
    assert_close(got["q_loss"], F.smooth_l1_loss(q, y) + 2.0 * gap)
    assert_close(got["td_loss"], F.smooth_l1_loss(q, y))


def test_the_conservative_step_lowers_unseen_actions_and_raises_the_datas():
    """Only action 0 is in the data, rewards are 0: after some steps it is the best.

    A public CQL was once released whose term had no gradient on actions outside the data.
    """
    page = DiscreteCQL(SPEC, hidden=(16,), weight=1.0, learning_rate=1e-2)
    batch = data(size=32)[0].apply(lambda x: x.float() if x.is_floating_point() else x)
    batch["action"].zero_(), batch["next", "reward"].zero_()
    for _ in range(60):
        page.gradient_update(batch)
    assert (page.act(batch["observation"]) == 0).all()


def test_cql_equals_torchrl():
    """Their conservative term and ours; their temporal difference has half a square and, with equal networks, the
    maximum of the target is the double-Q value.
    """
    from torchrl.objectives import DiscreteCQLLoss

    page, batch = single(DiscreteCQL, huber_threshold=None)
    loss = DiscreteCQLLoss(q_actor(page), loss_function="l2")
    loss.make_value_estimator(gamma=0.99)
    theirs, ours = loss(to_torchrl(batch)), losses_of(page, batch)
    assert_close(ours["conservative"], theirs["loss_cql"])
    assert_close(ours["td_loss"], theirs["loss_qvalue"])
