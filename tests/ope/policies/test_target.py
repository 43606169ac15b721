"""Densities by quadrature, samples against densities, and policies that have none."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_offrl.errors import InputError
from lightning_offrl.ope.policies.target import (
    ClippedNormal,
    Deterministic,
    Discrete,
    SquashedNormal,
    Tabular,
    TruncatedNormal,
    UniformMixture,
    smoothed,
    without_density,
)


def normal(mean, std):
    def parameters(observation):
        shape = (len(observation), len(mean))
        return torch.tensor(mean).double().expand(shape), torch.tensor(std).double().expand(shape)

    return parameters


def grid(n=20_000):
    """Midpoints of [-1, 1] and their weight."""
    edges = torch.linspace(-1, 1, n + 1, dtype=torch.float64)
    return 0.5 * (edges[1:] + edges[:-1]), 2.0 / n


@pytest.mark.parametrize(
    ("kind", "mean", "std"),
    [(TruncatedNormal, mean, std) for mean in (0.0, 0.7, -1.5, 3.0) for std in (0.05, 0.4, 2.0)]
    + [(SquashedNormal, mean, std) for mean in (0.0, 0.7, -1.5) for std in (0.05, 0.4)],
)
def test_densities_integrate_to_one(kind, mean, std):
    points, weight = grid(400_000 if kind is SquashedNormal else 20_000)
    density = kind(normal([mean], [std])).log_prob(torch.zeros(len(points), 3), points[:, None]).exp()
    assert float(density.sum() * weight) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.4), (0.9, 0.5), (1.4, 0.2), (-6.0, 1.0), (30.0, 0.5)])
def test_truncated_normal_samples_have_the_moments_of_the_density(mean, std):
    """The last is 58 standard deviations away, where distribution functions underflow."""
    policy = TruncatedNormal(normal([mean], [std]))
    sample = policy.sample(torch.zeros(1, 3), 200_000, torch.Generator().manual_seed(0)).flatten()
    assert float(sample.abs().max()) <= 1.0
    points, weight = grid(400_000)
    density = policy.log_prob(torch.zeros(len(points), 3), points[:, None]).exp() * weight
    first = float((density * points).sum())
    spread = math.sqrt(float((density * (points - first) ** 2).sum()))
    assert float(sample.mean()) == pytest.approx(first, abs=5 * spread / math.sqrt(2e5) + 1e-5)
    assert float(sample.std()) == pytest.approx(spread, rel=0.02)


def test_squashed_normal_against_torch():
    mean, std = torch.tensor([0.3, -0.8]).double(), torch.tensor([0.5, 1.2]).double()
    oracle = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, std), torch.distributions.transforms.TanhTransform()
    )
    action = torch.rand(50, 2, dtype=torch.float64) * 1.98 - 0.99
    found = SquashedNormal(normal([0.3, -0.8], [0.5, 1.2])).log_prob(torch.zeros(50, 3), action)
    torch.testing.assert_close(found, oracle.log_prob(action).sum(-1), atol=1e-9, rtol=0)


def test_mixture_with_the_uniform_policy():
    base = SquashedNormal(normal([0.2, 0.1], [0.3, 0.3]))
    policy = UniformMixture(base, 0.1, 2)
    action = torch.rand(20, 2, dtype=torch.float64) * 2 - 1
    expected = 0.9 * base.log_prob(torch.zeros(20, 3), action).exp() + 0.1 / 4
    torch.testing.assert_close(policy.log_prob(torch.zeros(20, 3), action).exp(), expected)
    sample = policy.sample(torch.zeros(1, 3), 20_000, torch.Generator().manual_seed(0))[:, 0]
    corner = ((sample < -0.9).any(-1)).double().mean()  # the base is never there
    assert float(corner) == pytest.approx(0.1 * (1 - 0.95**2), abs=0.003)


def test_kernel_integrates_to_one_in_three_dimensions_and_at_the_faces():
    """A kernel constant of one dimension would be off by 2 pi h^2 in three."""
    center = torch.tensor([[0.0, 0.95, -1.0]], dtype=torch.float64)
    policy = smoothed(Deterministic(lambda obs: center.expand(len(obs), 3)), 0.2)
    points = torch.linspace(-1, 1, 61, dtype=torch.float64)
    points = 0.5 * (points[1:] + points[:-1])
    mesh = torch.stack(torch.meshgrid(points, points, points, indexing="ij"), -1).reshape(-1, 3)
    total = policy.log_prob(torch.zeros(len(mesh), 3), mesh).exp().sum() * (2 / 60) ** 3
    assert float(total) == pytest.approx(1.0, abs=1e-3)


def test_policies_without_density_say_what_applies():
    greedy = Deterministic(lambda obs: obs[:, :2])
    assert greedy.log_prob(torch.zeros(1, 3), torch.zeros(1, 2)) is None
    assert "fqe" in without_density(greedy) and "kis" in without_density(greedy)
    clipped = ClippedNormal(normal([0.9], [0.5]))
    assert clipped.log_prob(torch.zeros(1, 3), torch.zeros(1, 1)) is None
    assert "atoms" in without_density(clipped) and "truncated" in without_density(clipped)
    assert (clipped.sample(torch.zeros(1, 3), 1000, torch.Generator().manual_seed(0)) == 1.0).double().mean() > 0.3
    assert clipped.truncated().log_prob(torch.zeros(1, 3), torch.zeros(1, 1)) is not None
    assert "atoms" in without_density(UniformMixture(clipped, 0.1, 1))


def test_discrete_policies():
    table = torch.tensor([[0.2, 0.8], [1.0, 0.0]])
    policy = Tabular(table)
    states = torch.nn.functional.one_hot(torch.tensor([0, 1, 1]), 2).float()
    torch.testing.assert_close(
        policy.log_prob(states, torch.tensor([1, 0, 1])).exp(),
        torch.tensor([0.8, 1.0, 0.0]).double(),
        atol=1e-7,
        rtol=0,
    )
    drawn = policy.sample(states, 5000, torch.Generator().manual_seed(0))
    assert drawn.shape == (5000, 3) and float(drawn[:, 0].double().mean()) == pytest.approx(0.8, abs=0.02)
    assert (drawn[:, 1:] == 0).all()
    greedy = Deterministic(lambda obs: obs.argmax(-1), n_actions=2)
    assert greedy.log_prob(states, torch.tensor([0, 0, 1])).tolist() == [0.0, -math.inf, 0.0]
    with pytest.raises(InputError, match="add up to one"):
        Discrete(lambda obs: torch.ones(len(obs), 2)).probabilities(states)
