"""Densities against quadrature and torch.distributions."""

import math

import torch
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution
from torch.testing import assert_close

from lightning_offrl.networks.distributions import Gaussian, SquashedGaussian


def test_gaussian_equals_torch():
    mean, log_std, action = torch.randn(4, 3), torch.randn(3), torch.randn(4, 3)
    expected = Independent(Normal(mean, log_std.exp()), 1).log_prob(action)
    assert_close(Gaussian(mean, log_std).log_prob(action), expected)


def test_gaussian_acts_within_the_box():
    assert_close(Gaussian(torch.tensor([[2.0, -0.5]]), torch.zeros(2)).mode, torch.tensor([[1.0, -0.5]]))


def test_squashed_density_integrates_to_one_and_gives_the_mean():
    """Trapezoid rule in u on a fine grid: int exp(log pi(tanh u)) (1 - tanh(u)^2) du = 1, in float64."""
    for mean, log_std in ((0.3, -1.0), (-1.5, 0.4), (0.0, -2.0)):
        density = SquashedGaussian(torch.tensor([[mean]]).double(), torch.tensor([[log_std]]).double())
        u = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
        weight = density.log_prob_of_u(u[:, None]).exp() * (1 - torch.tanh(u).square())
        assert_close(torch.trapezoid(weight, u).item(), 1.0, rtol=0, atol=1e-8)
        noise = torch.randn(400_000, 1, generator=torch.Generator().manual_seed(0)).double()
        by_quadrature = torch.trapezoid(weight * torch.tanh(u), u).item()
        samples = density.sample(noise)
        error = samples.std().item() / 400_000**0.5
        assert abs(samples.mean().item() - by_quadrature) < 4 * error


def test_squashed_density_on_the_box_by_quadrature_in_the_action():
    """The same in action space, where data actions are looked up: int over (-1, 1) of exp(log_prob(a)) da = 1."""
    density = SquashedGaussian(torch.tensor([[0.2]]).double(), torch.tensor([[-0.7]]).double())
    a = torch.linspace(-1 + 1e-6, 1 - 1e-6, 2_000_001, dtype=torch.float64)
    assert_close(torch.trapezoid(density.log_prob(a[:, None]).exp(), a).item(), 1.0, rtol=0, atol=1e-5)


def test_squashed_equals_torch_away_from_the_edge():
    mean, log_std = torch.randn(64, 3).double(), 0.3 * torch.randn(64, 3).double()
    ours = SquashedGaussian(mean, log_std)
    action, log_prob = ours.sample_with_log_prob(torch.randn(64, 3).double())
    theirs = TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), TanhTransform())
    assert_close(log_prob, theirs.log_prob(action), rtol=1e-7, atol=1e-7)
    assert_close(ours.log_prob(action), log_prob, rtol=1e-6, atol=1e-6)


def test_squashed_density_is_finite_at_the_edge_in_float32():
    """Logged actions of exactly 1 are common; the naive log(1 - a^2) is -inf there."""
    density = SquashedGaussian(torch.zeros(2, 1), torch.zeros(2, 1))
    assert torch.isfinite(density.log_prob(torch.tensor([[1.0], [-1.0]]))).all()
    far = torch.tensor([[40.0], [-40.0]])
    exact = -0.5 * 40.0**2 - 0.5 * math.log(2 * math.pi) + 2 * 40.0 - 2 * math.log(2)  # log(1 - tanh(u)^2) at u = 40
    assert_close(density.log_prob_of_u(far), torch.full((2,), exact))
    assert_close(
        SquashedGaussian(far, torch.full((2, 1), -3.0)).sample_with_log_prob(torch.zeros(2, 1))[1],
        torch.full((2,), 3.0 - 0.5 * math.log(2 * math.pi) + 80.0 - 2 * math.log(2)),
    )
