"""Where episodes begin and end in flat arrays: by their flags, and where one observation does not follow another."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_offrl.data.readers.checks import count
from lightning_offrl.errors import InputError

SAME_STATE = 1e-6
"""Largest difference, relative to numbers above 1, between a next observation and the following row's observation that
is still the same state."""


def borders(
    ends: np.ndarray, observation: Any, following: Any, has_timeouts: bool, name: str, notes: list[str]
) -> np.ndarray:
    """Last steps of all episodes, ``[T]`` bool: where a flag is, where the observations jump, and the last row."""
    ends = ends.copy()
    if following is not None:
        jumps = np.append(differ(following, observation), False) & ~ends
        if has_timeouts and jumps.any():
            notes.append(
                f"in {count(int(jumps.sum()), 'place')} the stored next observation is not the following row's "
                "although no flag is set: taken as the end of an episode"
            )
        if jumps.sum() > len(ends) // 2:
            notes.append(
                "most rows do not follow each other (shuffled?), so returns, n-step rewards and Monte-Carlo returns of "
                "this dataset mean nothing"
            )
        ends |= jumps
    elif not has_timeouts:
        raise InputError(
            f"{name} has neither timeouts nor next_observations, so it cannot be seen where episodes end; give one of "
            "them (timeouts of zeros if every episode ends in a terminal state)"
        )
    ends[-1] = True
    return ends


def close(
    terminal: np.ndarray,
    timeout: np.ndarray,
    ends: np.ndarray,
    unknown: str | None,
    has_timeouts: bool,
    notes: list[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Give every episode exactly one flag at its last kept row; returns the rows to keep, and the timeouts.

    ``unknown`` names what is not known after the last row of an episode; None: everything is.
    """
    unmarked = ends & ~terminal & ~timeout
    if unknown is None:
        if unmarked.any():
            why = "with neither flag" if has_timeouts else "without a terminal state, and timeouts are not stored"
            notes.append(
                f"{count(int(unmarked.sum()), 'episode')} ended {why}: kept as truncated, because the last next "
                "observation is stored"
            )
        return np.ones(len(ends), dtype=bool), timeout | unmarked
    cut = ends & ~terminal
    if cut.any():
        parts = [
            f"{count(int(mask.sum()), 'episode')} ended {how}"
            for mask, how in ((timeout, "in a timeout"), (unmarked, "with neither flag"))
            if mask.any()
        ]
        notes.append(
            f"{' and '.join(parts)}: the last step of each was cut, because {unknown} is not stored and what came "
            "after it is unknown"
        )
    # The row before a cut one is now the last of its episode, unless the episode had no other row.
    before = np.append(cut[1:], False) & ~ends
    return ~cut, before


def differ(following: Any, observation: Any, tolerance: float = SAME_STATE) -> np.ndarray:
    """Whether each row's next observation is another state than the following row's, ``[T - 1]`` bool."""
    if isinstance(observation, dict):
        return np.any([differ(following[key], observation[key], tolerance) for key in observation], axis=0)
    left, right = following[:-1], observation[1:]
    if left.dtype == np.uint8:
        unequal = left != right
    else:
        unequal = np.abs(left - right) > tolerance * np.maximum(1.0, np.abs(right))
    return unequal.any(axis=tuple(range(1, unequal.ndim)))
