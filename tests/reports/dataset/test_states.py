"""Coverage, nearness and the spread of actions in a state, where they are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_offrl.data.readers import load
from lightning_offrl.envs.gridworld.environment import GridWorld
from lightning_offrl.reports.dataset.mixture import find_policies
from lightning_offrl.reports.dataset.states import (
    fit_scale,
    noise_variance,
    row_hashes,
    state_space,
)
from tests.reports.dataset.worlds import states_of, walks


def test_row_hashes_tell_rows_apart() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(5000, 4)).astype(np.float32))
    hashes = row_hashes(torch.cat([x, x]))
    assert torch.equal(hashes[:5000], hashes[5000:]) and len(hashes.unique()) == 5000
    assert len(row_hashes(torch.eye(200)).unique()) == 200
    assert row_hashes(torch.tensor([[0.0], [-0.0]])).unique().numel() == 1
    grid = torch.cartesian_prod(torch.arange(40), torch.arange(40), torch.arange(5)).float()
    assert len(row_hashes(grid).unique()) == 8000 == len(row_hashes(grid[:, :1], grid[:, 1:]).unique())
    swapped = row_hashes(grid[:, [1, 0, 2]])
    assert (swapped == row_hashes(grid)).sum() == 40 * 5  # only where both are the same


def test_coverage_of_a_finite_world() -> None:
    world = GridWorld("corridor")
    data = load(world.dataset(world.mdp.uniform(), 200, seed=0))
    space = state_space(data, fit_scale(data))
    visited = len(set(states_of(data)))
    pairs = len(set(zip(states_of(data), data.data["action"].tolist(), strict=True)))
    assert space.tabular and space.distinct == visited and space.pairs == pairs
    assert space.possible_pairs == 4 * visited and space.by_successors
    # A corridor has one direction: the first axis of where one goes from here orders its cells.
    first = {s: float(p) for s, p in zip(states_of(data), space.map[:, 0], strict=True)}
    along = [first[s] for s in sorted(first)]
    assert along == sorted(along) or along == sorted(along, reverse=True)


def test_effective_dimension() -> None:
    rng = np.random.default_rng(0)
    data = walks(20, 50, lambda s, i, rng: np.zeros(1), size=4)
    noise = rng.normal(size=(1000, 1)).astype(np.float32)
    same = torch.from_numpy(np.concatenate([noise, 2 * noise, -noise, np.ones_like(noise)], 1))
    data.data["observation"] = same
    space = state_space(data, fit_scale(data))
    assert space.effective_dimension == pytest.approx(1.0, abs=1e-4)
    assert space.constant == 1 and not space.tabular
    assert space.explained == pytest.approx((1.0, 0.0), abs=1e-4)


def test_the_spread_of_actions_is_the_noise_that_was_added() -> None:
    """Gamma test: standard deviations 0.1 and 0.3 around a smooth policy; the rest of the variance is the state's."""

    def act(state: np.ndarray, i: int, rng: np.random.Generator) -> np.ndarray:
        mean = np.array([0.4 * np.tanh(2 * state[0]), 0.2 * state[1] * state[2]])
        return mean + np.array([0.1, 0.3]) * rng.normal(size=2)

    data = walks(60, 60, act)
    left, total = noise_variance(data, fit_scale(data))
    # A variance from n = 3000 queries with 10 neighbors each: about 5 % error.
    assert left.sqrt().tolist() == pytest.approx([0.1, 0.3], rel=0.12)
    assert (left <= total).all()
    still = walks(30, 40, lambda s, i, rng: np.array([0.5 * s[0]]))
    assert find_policies(still, fit_scale(still)).randomness < 0.02
