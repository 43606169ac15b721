"""Masks of legal actions as environments give them: ``info["action_mask"]``, or the same key of a dict observation.

Gymnasium's own example is Taxi: ``info["action_mask"]`` holds n zeros and ones, that of ``reset`` for the first action,
that of each ``step`` for the next. Logged masks are checked by `lightning_offrl.data.readers.action_masks`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lightning_offrl.batch import Spec
from lightning_offrl.errors import InputError


def mask_of(observation: Any, info: Any, spec: Spec) -> np.ndarray | None:
    """Which of the n actions are legal for an observation, ``[n]`` bool; None for Box actions or where nothing is said.

    Args:
        observation: The observation that the environment returned.
        info: The dictionary that came with it.
        spec: the spaces; an ``action_mask`` that is part of the observation by this spec is no mask.

    Raises:
        InputError: if there are not n flags.
    """
    if spec["action_kind"] != "discrete":
        return None
    found = info.get("action_mask") if isinstance(info, Mapping) else None
    if found is None and isinstance(observation, Mapping) and "action_mask" not in spec["observation_shape"]:
        found = observation.get("action_mask")
    if found is None:
        return None
    mask = np.asarray(found)
    if mask.shape != (spec["action_size"],):
        raise InputError(
            f"the environment gave an action_mask of shape {list(mask.shape)} for {spec['action_size']} actions; "
            "expected one flag for every action"
        )
    return mask.astype(bool)


def takes_mask(act: Callable[..., Any]) -> bool:
    """Whether a policy can be told what is legal: it has an argument ``action_mask``."""
    try:
        return "action_mask" in inspect.signature(act).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return False


def decide(act: Callable[..., Any], observation: Any, mask: np.ndarray | None) -> Any:
    """The action of a policy, which receives the mask of legal actions where both it and the environment can."""
    return act(observation) if mask is None or not takes_mask(act) else act(observation, action_mask=mask)


def stacked(masks: list[np.ndarray | None]) -> np.ndarray | None:
    """Masks of an episode's observations as one array; where one is missing among others everything is legal."""
    given = next((mask for mask in masks if mask is not None), None)
    return None if given is None else np.stack([np.ones_like(given) if mask is None else mask for mask in masks])
