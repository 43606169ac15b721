"""Distribution functions of the return: every episode enumerated, quantiles and tails by hand and by numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_offrl.errors import InputError
from lightning_offrl.ope.weighting.doubly_robust import doubly_robust
from lightning_offrl.ope.weighting.importance import importance_sampling
from lightning_offrl.ope.weighting.return_distribution import (
    ReturnDistribution,
    corrected_returns,
    corrected_terms,
    logged_returns,
    particle_function,
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


def returns_from(process: Process, policy: torch.Tensor) -> list[dict[tuple[int, int], dict[float, float]]]:
    """Exact distribution of the return from step t on, by state and action: ``[t][(s, a)][return] = probability``."""
    states, actions = policy.shape
    out: list[dict] = [{} for _ in range(process.horizon)]
    for t in reversed(range(process.horizon)):
        for s in range(states):
            for a in range(actions):
                found: dict[float, float] = {}
                for after in range(states):
                    chance, reward = float(process.step[s, a, after]), float(process.reward[s, a, after])
                    ahead = [(0.0, 1.0)]
                    if t + 1 < process.horizon and after not in process.ends:
                        ahead = [
                            (z, float(policy[after, b]) * p)
                            for b in range(actions)
                            for z, p in out[t + 1][after, b].items()
                        ]
                    for z, p in ahead:
                        total = reward + process.discount * z
                        found[total] = found.get(total, 0.0) + chance * p
                out[t][s, a] = found
    return out


def particles(process: Process, every, tables) -> tuple[torch.Tensor, ...]:
    """Values and weights at the logged actions, and over the policy's actions, padded with weight 0."""
    size = max(len(z) for table in tables for z in table.values())
    n, steps = every.state.shape
    shape = (n, steps, size)
    at, at_w = torch.zeros(shape).double(), torch.zeros(shape).double()
    over, over_w = torch.zeros(n, steps, 2 * size).double(), torch.zeros(n, steps, 2 * size).double()
    for t in range(steps):
        for (s, a), z in tables[t].items():
            value, weight = torch.zeros(size).double(), torch.zeros(size).double()
            value[: len(z)] = torch.tensor(list(z), dtype=torch.float64)
            weight[: len(z)] = torch.tensor(list(z.values()), dtype=torch.float64)
            here = every.state[:, t] == s
            over[here, t, a * size : (a + 1) * size] = value
            over_w[here, t, a * size : (a + 1) * size] = weight * process.target[s, a]
            here = here & (every.action[:, t] == a)
            at[here, t], at_w[here, t] = value, weight
    return at, at_w, over, over_w


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


@pytest.mark.parametrize("ends", CASES)
def test_corrected_is_right_where_weights_or_model_are(ends) -> None:
    """In expectation, to rounding: true weights and any model; the exact model and any weights; not neither."""
    process = random_process(ends=ends)
    grid = enumerate_episodes(process).data.returns.sort().values[::60] + 1e-9
    want = truth(process, grid)
    wrong = torch.tensor([[0.9, 0.1]], dtype=torch.float64).expand(3, 2)
    models = {"exact": process.target, "other": process.behavior.flip(0)}
    for name, model in models.items():
        for behavior in (None, wrong):
            every = enumerate_episodes(process, behavior=behavior)
            at, at_w, over, over_w = particles(process, every, returns_from(process, model))
            after = particle_function(every.data, grid, at, at_w)
            before = particle_function(every.data, grid, over, over_w)
            terms = corrected_terms(every.data, grid, after, before, normalized=False)
            off = float((torch.tensor([every.expectation(x) for x in terms], dtype=torch.float64) - want).abs().max())
            assert off > 0.01 if name == "other" and behavior is not None else off < 1e-9, (name, behavior)
            if behavior is None:
                limit = [every.limit(x) for x in corrected_terms(every.data, grid, after, before)]
                assert limit == pytest.approx(want.tolist(), abs=1e-9)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("ends", CASES)
def test_the_mean_of_the_corrected_is_the_doubly_robust_estimate(ends, normalized: bool) -> None:
    """On a grid that holds every number that can occur, with the model's means as q and v."""
    process = random_process(ends=ends)
    every = enumerate_episodes(process)
    rows = torch.arange(0, every.data.n, 97)
    every = replace(
        every, state=every.state[rows], action=every.action[rows], data=every.data.select(rows), probability=None
    )
    at, at_w, over, over_w = particles(process, every, returns_from(process, process.behavior))
    data = replace(every.data, q=(at * at_w).sum(-1), v=(over * over_w).sum(-1))
    earned = (data.factors * data.reward).cumsum(-1) - data.factors * data.reward
    whole = [(earned.unsqueeze(-1) + data.factors.unsqueeze(-1) * z)[w > 0.0] for z, w in ((at, at_w), (over, over_w))]
    grid = torch.cat([*whole, data.returns]).round(decimals=9).unique() + 5e-10
    after, before = particle_function(data, grid, at, at_w), particle_function(data, grid, over, over_w)
    found = corrected_returns(data, grid, after, before, normalized=normalized)
    assert float(found.mean) == pytest.approx(doubly_robust(data, normalized=normalized).value, abs=1e-8)
    assert float(found.mass.sum()) == pytest.approx(1.0)


def test_functions_of_another_shape_are_refused() -> None:
    data = bandit(np.zeros(200), np.ones(200))
    with pytest.raises(InputError, match="must be"):
        corrected_returns(data, torch.zeros(3), torch.zeros(200, 1, 2), torch.zeros(200, 1, 3))
