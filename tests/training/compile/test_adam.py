"""Adam written out against torch's own."""

from __future__ import annotations

import pytest
import torch

from lightning_offrl.training.compile.adam import adam_, adam_factors, start_adam


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.Adam, {}),
        (torch.optim.Adam, {"weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-3}),
        (torch.optim.AdamW, {"weight_decay": 0.1}),
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.Adam, {"maximize": True, "weight_decay": 0.1}),
    ],
    ids=["plain", "decay", "decoupled", "amsgrad", "maximize"],
)
def test_adam_written_out_is_torchs(kind, settings):
    """Twenty steps against torch's own, whose state it uses; gradients grow and shrink so that AMSGrad matters."""
    torch.manual_seed(0)
    start = torch.randn(4, 3, dtype=torch.float64)
    theirs, ours = (start.clone().requires_grad_() for _ in range(2))
    reference, mine = kind([theirs], lr=0.05, fused=True, **settings), kind([ours], lr=0.05, fused=True, **settings)
    start_adam(mine, ours)
    (group,) = mine.param_groups
    for step in range(1, 21):
        gradient = torch.randn(4, 3, dtype=torch.float64) * (10.0 if step == 5 else 1.0)
        theirs.grad = gradient.clone()
        reference.step()
        factors = torch.tensor(adam_factors(group, step), dtype=torch.float64)
        with torch.no_grad():
            adam_(ours, gradient, mine.state[ours], group, factors)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    one, other = reference.state_dict()["state"][0], mine.state_dict()["state"][0]
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=0, atol=1e-13)
