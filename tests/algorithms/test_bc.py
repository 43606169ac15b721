"""Behavior cloning: losses by hand, and a regression that it must solve."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch.testing import assert_close

from lightning_offrl.algorithms.bc import BC
from lightning_offrl.errors import InputError
from tests.algorithms.by_hand import SPEC


def test_the_deterministic_loss_is_a_mean_over_dimensions():
    page = BC(SPEC, hidden=(4,))
    with torch.no_grad():
        for p in page.parameters():
            p.zero_()
    page.evaluating = True
    batch = TensorDict({"observation": torch.zeros(2, 3), "action": torch.tensor([[1.0, 0.0], [0.5, 0.5]])}, [2])
    assert_close(page.update(batch)["policy_loss"].item(), (1 + 0 + 0.25 + 0.25) / 4)


def test_the_gaussian_loss_is_minus_the_likelihood():
    page = BC(SPEC, hidden=(4,), policy="gaussian")
    page.evaluating = True
    batch = TensorDict({"observation": torch.randn(5, 3), "action": torch.rand(5, 2) - 0.5}, [5])
    density = page.policy(batch["observation"])
    assert_close(page.update(batch)["policy_loss"], -density.log_prob(batch["action"]).mean())


@pytest.mark.parametrize("policy", ["deterministic", "gaussian"])
def test_it_learns_a_linear_controller(policy):
    """a = tanh(K s) is learnt to a mean error of 0.05 in 600 updates."""
    torch.manual_seed(0)
    gain = torch.tensor([[0.5, -0.5], [0.3, 0.3], [-0.2, 0.4]])
    page = BC(SPEC, hidden=(32, 32), policy=policy, learning_rate=3e-3)
    for _ in range(600):
        x = torch.randn(64, 3)
        page.gradient_update(TensorDict({"observation": x, "action": torch.tanh(x @ gain)}, [64]))
    x = torch.randn(500, 3)
    assert (page.act(x) - torch.tanh(x @ gain)).abs().mean() < 0.05


def test_discrete_actions_are_refused():
    with pytest.raises(InputError, match="BC learns from continuous .* but this data has discrete ones"):
        BC({"observation_shape": [4], "action_kind": "discrete", "action_size": 2})
