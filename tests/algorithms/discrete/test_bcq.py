"""Discrete BCQ against the authors' arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_offrl.algorithms.discrete.bcq import DiscreteBCQ
from lightning_offrl.algorithms.discrete.bcq_iql import DiscreteBCQIQL
from lightning_offrl.errors import InputError
from lightning_offrl.training.target_update import SoftTargetUpdate
from tests.algorithms.by_hand import descend, mlp, weights
from tests.algorithms.discrete.cases import (
    SPEC,
    data,
    make_double,
)


def authors_bcq(page, data, threshold=0.3, gamma=0.99, polyak=0.005, rate=3e-4):
    """Masked online argmax, target value, smooth-L1 + NLL + 1e-2 mean(logits^2), one Adam for both, then Polyak."""
    q, q_target, policy = (weights(n) for n in (page.q, page.q_target, page.policy))
    values = lambda parameters, x: mlp([p[0] for p in parameters], x)  # noqa: E731
    adam = torch.optim.Adam([*q, *policy], lr=rate)
    for b in data:
        with torch.no_grad():
            pi = torch.softmax(mlp(policy, b["next", "observation"]), -1)
            allowed = (pi / pi.max(1, keepdim=True)[0] > threshold).double()
            chosen = (allowed * values(q, b["next", "observation"]) + (1 - allowed) * -1e8).argmax(1, keepdim=True)
            next_q = values(q_target, b["next", "observation"]).gather(1, chosen).squeeze(1)
            y = b["next", "reward"] + (~b["next", "terminated"]).double() * gamma * next_q
        current = values(q, b["observation"]).gather(1, b["action"].unsqueeze(1)).squeeze(1)
        logits = mlp(policy, b["observation"])
        nll = F.nll_loss(F.log_softmax(logits, 1), b["action"])
        descend(adam, F.smooth_l1_loss(current, y) + nll + 1e-2 * logits.pow(2).mean())
        with torch.no_grad():
            for t, s in zip(q_target, q, strict=True):
                t.copy_(polyak * s + (1 - polyak) * t)
    return q, q_target, policy


def test_ten_updates_of_bcq_equal_the_authors():
    page, steps = make_double(DiscreteBCQ), data(10)
    expected = authors_bcq(page, steps)
    page.after_update = [SoftTargetUpdate(0.005).on_update_end]
    for batch in steps:
        page.gradient_update(batch)
    for network, wanted in zip((page.q, page.q_target, page.policy), expected, strict=True):
        for got, want in zip(network.parameters(), wanted, strict=True):
            assert_close(got.detach(), want.detach(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("page", [DiscreteBCQ, DiscreteBCQIQL])
def test_thresholds_outside_0_1_are_refused(page):
    with pytest.raises(InputError, match=r"must lie in \[0, 1\], got 1.5"):
        page(SPEC, threshold=1.5)
