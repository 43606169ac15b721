"""Gymnasium spaces: their plain description, and what an environment returns in the form in which batches hold it."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_offrl.batch import Spec
from lightning_offrl.errors import InputError


def make_spec(observation_space: Any, action_space: Any) -> Spec:
    """The plain description of Gymnasium spaces.

    Args:
        observation_space: Box, Discrete (read as one-hot vectors) or a (nested) Dict of these; an ``action_mask`` in
            it is no part of the observation, see `without_mask`.
        action_space: Box (any shape, flattened, with finite bounds) or Discrete.

    Raises:
        InputError: for any other space, naming what is supported.
    """
    from gymnasium import spaces  # not at the top: reading arrays of known spaces needs no Gymnasium

    def shape_of(space: Any, name: str) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: shape_of(inner, f"{name}.{key}") for key, inner in sorted(space.spaces.items())}
        if isinstance(space, spaces.Discrete):
            return [int(space.n)]
        if isinstance(space, spaces.Box):
            return [int(n) for n in space.shape] or [1]
        raise InputError(
            f"{name} space {type(space).__name__} is not supported: observations may be Box, Discrete or Dict of "
            "these; convert it with a Gymnasium ObservationWrapper before logging"
        )

    spec: Spec = {"observation_shape": shape_of(without_mask(observation_space, action_space), "observation")}
    if isinstance(action_space, spaces.Discrete):
        if int(action_space.start) != 0:
            raise InputError(f"discrete actions must be counted from 0, these start at {int(action_space.start)}")
        return {**spec, "action_kind": "discrete", "action_size": int(action_space.n)}
    if not isinstance(action_space, spaces.Box):
        raise InputError(
            f"action space {type(action_space).__name__} is not supported: actions may be Box (continuous) or "
            "Discrete; a MultiDiscrete space can be numbered as one Discrete space"
        )
    low = np.asarray(action_space.low, dtype=np.float64).reshape(-1)
    high = np.asarray(action_space.high, dtype=np.float64).reshape(-1)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise InputError(
            f"the action Box must have finite bounds with low < high, got low {low.tolist()} high {high.tolist()}; "
            "give the bounds that the actions were clipped to"
        )
    return {
        **spec,
        "action_kind": "box",
        "action_size": len(low),
        "action_low": low.tolist(),
        "action_high": high.tolist(),
    }


def without_mask(observation_space: Any, action_space: Any) -> Any:
    """The observation space less the mask of legal actions that some environments keep in it.

    That is the key ``action_mask`` of a Dict, one number for each of n Discrete actions. It is read as a mask, and the
    networks do not see it. Any other space is returned as it is.
    """
    from gymnasium import spaces

    if not isinstance(observation_space, spaces.Dict) or not isinstance(action_space, spaces.Discrete):
        return observation_space
    mask = observation_space.spaces.get("action_mask")
    if mask is None or tuple(mask.shape or ()) != (int(action_space.n),) or len(observation_space.spaces) == 1:
        return observation_space
    return spaces.Dict({key: inner for key, inner in observation_space.spaces.items() if key != "action_mask"})


def encode_observation(value: Any, space: Any) -> Any:
    """An environment's raw observation(s) as this package stores them.

    Args:
        value: The value that the environment returned for ``space``, or an array of these with leading dimensions.
        space: The Gymnasium space of the value.

    Returns:
        Numpy float32 (uint8 stays uint8), Discrete as one-hot, a scalar Box as ``[1]``, Dict as a dict of these;
        leading dimensions kept.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return {key: encode_observation(value[key], inner) for key, inner in sorted(space.spaces.items())}
    array = np.asarray(value)
    if isinstance(space, spaces.Discrete):
        return np.eye(int(space.n), dtype=np.float32)[array.astype(np.int64) - int(space.start)]
    if array.dtype != np.uint8:
        array = array.astype(np.float32)
    return array[..., None] if space.shape == () else array
