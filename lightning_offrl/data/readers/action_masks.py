"""Masks of legal actions in arrays of logged data: where they are found, and that they fit the actions taken.

What environments say while they run is read by `lightning_offrl.envs.action_masks`, and cells of tables by
`lightning_offrl.data.logs.masks`; both end up here. This module is imported only where a dataset has masks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_offrl.batch import Spec
from lightning_offrl.data.readers.checks import check_rows, numbers, place
from lightning_offrl.envs.spaces import without_mask
from lightning_offrl.errors import InputError


def holds_mask(observations: Any, observation_space: Any, action_space: Any) -> bool:
    """Whether dictionary observations of discrete actions hold a mask beside what is observed."""
    if not isinstance(observations, dict) or "action_mask" not in observations or len(observations) == 1:
        return False
    if observation_space is not None and action_space is not None:
        return without_mask(observation_space, action_space) is not observation_space
    return not isinstance(observations["action_mask"], dict) and observations["action_mask"].ndim == 2


def masks(
    action_mask: Any, next_action_mask: Any, action: np.ndarray, spec: Spec, ends: np.ndarray, name: str
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Both masks as ``[T, n]`` bool, or None.

    Args:
        action_mask: flags of each observation, True or 1 for legal.
        next_action_mask: of each next observation.
        action: ``[T]`` int64, what was done.
        spec: the spaces.
        ends: ``[T]`` bool, last steps of episodes, for messages.
        name: of the dataset.

    Raises:
        InputError: for continuous actions, a wrong shape, other numbers than 0 and 1, or an action that was illegal.
    """
    if action_mask is None and next_action_mask is None:
        return None, None
    if action_mask is None:
        raise InputError(f"{name} has next_action_mask but no action_mask; give both, or action_mask alone")
    if spec["action_kind"] != "discrete":
        raise InputError(f"{name} has action_mask, but its actions are continuous; masks are for Discrete actions")
    mask = _flags(action_mask, "action_mask", len(action), spec, ends, name)
    following = None
    if next_action_mask is not None:
        following = _flags(next_action_mask, "next_action_mask", len(action), spec, ends, name)
    wrong = np.flatnonzero(~mask[np.arange(len(action)), action])
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"{name} takes action {action[row]} at {place(row, ends)}, which its action_mask forbids, and {len(wrong)} "
            "illegal actions in all; the mask of a step is that of the observation before it, True for legal"
        )
    return mask, following


def check_goes_on(next_mask: np.ndarray, onward: np.ndarray, ends: np.ndarray, name: str) -> None:
    """Raise `InputError` where a next observation that is not terminal (``onward``) allows nothing."""
    stuck = np.flatnonzero(onward & ~next_mask.any(1))
    if len(stuck):
        raise InputError(
            f"next_action_mask of {name} allows no action after {place(int(stuck[0]), ends)}, but the step is not "
            "terminal; set terminated there, or give the mask of what was legal"
        )


def _flags(value: Any, label: str, rows: int, spec: Spec, ends: np.ndarray, name: str) -> np.ndarray:
    array = numbers(value, label)
    check_rows(array, label, rows, name)
    if array.shape != (rows, spec["action_size"]):
        raise InputError(
            f"{label} of {name} has shape {list(array.shape)}, expected {[rows, spec['action_size']]}: one flag for "
            "every action (give action_space where not all actions were seen)"
        )
    bad = np.argwhere((array != 0) & (array != 1))
    if len(bad):
        row, action = (int(i) for i in bad[0])
        raise InputError(
            f"{label} of {name} must be true or false (1 or 0), but holds {array[row, action]:g} for action {action} "
            f"at {place(row, ends)}"
        )
    return array.astype(bool)
