"""Divergences against double loops, closed forms and `torch.distributions`."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from lightning_offrl.losses.divergences import kl_to_standard_normal, squared_mmd


def test_kl_equals_torch():
    """Also at the encoder's lower bound of log std : KL = -1/2 (1 + log var - mean^2 - var)."""
    g = torch.Generator().manual_seed(0)
    mean, log_std = torch.randn(3, 7, 5, generator=g), torch.randn(3, 7, 5, generator=g)
    log_std[..., 0] = -4.0
    want = kl_divergence(Normal(mean, log_std.exp()), Normal(0.0, 1.0)).sum(-1)
    assert_close(kl_to_standard_normal(mean, log_std), want, rtol=1e-4, atol=1e-5)
    assert kl_to_standard_normal(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0.0


@pytest.mark.parametrize("kernel", ["laplacian", "gaussian"])
def test_mmd_equals_a_double_loop(kernel):
    """exp(-d / (2 sigma)), sigma not squared, diagonal included, per state: as in BEAR's code."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(3, 4, 2, generator=g).double(), torch.randn(3, 5, 2, generator=g).double() + 1

    def k(a, b):
        d = sum(abs(p - q) if kernel == "laplacian" else (p - q) ** 2 for p, q in zip(a, b, strict=True))
        return math.exp(-d / (2 * 0.7))

    for s, got in enumerate(squared_mmd(x, y, 0.7, kernel).tolist()):
        xs, ys = x[s].tolist(), y[s].tolist()
        xx = sum(k(a, b) for a in xs for b in xs) / 16
        yy = sum(k(a, b) for a in ys for b in ys) / 25
        xy = sum(k(a, b) for a in xs for b in ys) / 20
        assert got == pytest.approx(xx - 2 * xy + yy, rel=1e-12)


def test_gaussian_mmd_against_the_closed_form():
    """E k(X, Y) = sqrt(s / (s + v)) exp(-m^2 / (2 (s + v))) per dimension, v the sum of variances, m the difference.

    The diagonal adds (1 - E k) / n to each of the two own terms. Mean of 400 estimates within 4 of its errors.
    """
    n, s, dims = 60, 1.5, 2
    m, std = torch.tensor([0.8, -0.3]).double(), torch.tensor([0.5, 1.2]).double()
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, n, dims, generator=g).double()
    y = m + std * torch.randn(400, n, dims, generator=g).double()

    def expected(difference, variance):
        return ((s / (s + variance)).sqrt() * torch.exp(-difference.square() / (2 * (s + variance)))).prod().item()

    xx, yy = expected(0 * m, torch.full_like(m, 2.0)), expected(0 * m, 2 * std.square())
    want = xx + (1 - xx) / n + yy + (1 - yy) / n - 2 * expected(m, 1 + std.square())
    got = squared_mmd(x, y, s, "gaussian")
    assert abs(got.mean().item() - want) < 4 * got.std().item() / 20
    assert got.std().item() / 20 < 0.05 * want, "the test can tell"


@pytest.mark.parametrize("kernel", ["laplacian", "gaussian"])
def test_mmd_is_zero_on_itself_and_symmetric(kernel):
    x, y = torch.randn(5, 6, 3), torch.randn(5, 4, 3)
    assert squared_mmd(x, x, 20.0, kernel).abs().max() < 1e-6
    assert_close(squared_mmd(x, y, 2.0, kernel), squared_mmd(y, x, 2.0, kernel))
    assert (squared_mmd(x, y, 2.0, kernel) > 0).all()
