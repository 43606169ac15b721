"""The rules of the sepsis simulation written a second time, without tables, and a test of counts."""

from __future__ import annotations

import numpy as np

from lightning_offrl.envs.sepsis.environment import Sepsis
from lightning_offrl.envs.sepsis.patient import DIED, DISCHARGED, TRANSFERRED

Array = np.ndarray


def next_step(patient: Array, action: int, rng: np.random.Generator, transfer: float) -> tuple[Array, int | None]:
    """The rules of the paper one after the other on N copies of a patient, written without any table.

    Returns the patients ``[N, 8]`` and how they ended ``[N]``, -1 for those who stay.
    """
    flag, heart, pressure, oxygen, glucose, anti_on, vaso_on, vent_on = (column.copy() for column in patient.T)
    anti, vaso, vent = action & 1, (action >> 1) & 1, (action >> 2) & 1
    n = len(flag)

    def chance(p: float | Array) -> Array:
        return rng.random(n) < p

    def wobble(level: Array, p: float | Array, top: int, where: Array) -> Array:
        u = rng.random(n)
        moved = np.where(u < p, level - 1, np.where(u < 2 * p, level + 1, level)).clip(0, top)
        return np.where(where, moved, level)

    quiet_heart = (anti == 0) & (anti_on == 0)
    quiet_pressure = quiet_heart & (vaso == 0) & (vaso_on == 0)
    quiet_oxygen = (vent == 0) & (vent_on == 0)
    if anti:
        heart = np.where((heart == 2) & chance(0.5), 1, heart)
        pressure = np.where((pressure == 2) & chance(0.5), 1, pressure)
    else:
        heart = np.where((anti_on == 1) & (heart == 1) & chance(0.1), 2, heart)
        pressure = np.where((anti_on == 1) & (pressure == 1) & chance(0.1), 2, pressure)
    if vent:
        oxygen = np.where((oxygen == 0) & chance(0.7), 1, oxygen)
    else:
        oxygen = np.where((vent_on == 1) & (oxygen == 1) & chance(0.1), 0, oxygen)
    if vaso:
        u = rng.random(n)
        sick = np.where(pressure == 1, np.where(u < 0.9, 2, 1), pressure)
        sick = np.where(pressure == 0, np.where(u < 0.5, 1, np.where(u < 0.9, 2, 0)), sick)
        well = np.where(u < 0.7, np.minimum(pressure + 1, 2), pressure)
        pressure = np.where(flag == 1, sick, well)
        glucose = np.where((flag == 1) & chance(0.5), np.minimum(glucose + 1, 4), glucose)
    else:
        falls = (vaso_on == 1) & chance(np.where(flag == 1, 0.05, 0.1))
        pressure = np.where(falls, np.maximum(pressure - 1, 0), pressure)
    heart = wobble(heart, 0.1, 2, quiet_heart)
    pressure = wobble(pressure, 0.1, 2, quiet_pressure)
    oxygen = wobble(oxygen, 0.1, 1, quiet_oxygen)
    glucose = wobble(glucose, np.where(flag == 1, 0.3, 0.1), 4, np.full(n, vaso == 0))
    wrong = (heart != 1).astype(int) + (pressure != 1) + (oxygen != 1) + (glucose != 2)
    end = np.where(wrong >= 3, DIED, np.where((wrong == 0) & (action == 0), DISCHARGED, -1))
    end = np.where((end < 0) & chance(transfer), TRANSFERRED, end)
    following = np.stack([flag, heart, pressure, oxygen, glucose, *(np.full(n, t) for t in (anti, vaso, vent))], -1)
    return following, end


def numbers_of(ward: Sepsis, patients: Array, end: Array) -> Array:
    """States by looking each patient up in the list."""
    table = {tuple(row): i for i, row in enumerate(ward.patients.tolist())}
    last = ward.mdp.n_states // 2
    return np.array(
        [
            table[tuple(p)] if e < 0 else last * (p[0] + 1) - 3 + e
            for p, e in zip(patients.tolist(), end.tolist(), strict=True)
        ]
    )


def surprise(seen: Array, expected: Array) -> tuple[float, int]:
    """Pearson's chi-square of counts and its degrees of freedom; rare cells are joined, impossible ones must be 0."""
    assert seen[expected == 0.0].sum() == 0
    rare = (expected > 0.0) & (expected < 5.0)
    groups = [(seen[rare].sum(), expected[rare].sum())] if expected[rare].sum() >= 5.0 else []
    groups += list(zip(seen[expected >= 5.0], expected[expected >= 5.0], strict=True))
    return sum((o - e) ** 2 / e for o, e in groups), len(groups) - 1
