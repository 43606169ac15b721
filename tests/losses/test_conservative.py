"""CQL's soft maximum against integrals and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from lightning_offrl.losses.conservative import soft_maximum, uniform_log_density


@pytest.mark.parametrize(("actions", "samples"), [(1, 1), (3, 10), (6, 50)])
def test_constant_q_with_three_uniform_groups(actions, samples):
    """Q = c gives c + A ln 2 + ln 3N exactly, so the reduction is over 3N values: three public CQLs sum 3."""
    q = torch.full((2, 5, 3 * samples), 4.0)
    density = torch.full((5, 3 * samples), uniform_log_density(actions))
    expected = 4.0 + actions * math.log(2) + math.log(3 * samples)
    assert_close(soft_maximum(q, density), torch.full((2, 5), expected))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_one_action_dimension_against_the_integral(temperature):
    """T log of the integral over [-1, 1] of exp(Q / T), by trapezoid; the estimate's error is that of its spread."""
    value = lambda a: 3.0 * torch.sin(2.0 * a) - a.square()  # noqa: E731
    grid = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    integral = temperature * torch.trapezoid((value(grid) / temperature).exp(), grid).log().item()
    samples = 4_000
    draws = torch.rand(200, samples, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    got = soft_maximum(value(draws).unsqueeze(0), torch.full_like(draws, -math.log(2)), temperature)
    estimate = got - temperature * math.log(samples)
    error = estimate.std().item() / 200**0.5
    assert abs(estimate.mean().item() - integral) < 4 * error + 1e-3


def test_two_action_dimensions_with_a_density_that_is_not_uniform():
    """Importance weights: samples of a normal policy give the same integral."""
    value = lambda a: 2.0 * a[..., 0] - a[..., 1].square()  # noqa: E731
    axis = torch.linspace(-1, 1, 2_001, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    integral = torch.trapezoid(torch.trapezoid(value(grid).exp(), axis), axis).log().item()
    from lightning_offrl.networks.distributions import SquashedGaussian

    density = SquashedGaussian(torch.full((1, 2), 0.2).double(), torch.full((1, 2), -0.2).double())
    noise = torch.randn(200, 4_000, 2, generator=torch.Generator().manual_seed(0)).double()
    action, log_density = density.sample_with_log_prob(noise)
    estimate = soft_maximum(value(action).unsqueeze(0), log_density) - math.log(4_000)
    assert abs(estimate.mean().item() - integral) < 4 * estimate.std().item() / 200**0.5 + 2e-3


def test_rho_gradient_is_the_exponentially_weighted_mean():
    """d/dQ_k of log mean exp Q is softmax(Q)_k: the paper's weights for CQL(rho)."""
    q = torch.randn(1, 1, 8, requires_grad=True)
    (soft_maximum(q, None) - math.log(8)).sum().backward()
    assert_close(q.grad, torch.softmax(q.detach(), -1))


def test_no_gradient_reaches_the_density():
    q, density = torch.randn(2, 3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    soft_maximum(q, density).sum().backward()
    assert density.grad is None and q.grad is not None


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="expected equal shapes"):
        soft_maximum(torch.zeros(2, 3, 4), torch.zeros(3, 5))
