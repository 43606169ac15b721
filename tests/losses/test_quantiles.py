"""Quantile regression against numpy's weighted quantiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_offrl.losses.quantiles import quantile_levels, quantile_regression


def test_quantile_regression_is_minimal_at_the_weighted_quantiles() -> None:
    """Against numpy's inverted CDF; moving any quantile by 0.2 either way costs."""
    gen = torch.Generator().manual_seed(0)
    target = torch.randn(1, 60, generator=gen, dtype=torch.float64)
    weight = torch.rand(1, 60, generator=gen, dtype=torch.float64)
    weight /= weight.sum()
    levels = quantile_levels(5, target).numpy()
    assert levels == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    want = np.quantile(target[0].numpy(), levels, method="inverted_cdf", weights=weight[0].numpy())
    best = torch.as_tensor(want).unsqueeze(0)
    at = float(quantile_regression(best, target, weight))
    for i in range(5):
        for step in (-0.2, 0.2):
            other = best.clone()
            other[0, i] += step
            assert float(quantile_regression(other, target, weight)) > at
