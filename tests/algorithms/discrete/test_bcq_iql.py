"""IQL's values behind BCQ's filter."""

from __future__ import annotations

import torch

from lightning_offrl.algorithms.discrete.bcq_iql import DiscreteBCQIQL
from tests.algorithms.discrete.cases import (
    make_double,
)


def test_hybrid_takes_the_largest_min_q_of_the_supported():
    made, x = make_double(DiscreteBCQIQL, threshold=0.9), torch.randn(200, 3).double()
    pi, q = torch.softmax(made.policy.logits(x), -1), made.q(x).amin(0)
    allowed = pi >= 0.9 * pi.amax(-1, keepdim=True)
    for action, keep, values in zip(made.act(x), allowed, q, strict=True):
        assert keep[action] and values[action] == values[keep].max()
