"""Discrete behavior cloning."""

from __future__ import annotations

from torch.nn import functional as F
from torch.testing import assert_close

from lightning_offrl.algorithms.discrete.bc import DiscreteBC
from tests.algorithms.by_hand import mlp, weights
from tests.algorithms.discrete.cases import (
    data,
    losses_of,
    make_double,
)


def test_bc_is_cross_entropy_with_a_penalty():
    page, (batch,) = make_double(DiscreteBC, logit_penalty=0.5), data()
    logits = mlp(weights(page.policy), batch["observation"])
    want = F.cross_entropy(logits, batch["action"]) + 0.5 * logits.square().mean()
    assert_close(losses_of(page, batch)["policy_loss"], want.detach(), check_dtype=False)
