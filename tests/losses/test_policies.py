"""Policy losses against numbers worked out by hand."""

import math

import pytest
import torch
from torch.testing import assert_close

from lightning_offrl.losses.policies import advantage_weighted


def test_weight_is_clamped_after_the_exponential():
    """exp(3 * 10) is 1e13: the weight is 100, not exp(min(30, 100)), which overflows."""
    log_prob = torch.tensor([-1.0, -1.0, -2.0])
    got = advantage_weighted(log_prob, torch.tensor([0.0, 10.0, -1.0]), 3.0)
    assert_close(got, torch.tensor([1.0, 100.0, 2.0 * math.exp(-3.0)]))


def test_no_gradient_reaches_the_advantage():
    log_prob, advantage = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    advantage_weighted(log_prob - 1.0, advantage, 3.0).sum().backward()
    assert advantage.grad is None
    assert_close(log_prob.grad, torch.tensor([-1.0, -1.0]))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="expected equal shapes"):
        advantage_weighted(torch.zeros(2), torch.zeros(2, 1), 3.0)
