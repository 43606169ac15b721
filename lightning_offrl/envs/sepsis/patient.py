"""The patient of the simulated ward: levels, treatments, and the probability of every step, as tables."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import numpy as np

from lightning_offrl.envs.tabular import Optimal, TabularMDP

Array = np.ndarray

VITALS = ("heart rate", "blood pressure", "oxygen", "glucose")
LEVELS = (3, 3, 2, 5)
"""How many levels each vital sign has, counted from 0, the lowest."""
NORMAL = (1, 1, 1, 2)
TREATMENTS = ("antibiotics", "vasopressors", "ventilation")

ENDS = ("died", "discharged", "transferred")
DIED, DISCHARGED, TRANSFERRED = range(3)
REWARD = (-1.0, 1.0, 0.0)
"""Of the step into each end; of all other steps 0."""

_SHAPE = (2, *LEVELS, 2, 2, 2)
_ADMISSION = ([0.25, 0.5, 0.25], [0.25, 0.5, 0.25], [0.2, 0.8])
_GLUCOSE = ([0.05, 0.15, 0.6, 0.15, 0.05], [0.01, 0.05, 0.15, 0.6, 0.19])  # without diabetes, with


def treatments_of(action: int) -> tuple[int, int, int]:
    """Which of antibiotics, vasopressors and ventilation are on: ``action = antibiotics + 2 vaso + 4 ventilation``."""
    return action & 1, action >> 1 & 1, action >> 2 & 1


def abnormal(vitals: Any) -> int:
    """The number of the four levels that are not normal."""
    return sum(level != normal for level, normal in zip(vitals, NORMAL, strict=True))


def describe(patient: Any) -> str:
    """One row of `states` in words: ``not diabetic; heart rate high, ...; on antibiotics``."""
    diabetic, *levels = (int(number) for number in patient)
    if levels[-1] < 0:
        return ENDS[levels[0]]
    words = {2: ("low", "normal"), 3: ("low", "normal", "high"), 5: ("lowest", "low", "normal", "high", "highest")}
    vitals = [f"{name} {words[n][level]}" for name, n, level in zip(VITALS, LEVELS, levels, strict=False)]
    on = [name for name, treated in zip(TREATMENTS, levels[4:], strict=True) if treated]
    return f"{'' if diabetic else 'not '}diabetic; {', '.join(vitals)}; on {' and '.join(on) or 'no treatment'}"


def _moves(levels: int, down: float, up: float) -> Array:
    """``[levels, levels]``: one level down or up with these probabilities; at the end of the scale it stays."""
    out = np.zeros((levels, levels))
    for i in range(levels):
        out[i, max(i - 1, 0)] += down
        out[i, min(i + 1, levels - 1)] += up
        out[i, i] += 1.0 - down - up
    return out


def _from(levels: int, level: int, chances: dict[int, float]) -> Array:
    """``[levels, levels]``: from one level to others with these probabilities; all else stays."""
    out = np.eye(levels)
    for to, chance in chances.items():
        out[level, to] += chance
        out[level, level] -= chance
    return out


@cache
def kernels(diabetic: int, before: tuple[int, ...], now: tuple[int, int, int]) -> tuple[Array, Array, Array, Array]:
    """The transition matrix of each vital sign in one step, ``[levels, levels]``, given the treatments before and now.

    The order is the authors': antibiotics, ventilation, vasopressors, and fluctuation where nothing acted.
    """
    antibiotics, vasopressors, ventilation = now
    heart, pressure, oxygen, glucose = (np.eye(levels) for levels in LEVELS)
    if antibiotics:
        heart = pressure = _from(3, 2, {1: 0.5})
    elif before[0]:
        heart = pressure = _from(3, 1, {2: 0.1})
    else:
        heart = _moves(3, 0.1, 0.1)
    if ventilation:
        oxygen = _from(2, 0, {1: 0.7})
    elif before[2]:
        oxygen = _from(2, 1, {0: 0.1})
    else:
        oxygen = _moves(2, 0.1, 0.1)
    if vasopressors and diabetic:
        raised = _from(3, 0, {1: 0.5, 2: 0.4})
        raised[1] = [0.0, 0.1, 0.9]
        pressure, glucose = pressure @ raised, _moves(5, 0.0, 0.5)
    elif vasopressors:
        pressure = pressure @ _moves(3, 0.0, 0.7)
    else:
        glucose = _moves(5, 0.3, 0.3) if diabetic else _moves(5, 0.1, 0.1)
        if before[1]:
            pressure = pressure @ _moves(3, 0.05 if diabetic else 0.1, 0.0)
        elif not (antibiotics or before[0]):
            pressure = _moves(3, 0.1, 0.1)
    return heart, pressure, oxygen, glucose


@cache
def states() -> tuple[Array, Array]:
    """The patients ``[n_states, 8]``, and the number of each combination ``[2, 3, 3, 2, 5, 2, 2, 2]``.

    Those without diabetes come first, then the others in the same order; of each the last three are the `ENDS`, with
    the end's number as heart rate and -1 as treatments. Combinations that are death or discharge have that number.
    """
    rows: list[tuple[int, ...]] = []
    number = np.empty(_SHAPE, dtype=np.int64)
    for diabetic in (0, 1):
        ended: dict[int, list[tuple[int, ...]]] = {DIED: [], DISCHARGED: [], TRANSFERRED: []}
        for rest in product(*map(range, _SHAPE[1:])):
            bad = abnormal(rest[:4])
            if bad >= 3 or (bad == 0 and not any(rest[4:])):
                ended[DISCHARGED if bad == 0 else DIED].append((diabetic, *rest))
            else:
                number[(diabetic, *rest)] = len(rows)
                rows.append((diabetic, *rest))
        for end, combinations in ended.items():
            for combination in combinations:
                number[combination] = len(rows)
            rows.append((diabetic, end, *NORMAL[1:], -1, -1, -1))
    return np.array(rows), number


@cache
def process(diabetes: float, transfer: float) -> TabularMDP:
    """The process, once for each share of diabetics and rate of transfers: 24 MB.

    Args:
        diabetes: share of diabetics among admissions.
        transfer: probability that a patient who stays after a step is moved.
    """
    patients, number = states()
    n, bits = len(patients), np.array([4, 2, 1])
    live = patients[:, -1] >= 0
    transition = np.zeros((n, 8, n))
    vitals = number.reshape(2, int(np.prod(LEVELS)), 8)  # combinations of levels, of treatments
    levels, on = patients[:, 1:5] @ np.array([30, 10, 5, 1]), patients[:, 5:] @ bits
    for diabetic, before, action in product((0, 1), product((0, 1), repeat=3), range(8)):
        now = treatments_of(action)
        kernel = np.ones((1, 1))
        for one in kernels(diabetic, before, now):
            kernel = np.kron(kernel, one)
        rows = np.flatnonzero(live & (patients[:, 0] == diabetic) & (on == before @ bits))
        for to, column in zip(vitals[diabetic, :, now @ bits], kernel[levels[rows]].T, strict=True):
            transition[rows, action, to] += column
    for diabetic in (0, 1):
        rows = np.flatnonzero(live & (patients[:, 0] == diabetic))
        moved = rows[-1] + 1 + TRANSFERRED
        transition[:, :, moved] += transfer * transition[:, :, rows].sum(-1)
        transition[:, :, rows] *= 1.0 - transfer
    start = np.zeros(n)
    for diabetic, share in enumerate((1.0 - diabetes, diabetes)):
        for combination in product(*map(range, LEVELS)):
            tables = (*_ADMISSION, _GLUCOSE[diabetic])
            chance = np.prod([table[level] for table, level in zip(tables, combination, strict=True)])
            start[number[(diabetic, *combination, 0, 0, 0)]] += share * chance
    start[~live] = 0.0  # nobody is admitted dead or well
    reward = np.where(live, 0.0, np.array(REWARD)[np.where(live, 0, patients[:, 1])])
    return TabularMDP(transition, reward, ~live, start / start.sum())


@cache
def solution(diabetes: float, transfer: float, discount: float) -> Optimal:
    """`TabularMDP.optimal` of `process`, once."""
    return process(diabetes, transfer).optimal(discount)
