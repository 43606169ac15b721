"""Every sampler beside the density it claims: a grid of uniforms through the sampler, the density integrated between.

The samples of the uniforms u_1 < u_2 < ... must hold the mass u_2 - u_1 between them, under ``log_prob`` and under the
normal distribution function in logarithms, in both tails and as far out as policies get.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_offrl.envs.controllers import Behavior
from lightning_offrl.networks.discrete import Categorical
from lightning_offrl.networks.distributions import Gaussian, SquashedGaussian
from lightning_offrl.networks.mixtures import BoxMixture, TruncatedGaussian
from lightning_offrl.ope.policies import target
from lightning_offrl.ope.policies.behavior import BehaviorModel
from lightning_offrl.ope.policies.target import (
    ClippedNormal,
    Deterministic,
    Discrete,
    SquashedNormal,
    Tabular,
    TruncatedNormal,
    UniformMixture,
    smoothed,
)
from tests.ope.doubles import UnderflowingNormal

UNIFORM = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
NORMAL = torch.special.ndtri(UNIFORM)
OUTSIDE = (0.0, 1.0, 5.0, 7.0, 8.2, 8.4, 12.0, 20.0, 30.0, 34.9, 35.1, 36.0, 38.0, 58.0, 200.0)
SPREADS = (0.001, 0.05, 0.4, 2.0, 100.0)
CASES = [(side * (1.0 + away * std), std) for away in OUTSIDE for std in SPREADS for side in (-1.0, 1.0)]
CASES += [(mean, std) for mean in (-0.999, -0.5, 0.0, 0.7) for std in SPREADS]
BOX = {"action_kind": "box", "action_size": 1, "action_low": [-1.0], "action_high": [1.0]}


@pytest.fixture
def drawn(monkeypatch):
    """Samplers are given the grid in place of random numbers."""

    def draw(kind, n, like, generator):
        grid = UNIFORM if kind is torch.rand else NORMAL
        return grid.view(n, *(1 for _ in like.shape)).expand(n, *like.shape)

    monkeypatch.setattr(target, "_draw", draw)


def tensor(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def fixed(mean, std):
    return lambda observation: (tensor([[mean]]).expand(len(observation), 1), tensor([[std]]))


def samples(policy):
    """In ascending order: the grid of uniforms is symmetric, and some samplers turn it round."""
    return policy.sample(torch.zeros(1, 3), len(UNIFORM), torch.Generator())[:, 0, 0].sort().values


def masses(log_density, action, pieces=16):
    """Simpson's rule between neighboring actions, times their number: 1 each."""
    share = torch.linspace(0.0, 1.0, 2 * pieces + 1, dtype=torch.float64)
    weight = tensor([1.0, *([4.0, 2.0] * pieces)[:-1], 1.0]) / (6.0 * pieces)
    between = action[:-1, None] + (action[1:] - action[:-1])[:, None] * share
    density = log_density(between.flatten()).exp().view(between.shape)
    return (density * weight).sum(-1) * (action[1:] - action[:-1]) * len(action)


def truncated_cdf(action, mean, std):
    """Of the normal restricted to [-1, 1], by logarithms in the tail where the mean is far away."""
    if mean > 0.0:
        return 1.0 - truncated_cdf(-action, -mean, std)
    phi = torch.special.log_ndtr
    z, nearest, farthest = (mean - action) / std, tensor((mean + 1.0) / std), tensor((mean - 1.0) / std)
    below = [phi(x) + torch.log1p(-(phi(farthest) - phi(x)).exp()) for x in (z, nearest)]
    return -torch.expm1(below[0] - below[1])


def off(policy):
    """Largest relative error of a mass between samples."""
    found = masses(lambda a: policy.log_prob(torch.zeros(len(a), 3), a[:, None]), samples(policy))
    return float((found - 1.0).abs().max())


@pytest.mark.parametrize(("mean", "std"), CASES)
def test_truncated_normals_by_inversion(drawn, mean, std):
    policy = TruncatedNormal(fixed(mean, std))
    assert float((truncated_cdf(samples(policy), mean, std) - UNIFORM).abs().max()) < 3e-6
    assert off(policy) < 1e-4
    if abs(mean) <= 1.0:
        center = tensor([[mean]])
        blurred = smoothed(Deterministic(lambda obs: center.expand(len(obs), 1)), std)
        assert torch.equal(samples(blurred), samples(policy)) and off(blurred) < 1e-4


def test_an_inversion_that_underflows_is_seen(drawn):
    for away in (8.4, 12.0, 30.0, 36.0):
        wrong = UnderflowingNormal(fixed(1.0 + away * 0.05, 0.05))
        assert float((truncated_cdf(samples(wrong), 1.0 + away * 0.05, 0.05) - UNIFORM).abs().max()) > 0.5


@pytest.mark.parametrize("mean", [0.0, 0.7, -1.5])
@pytest.mark.parametrize("std", [0.001, 0.05, 0.4, 2.0])
def test_squashed_normals_by_inversion(drawn, mean, std):
    policy = SquashedNormal(fixed(mean, std))
    assert off(policy) < 1e-4
    torch.testing.assert_close(torch.atanh(samples(policy)), mean + std * NORMAL, atol=1e-8, rtol=1e-8)
    density = SquashedGaussian(tensor([[mean]]), tensor([[math.log(std)]]))
    action, log_prob = density.sample_with_log_prob(NORMAL.view(-1, 1, 1))
    assert torch.equal(action, density.sample(NORMAL.view(-1, 1, 1)))
    wide = action[:, 0, 0].abs() < 1.0 - 1e-6  # beyond, log_prob takes logged actions at 1 - 1e-6
    torch.testing.assert_close(log_prob[wide, 0], density.log_prob(action)[wide, 0], atol=1e-6, rtol=1e-6)
    found = masses(lambda a: density.log_prob(a[:, None]), action[wide, 0, 0]) * len(UNIFORM) / int(wide.sum())
    assert float((found - 1.0).abs().max()) < 1e-4


@pytest.mark.parametrize(("mean", "std"), CASES)
def test_clipped_and_plain_normals_by_inversion(drawn, mean, std):
    raw = mean + std * NORMAL
    torch.testing.assert_close(samples(ClippedNormal(fixed(mean, std))), raw.clamp(-1.0, 1.0))
    density = Gaussian(tensor([[mean]]), tensor([[math.log(std)]]))
    action = density.sample(NORMAL.view(-1, 1, 1))[:, 0, 0]
    assert float((masses(lambda a: density.log_prob(a[:, None]), action) - 1.0).abs().max()) < 1e-4


@pytest.mark.parametrize(("mean", "std"), CASES)
def test_the_density_that_behaviors_are_fitted_with_is_the_policy_s(mean, std):
    action = torch.linspace(-1.0, 1.0, 41, dtype=torch.float64)
    expected = TruncatedNormal(fixed(mean, std)).log_prob(torch.zeros(41, 3), action[:, None])
    whole = tensor([[mean]]).expand(41, 1), tensor([[math.log(std)]]).expand(41, 1)
    torch.testing.assert_close(TruncatedGaussian(*whole).log_prob(action[:, None]), expected, atol=1e-6, rtol=1e-8)


def kolmogorov(action, cdf):
    """The statistic times the root of the number: above 1.95 in one of a thousand."""
    place = cdf(action.sort().values)
    n = len(place)
    steps = torch.arange(n, dtype=torch.float64) / n
    return float(torch.maximum(place - steps, steps + 1.0 / n - place).max()) * math.sqrt(n)


class Mixed(BehaviorModel):
    """A fitted mixture whose numbers are given."""

    def __init__(self, kind, weight, mean, std):
        super().__init__(kind, torch.zeros(0), 0.0)
        self.numbers = tensor(weight).log(), tensor(mean), tensor(std)

    def _mixture(self, observation):
        weight, mean, std = (x.expand(len(observation), -1) for x in self.numbers)
        return weight, mean.unsqueeze(-1), std.unsqueeze(-1)


@pytest.mark.parametrize("mean", [(-2.0, 0.3), (1.6, 9.0), (-3.0, -0.99), (5.0, 0.0)])
def test_mixtures_of_truncated_normals(mean):
    weight, std = (0.3, 0.7), (0.1, 0.4)
    policy = Mixed("truncated", weight, mean, std)
    action = policy.sample(torch.zeros(1, 3), 50_000, torch.Generator().manual_seed(0))[:, 0, 0]

    def cdf(a):
        return sum(w * truncated_cdf(a, m, s) for w, m, s in zip(weight, mean, std, strict=True))

    assert kolmogorov(action, cdf) < 1.95
    some = action[:50]
    expected = policy.log_prob(torch.zeros(50, 3), some[:, None])
    columns = (x.unsqueeze(-1) for x in (policy.numbers[1], policy.numbers[2].log()))
    density = BoxMixture(policy.numbers[0].expand(50, -1), *(x.expand(50, -1, -1) for x in columns), squashed=False)
    torch.testing.assert_close(density.log_prob(some[:, None]), expected, atol=1e-8, rtol=1e-8)
    between = torch.linspace(-0.8, 0.8, 401, dtype=torch.float64)
    held = masses(lambda a: policy.log_prob(torch.zeros(len(a), 3), a[:, None]), between) / 401
    torch.testing.assert_close(held, cdf(between).diff(), atol=1e-9, rtol=1e-3)


def test_mixtures_of_squashed_normals_and_with_uniform_actions():
    weight, mean, std = (0.3, 0.7), (-1.0, 0.5), (0.2, 1.0)

    def cdf(a):
        z = [(torch.atanh(a) - m) / s for m, s in zip(mean, std, strict=True)]
        return sum(w * torch.special.ndtr(x) for w, x in zip(weight, z, strict=True))

    policy, generator = Mixed("squashed", weight, mean, std), torch.Generator().manual_seed(0)
    assert kolmogorov(policy.sample(torch.zeros(1, 3), 50_000, generator)[:, 0, 0], cdf) < 1.95
    mixed = UniformMixture(policy, 0.3, 1)
    action = mixed.sample(torch.zeros(1, 3), 50_000, generator)[:, 0, 0]
    assert kolmogorov(action, lambda a: 0.7 * cdf(a) + 0.3 * 0.5 * (a + 1.0)) < 1.95
    between = torch.linspace(-0.9, 0.9, 401, dtype=torch.float64)
    for one, share in ((policy, 0.0), (mixed, 0.3)):
        held = masses(lambda a, one=one: one.log_prob(torch.zeros(len(a), 3), a[:, None]), between) / 401
        expected = (1.0 - share) * cdf(between).diff() + share * 0.5 * between.diff()
        torch.testing.assert_close(held, expected, atol=1e-9, rtol=1e-4)


def test_discrete_policies_are_drawn_as_often_as_their_tables_say():
    table = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.97, 0.01, 0.01, 0.01], [0.0, 0.0, 1.0, 0.0]])
    states, n = torch.eye(3), 100_000
    for policy in (Tabular(table), Discrete(lambda obs: table), BehaviorModel("counts", table.double(), 0.0)):
        drawn = policy.sample(states, n, torch.Generator().manual_seed(0))
        share = torch.stack([(drawn == a).double().mean(0) for a in range(4)], -1)
        error = (table * (1.0 - table) / n).sqrt().double()
        assert bool(((share - table).abs() <= 4.5 * error + 1e-9).all())
        assert bool((share[table == 0.0] == 0.0).all())
        for a in range(4):
            stated = policy.log_prob(states, torch.full((3,), a)).exp()
            torch.testing.assert_close(stated, table[:, a].double(), atol=1e-6, rtol=0)
    uniform = torch.rand(n, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = Categorical(table.double().log()).sample(uniform)
    share = torch.stack([(drawn == a).double().mean(0) for a in range(4)], -1)
    assert bool(((share - table).abs() <= 4.5 * error + 1e-9).all())


class Grid:
    """A generator of random numbers that always gives the same."""

    def __init__(self, u):
        self.u = u

    def random(self, size=None):
        return 0.0 if size is None else np.full(size, self.u)


@pytest.mark.parametrize("asked", [-1.0, -0.9, 0.0, 0.7, 1.0, 1.3, 40.0, -1e6])
@pytest.mark.parametrize("noise", [0.001, 0.05, 0.4, 2.0, 100.0])
@pytest.mark.parametrize("reverse", [False, True])
def test_behaviors_that_collect_whatever_their_controller_asks_for(asked, noise, reverse):
    """A controller may ask for what the box does not hold: it is cut to the box before noise is drawn around it."""
    low, high = -2.0, 6.0
    spec = {**BOX, "action_low": [low], "action_high": [high]}
    behavior = Behavior("b", spec, lambda obs: np.array([2.0 + 4.0 * asked]), 1.0, noise, reverse)
    mean = min(max(asked, -1.0), 1.0) * (-1.0 if reverse else 1.0)
    found = [behavior.sample(np.zeros(1), Grid(u)) for u in UNIFORM[::8].tolist()]
    action = tensor([float(a[0]) for a, _ in found])
    scaled = (action - 2.0) / 4.0
    # actions are float32
    assert float((truncated_cdf(scaled, mean, noise) - UNIFORM[::8]).abs().max()) < 1e-6 + 1e-6 / noise
    expected = TruncatedNormal(fixed(mean, noise)).log_prob(torch.zeros(50, 3), scaled[:, None]) - math.log(4.0)
    torch.testing.assert_close(tensor([p for _, p in found]), expected, atol=1e-9, rtol=1e-9)
