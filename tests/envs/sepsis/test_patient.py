"""The tables of the sepsis simulation, against its rules."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from lightning_offrl.envs.sepsis.environment import Sepsis
from lightning_offrl.envs.sepsis.patient import DIED, DISCHARGED, describe, process, states, treatments_of
from tests.envs.sepsis.rules import next_step, numbers_of, surprise


@pytest.fixture(scope="module")
def ward() -> Sepsis:
    return Sepsis()


def test_the_tables_are_the_rules(ward: Sepsis) -> None:
    """2,000 draws of the rules for each of 250 states and actions."""
    rng = np.random.default_rng(0)
    live = np.flatnonzero(~ward.mdp.terminal)
    found = []
    for state, action in zip(rng.choice(live, 250), rng.integers(8, size=250), strict=True):
        drawn = next_step(np.tile(ward.patients[state], (2_000, 1)), int(action), rng, 0.1)
        seen = np.bincount(numbers_of(ward, *drawn), minlength=ward.mdp.n_states)
        found.append(surprise(seen, 2_000 * ward.mdp.transition[state, action]))
    statistic, freedom = np.sum(found, 0)  # mean `freedom`, variance 2 `freedom`
    assert freedom > 1_000 and abs(statistic - freedom) < 5.0 * math.sqrt(2.0 * freedom)


def test_states_and_admission() -> None:
    patients, number = states()
    assert len(patients) == 2 * 306 and (patients[:306, 0] == 0).all() and (patients[306:, 0] == 1).all()
    assert (patients[:306, 1:] == patients[306:, 1:]).all()
    bad = (patients[:, 1:5] != [1, 1, 1, 2]).sum(-1)
    live = patients[:, -1] >= 0
    assert live.sum() == 2 * 303 and bad[live].max() == 2  # 38 of 90 combinations are alive, times 8, less discharge
    assert number[0, 1, 1, 1, 2, 0, 0, 0] == 303 + DISCHARGED and number[1, 0, 0, 0, 2, 1, 1, 1] == 609 + DIED
    mdp = process(0.2, 0.1)
    assert mdp.start[:306].sum() == pytest.approx(mdp.start[patients[:, 0] == 0].sum())
    # Of admissions without diabetes: heart and pressure high, oxygen low would be death; all normal is refused too.
    alive = 0.0
    for h, p, o, g in product(range(3), range(3), range(2), range(5)):
        wrong = (h != 1) + (p != 1) + (o != 1) + (g != 2)
        if 0 < wrong < 3:
            alive += [0.25, 0.5, 0.25][h] * [0.25, 0.5, 0.25][p] * [0.2, 0.8][o] * [0.05, 0.15, 0.6, 0.15, 0.05][g]
    high_heart = 0.25 * 0.5 * 0.8 * 0.6 / alive
    assert process(0.0, 0.1).start[number[0, 2, 1, 1, 2, 0, 0, 0]] == pytest.approx(high_heart, abs=1e-12)
    assert describe(patients[number[0, 2, 1, 1, 2, 1, 0, 1]]) == (
        "not diabetic; heart rate high, blood pressure normal, oxygen normal, glucose normal; on antibiotics and "
        "ventilation"
    )
    assert describe(patients[305]) == "transferred" and treatments_of(6) == (0, 1, 1)
