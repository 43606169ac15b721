"""Trained algorithms as target policies."""

from __future__ import annotations

import pytest
import torch

from lightning_offrl.algorithms.awac import AWAC
from lightning_offrl.algorithms.bc import BC
from lightning_offrl.algorithms.discrete.bc import DiscreteBC
from lightning_offrl.algorithms.discrete.dqn import DQN
from lightning_offrl.algorithms.td3_bc import TD3BC
from lightning_offrl.errors import InputError
from lightning_offrl.ope.policies.target import (
    ClippedNormal,
    SquashedNormal,
    TargetPolicy,
)
from lightning_offrl.ope.policies.trained import from_algorithm
from tests.ope.doubles import BOX, DISCRETE


def test_algorithms_act_and_have_densities():
    observation = torch.randn(5, 3)
    generator = torch.Generator().manual_seed(0)
    for algorithm in (BC(BOX), TD3BC(BOX), AWAC(BOX), DiscreteBC(DISCRETE), DQN(DISCRETE)):
        algorithm.eval()
        policy = from_algorithm(algorithm)
        assert isinstance(policy, TargetPolicy) and policy.is_deterministic
        torch.testing.assert_close(policy.sample(observation, 2, generator)[1], algorithm.act(observation))
    squashed, clipped = from_algorithm(BC(BOX, policy="gaussian").eval(), True), from_algorithm(AWAC(BOX).eval(), True)
    assert isinstance(squashed, SquashedNormal) and isinstance(clipped, ClippedNormal)
    algorithm = BC(BOX, policy="gaussian").eval()
    action = torch.rand(5, 2) * 1.8 - 0.9
    torch.testing.assert_close(
        from_algorithm(algorithm, True).log_prob(observation, action),
        algorithm.policy(algorithm.normalizer(observation)).log_prob(action).detach().double(),
        atol=1e-4,
        rtol=1e-4,
    )
    categorical = from_algorithm(DiscreteBC(DISCRETE).eval(), True)
    assert categorical.probabilities(observation).sum(-1).allclose(torch.ones(5).double(), atol=1e-6)
    for algorithm in (TD3BC(BOX), DQN(DISCRETE)):
        with pytest.raises(InputError, match="has no density"):
            from_algorithm(algorithm.eval(), stochastic=True)
