"""Features of linear estimates."""

from __future__ import annotations

import numpy as np
import torch

from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.ope.direct.features import quadratic_features
from lightning_offrl.ope.direct.lstd import lstd
from tests.ope.doubles import Linear


def test_quadratic_features_hold_a_linear_quadratic_value_exactly() -> None:
    """Deterministic linear dynamics, quadratic reward, linear policy: Q is a quadratic, found to rounding."""
    gen = torch.Generator().manual_seed(0)
    a = torch.tensor([[0.9, 0.2], [-0.1, 0.8]], dtype=torch.float64)
    b = torch.tensor([[0.3], [0.5]], dtype=torch.float64)
    gain = torch.tensor([[-0.05, -0.08]], dtype=torch.float64)
    s = torch.randn(400, 2, generator=gen, dtype=torch.float64)
    u = 2.0 * torch.rand(400, 1, generator=gen, dtype=torch.float64) - 1.0
    s, u = s.float().double(), u.float().double()
    following = (s @ a.T + u @ b.T).float().double()
    reward = -s.square().sum(-1) - 0.5 * u.square().sum(-1)
    from gymnasium import spaces

    episodes = from_arrays(
        {
            "observations": s.float().numpy(),
            "actions": u.float().numpy(),
            "rewards": reward.numpy(),
            "terminated": np.zeros(400, bool),
            "truncated": np.ones(400, bool),
            "next_observations": following.float().numpy(),
            "observation_space": spaces.Box(-np.inf, np.inf, (2,), np.float32),
            "action_space": spaces.Box(-1.0, 1.0, (1,), np.float32),
        }
    )
    estimate = lstd(Linear(gain), episodes, discount=0.9, features=quadratic_features(episodes))
    closed = a + b @ gain
    # P = Q + K' R K + 0.9 closed' P closed, V(s) = -s' P s
    cost = torch.eye(2, dtype=torch.float64) + 0.5 * gain.T @ gain
    system = torch.eye(4, dtype=torch.float64) - 0.9 * torch.kron(closed.T.contiguous(), closed.T.contiguous())
    p = torch.linalg.solve(system, cost.flatten()).view(2, 2)
    want = -torch.einsum("bi,ij,bj->b", s, p, s)
    # rewards and next observations are stored in float32
    torch.testing.assert_close(estimate.v(s.float()), want, rtol=1e-5, atol=1e-5)
