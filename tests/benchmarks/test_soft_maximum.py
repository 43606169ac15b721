"""CQL's sampled log-sum-exp against quadrature: its bias shrinks with N, and is gone where N is large."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def soft_maximum(repo: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    import soft_maximum

    return soft_maximum


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_quadrature_equals_the_closed_form(soft_maximum: ModuleType, temperature: float) -> None:
    """Q = 2 a + 3 b: the product of T / k (exp(k / T) - exp(-k / T))."""
    exact = sum(temperature * math.log(2 * temperature / k * math.sinh(k / temperature)) for k in (2.0, 3.0))
    got = soft_maximum.integral(lambda a: 2 * a[..., 0] + 3 * a[..., 1], 2, temperature)
    assert got == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("actions", [1, 2])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_the_bias_shrinks_with_n_and_so_does_the_spread(
    soft_maximum: ModuleType, actions: int, temperature: float
) -> None:
    """Below the integral at N = 1 (Jensen), and nearer at N = 8, both by more than four standard errors."""
    few, more = (
        soft_maximum.errors(actions, soft_maximum.BROAD, n, temperature, 2_000)["page"].numpy() for n in (1, 8)
    )
    error = 2_000**-0.5
    assert few.mean() < -4 * error * few.std()
    assert more.mean() - few.mean() > 4 * error * few.std()
    assert abs(more.mean()) < abs(few.mean()) and more.std() < few.std()


@pytest.mark.parametrize("actions", [1, 2])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_with_many_samples_the_estimate_is_the_integral(
    soft_maximum: ModuleType, actions: int, temperature: float
) -> None:
    """300 estimates of N = 250 agree with quadrature within four standard errors of their mean exponential.

    The mean is of exp(estimate / T), which is what importance sampling estimates without bias.
    """
    page = soft_maximum.errors(actions, soft_maximum.BROAD, 250, temperature, 300)["page"]
    ratio = (page / temperature).exp()
    error = float(ratio.std()) / 300**0.5
    assert abs(float(ratio.mean()) - 1.0) < 4 * error < 0.03


def test_densities_divided_by_the_temperature_are_another_integral(soft_maximum: ModuleType) -> None:
    """At T = 1 the authors' way is the page's; at T = 5 no number of samples brings it near."""
    for temperature, apart in ((1.0, False), (5.0, True)):
        found = soft_maximum.errors(1, soft_maximum.BROAD, 100, temperature, 100)
        assert (abs(float(found["authors"].mean() - found["page"].mean())) > 1.0) == apart
