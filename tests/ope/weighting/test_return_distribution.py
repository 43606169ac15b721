"""Distribution functions of the return: every episode enumerated, quantiles and tails by hand and by numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_offrl.ope.weighting.importance import importance_sampling
from lightning_offrl.ope.weighting.return_distribution import (
    ReturnDistribution,
    logged_returns,
    weighted_returns,
)
from lightning_offrl.ope.weighting.trajectories import Trajectories
from tests.ope.enumeration import Process, enumerate_episodes, random_process

CASES = [pytest.param((), id="goes on"), pytest.param((2,), id="ends early")]


def bandit(returns, weights) -> Trajectories:
    """One step: the return is its reward, the weight its ratio."""
    reward = torch.tensor(returns, dtype=torch.float64).unsqueeze(-1)
    ratio = torch.tensor(weights, dtype=torch.float64).log().unsqueeze(-1)
    return Trajectories(reward=reward, mask=torch.ones_like(reward, dtype=torch.bool), log_ratio=ratio)


def test_quantiles_and_tails_by_hand() -> None:
    one = ReturnDistribution(torch.tensor([1.0, 2.0, 3.0, 4.0]).double(), torch.full((4,), 0.25).double())
    assert [float(one.quantile(level)) for level in (0.1, 0.25, 0.26, 0.5, 1.0)] == [1.0, 1.0, 2.0, 2.0, 4.0]
    assert float(one.cvar(0.5)) == pytest.approx(1.5)
    assert float(one.cvar(0.3)) == pytest.approx((0.25 * 1.0 + 0.05 * 2.0) / 0.3)
    assert float(one.cvar(0.1)) == 1.0 and float(one.cvar(1.0)) == pytest.approx(float(one.mean)) == 2.5
    assert [float(one.at(x)) for x in (0.9, 1.0, 2.5, 9.0)] == [0.0, 0.25, 0.5, 1.0]
    # masses that do not add up to one, or fall: the function is made one, the mean is left as it is
    odd = ReturnDistribution(torch.tensor([0.0, 1.0, 2.0]).double(), torch.tensor([0.6, -0.2, 0.4]).double())
    assert odd.cumulative.tolist() == pytest.approx([0.6, 0.6, 1.0])
    assert float(odd.mean) == pytest.approx(0.6) and float(odd.quantile(0.5)) == 0.0


def test_weighted_quantiles_are_numpys() -> None:
    """Inverted distribution function, weighted; the tail is the integral of the quantile function, by midpoints."""
    rng = np.random.default_rng(0)
    returns, weights = rng.normal(size=200), rng.exponential(size=200)
    found = weighted_returns(bandit(returns, weights))
    levels = (np.arange(20_000) + 0.5) / 20_000
    want = np.quantile(returns, levels, method="inverted_cdf", weights=weights)
    got = np.array([float(found.quantile(level)) for level in levels[::100]])
    assert got == pytest.approx(want[::100], abs=1e-12)
    for share in (0.05, 0.1, 0.5):
        assert float(found.cvar(share)) == pytest.approx(want[levels < share].mean(), abs=1e-3)


def test_the_mean_is_the_estimate_of_the_same_name() -> None:
    data = enumerate_episodes(random_process()).data.select(torch.arange(0, 648, 7))
    assert float(weighted_returns(data).mean) == pytest.approx(importance_sampling(data, normalized=True).value)
    assert float(weighted_returns(data, normalized=False).mean) == pytest.approx(importance_sampling(data).value)
    assert float(logged_returns(data).mean) == pytest.approx(float(data.returns.mean()))


def truth(process: Process, grid: torch.Tensor) -> torch.Tensor:
    """F of the target policy: its own episodes, enumerated as if it had made the log."""
    own = enumerate_episodes(replace(process, behavior=process.target))
    return ((own.data.returns <= grid.unsqueeze(-1)).double() * own.probability).sum(-1)


@pytest.mark.parametrize("ends", CASES)
def test_weights_give_the_policys_distribution_in_expectation(ends) -> None:
    """Each episode counted by its probability: F to rounding, for is and, in the limit, wis; not with wrong weights."""
    process = random_process(ends=ends)
    every = enumerate_episodes(process)
    counts = (every.probability * every.data.n).unsqueeze(0)
    grid = every.data.returns.sort().values[::40]
    want = truth(process, grid)
    for normalized in (False, True):
        found = weighted_returns(every.data, normalized=normalized, counts=counts)
        got = torch.stack([found.at(float(x) + 1e-12)[0] for x in grid])
        torch.testing.assert_close(got, want, atol=1e-12, rtol=0.0)
    wrong = enumerate_episodes(process, behavior=torch.full_like(process.behavior, 0.5)).data
    found = weighted_returns(wrong, counts=counts)
    assert float((torch.stack([found.at(float(x) + 1e-12)[0] for x in grid]) - want).abs().max()) > 0.02
