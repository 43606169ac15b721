"""Divergence by neighbors and mean discrepancy, against closed forms of normals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_offrl.diagnostics.distances import knn_log_ratios, paired_mmd, whitened
from tests.diagnostics.gaussian import z_of


def bits(p: torch.Tensor, q: torch.Tensor) -> float:
    terms = knn_log_ratios(p, q, 3)
    assert terms is not None
    return float(terms.mean())


def test_neighbors_of_unpaired_samples() -> None:
    """The estimator of the paper, on two clouds of different sizes: half a bit, nothing, and a change of scale."""
    shifted, same, scaled = [], [], []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        p = torch.randn(3_000, 3, generator=generator, dtype=torch.float64)
        q = torch.randn(6_000, 3, generator=generator, dtype=torch.float64)
        shifted.append(bits(p + z_of(0.5) / math.sqrt(3.0), q))
        same.append(bits(p, q))
        scaled.append(bits(0.5 * p, q))
    assert np.mean(shifted) == pytest.approx(0.5, rel=0.15) and abs(np.mean(same)) < 0.03
    narrow = 3.0 * (0.5**2 / 2 - 0.5 - math.log(0.5)) / math.log(2.0)  # KL(N(0, 1/4) || N(0, 1)) = 1.377 bits
    assert np.mean(scaled) == pytest.approx(narrow, rel=0.15)
    assert knn_log_ratios(p.round(), q.round()) is None


def test_whitening() -> None:
    generator = torch.Generator().manual_seed(0)
    mixed = (
        torch.randn(500, 4, generator=generator, dtype=torch.float64) @ torch.randn(4, 4, generator=generator).double()
    )
    round_ = whitened(mixed, mixed)
    torch.testing.assert_close(round_.T @ round_ / 500, torch.eye(4, dtype=torch.float64))
    flat = torch.cat([mixed, mixed[:, :1]], -1)  # a direction that is not filled stays finite
    assert bool(whitened(flat, flat).isfinite().all()) and float(whitened(flat, flat).abs().max()) < 10.0


def test_mean_discrepancy_of_normals() -> None:
    """Of N(z e, I) and N(0, I) with a kernel of width h: 2 (h^2 / (h^2 + 2))^(d/2) (1 - exp(-z^2 / (2 (h^2 + 2))))."""
    generator = torch.Generator().manual_seed(0)
    n, d, z, h = 1_500, 3, 1.0, 1.5
    p, q = (torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(2))
    exact = 2.0 * (h**2 / (h**2 + 2.0)) ** (d / 2.0) * (1.0 - math.exp(-(z**2) / (2.0 * (h**2 + 2.0))))
    found, chance = paired_mmd(p + z / math.sqrt(d), q, bandwidth=h)
    assert found == pytest.approx(exact, rel=0.1) and chance == pytest.approx(1 / 501)
    nothing, chance = paired_mmd(p, q, bandwidth=h)
    assert abs(nothing) < 0.002 and chance > 0.05


def test_exchanging_pairs_gives_uniform_p_values() -> None:
    generator = torch.Generator().manual_seed(0)
    chances = []
    for seed in range(100):
        p, q = (torch.randn(40, 2, generator=generator, dtype=torch.float64) for _ in range(2))
        chances.append(paired_mmd(p, q, swaps=100, seed=seed)[1])
    for level in (0.1, 0.5):
        share = float((torch.tensor(chances) <= level).double().mean())
        assert abs(share - level) < 4.0 * math.sqrt(level * (1.0 - level) / 100)
