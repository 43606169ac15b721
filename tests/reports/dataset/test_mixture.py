"""How many policies made the data, and how random they were, where both are known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lightning_offrl.data.readers import load
from lightning_offrl.envs.gridworld.environment import GridWorld
from lightning_offrl.reports.dataset.mixture import find_policies
from lightning_offrl.reports.dataset.states import (
    fit_scale,
)
from tests.reports.dataset.worlds import stitch, walks

GAINS = np.array([[0.6, 0.0, 0.2], [-0.6, 0.3, 0.0], [0.0, -0.7, 0.5], [0.5, 0.5, -0.5]])


def linear(which: list[int], noise: float = 0.15) -> Any:
    def act(state: np.ndarray, i: int, rng: np.random.Generator) -> np.ndarray:
        return np.array([GAINS[which[i % len(which)]] @ state]) + noise * rng.normal(size=1)

    return act


@pytest.mark.parametrize(
    ("which", "effective"),
    [
        ([0], 1.0),
        ([0, 1], 2.0),
        ([0, 1, 2], 3.0),
        ([0, 1, 2, 3], 4.0),
        ([0, 0, 0, 1], math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))),
    ],
)
def test_policies_of_a_known_mixture_are_counted(which: list[int], effective: float) -> None:
    data = walks(48, 40, linear(which))
    found = find_policies(data, fit_scale(data))
    assert found.number == len(set(which))
    assert found.effective == pytest.approx(effective, abs=0.05)
    truth = torch.tensor([which[i % len(which)] for i in range(48)])
    for policy in range(found.number):  # every episode in the right company
        assert len(set(truth[found.of_episode == policy].tolist())) == 1


def test_policies_that_differ_by_less_than_the_noise_are_one() -> None:
    """Means 0.2 noise deviations apart gain d^2 / 8 = 0.005 nats per decision."""
    data = walks(48, 40, lambda s, i, rng: np.array([0.3 * s[0] + 0.03 * (-1) ** i]) + 0.3 * rng.normal(size=1))
    assert find_policies(data, fit_scale(data)).number == 1


def test_one_policy_that_is_not_linear_is_one() -> None:
    data = walks(60, 40, lambda s, i, rng: np.array([np.sin(4 * s[0]) * s[1]]) + 0.2 * rng.normal(size=1))
    assert find_policies(data, fit_scale(data)).number == 1


def test_tables_of_a_known_mixture_are_counted() -> None:
    data = stitch(20)
    found = find_policies(data, fit_scale(data))
    assert found.number == 2 and found.effective == pytest.approx(2.0, abs=1e-3)
    assert found.of_episode[:20].unique().tolist() != found.of_episode[20:].unique().tolist()
    world = GridWorld("four-rooms")
    one = load(world.dataset(world.mdp.behavior_policy(0.5), 60))
    assert find_policies(one, fit_scale(one)).number == 1


def test_discrete_spread_is_the_chance_to_differ() -> None:
    """Policies of probabilities p differ with 1 - sum p^2: 1/2 of two actions alike, 0.375 of 3/4 and 1/4."""
    for share, chance in ((0.5, 0.5), (0.75, 0.375)):
        data = walks(40, 60, lambda s, i, rng, p=share: np.int64(rng.random() > p))
        found = find_policies(data, fit_scale(data))
        assert found.disagreement == pytest.approx(chance, abs=0.02)
        assert found.randomness == pytest.approx(chance / 0.5, abs=0.04)
        entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
        # An upper bound: 48 cells of 25 held-out steps each cost about 48 / 2400 nats.
        assert entropy - 0.01 < found.entropy < entropy + 0.05 and found.entropy <= math.log(2)


def test_random_is_random_among_legal_actions() -> None:
    """Two of four actions legal, both as often: as random as it can be, ln 2 nats; without masks 1/2 over 3/4."""
    data = walks(40, 60, lambda s, i, rng: np.int64(rng.random() > 0.5))
    data = replace(data, spec={**data.spec, "action_size": 4})
    free = find_policies(data, fit_scale(data))
    assert free.uniform_entropy == pytest.approx(math.log(4)) and free.randomness == pytest.approx(2 / 3, abs=0.03)
    data.data["action_mask"] = torch.tensor([True, True, False, False]).repeat(len(data), 1)
    found = find_policies(data, fit_scale(data))
    assert found.uniform_entropy == pytest.approx(math.log(2)) and found.randomness == pytest.approx(1.0, abs=0.04)
    assert found.disagreement == free.disagreement
    data.data["action_mask"][::2] = torch.eye(4, dtype=torch.bool)[
        data.data["action"][::2]
    ]  # no choice in half of them
    half = find_policies(data, fit_scale(data))
    assert half.uniform_entropy == pytest.approx(math.log(2) / 2)


def test_entropy_comes_from_the_log_where_there_is_one() -> None:
    world = GridWorld("corridor")
    data = load(world.dataset(world.mdp.uniform(), 40, seed=3))
    found = find_policies(data, fit_scale(data))
    assert found.logged and found.entropy == pytest.approx(math.log(4)) and found.entropy_error == pytest.approx(0.0)
