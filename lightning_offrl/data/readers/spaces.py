"""Spaces of logged data: inferred where they are not stored, and the arrays brought into the form of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lightning_offrl.batch import Spec, scale_action
from lightning_offrl.data.readers.checks import array_leaves, check_finite, place
from lightning_offrl.envs.spaces import encode_observation
from lightning_offrl.errors import InputError

# Logged actions may overshoot their bounds by rounding, up to this share of the range; they are clipped.
OVERSHOOT = 1e-4


def infer_observation_space(value: Any, label: str, name: str) -> Any:
    """An unbounded Box (0 to 255 for uint8) of the shape seen, or a Dict of these."""
    from gymnasium import spaces

    if isinstance(value, dict):
        return spaces.Dict({k: infer_observation_space(v, f"{label}.{k}", name) for k, v in value.items()})
    if value.ndim < 2:
        raise InputError(
            f"{label} of {name} has shape {list(value.shape)}, expected [T, D]: a single feature is written [T, 1], "
            "and numbered states need observation_space=gymnasium.spaces.Discrete(n)"
        )
    if value.dtype == np.uint8:
        return spaces.Box(0, 255, value.shape[1:], np.uint8)
    return spaces.Box(-np.inf, np.inf, value.shape[1:], np.float32)


def infer_action_space(action: np.ndarray, space: Any, name: str, notes: list[str], action_mask: Any = None) -> Any:
    """The environment's ``space`` if it is known and fits the actions, else [-1, 1] per dimension, or as many as seen.

    A mask of legal actions tells their number.
    """
    from gymnasium import spaces

    integers = action.dtype.kind in "iub"
    if integers and action.ndim == 2 and action.shape[1] > 1:
        raise InputError(
            f"actions of {name} are integers of shape {list(action.shape)}: several discrete actions per step are not "
            "supported; number the combinations as one, or convert to float if they are continuous"
        )
    if not integers and action.ndim < 2:
        raise InputError(
            f"actions of {name} has shape {list(action.shape)}, expected [T, A]: a single dimension is written [T, 1]"
        )
    if integers:
        if isinstance(space, spaces.Discrete):
            return space
        if action_mask is not None and np.ndim(action_mask) == 2:
            return spaces.Discrete(np.shape(action_mask)[1])
        seen = max(int(action.max()), 0) + 1
        notes.append(f"the number of actions is not stored: taken as {seen}, one more than the largest seen")
        return spaces.Discrete(seen)
    width = int(np.prod(action.shape[1:]))
    if isinstance(space, spaces.Box) and int(np.prod(space.shape)) == width and space.is_bounded():
        return space
    return spaces.Box(-1.0, 1.0, (width,), np.float32)


def environment_action_space(environment: str, *, trusted: bool) -> Any:
    """The action space of an environment, or None if it cannot be made here; see `envs.make.make_environment`."""
    from lightning_offrl.envs.make import make_environment

    try:
        env = make_environment(environment, trusted=trusted)
    except InputError:  # its simulator may not be installed; the data can be used all the same
        return None
    try:
        return env.action_space
    finally:
        env.close()


def spaces_of(spec: Spec, observations: Any) -> tuple[Any, Any]:
    """Observation and action space that have this spec; pictures where ``observations`` are uint8."""
    from gymnasium import spaces

    def observation(shape: Any, value: Any) -> Any:
        if isinstance(shape, Mapping):
            given = value if isinstance(value, Mapping) else {}
            return spaces.Dict({key: observation(inner, given.get(key)) for key, inner in shape.items()})
        if getattr(value, "dtype", None) == np.uint8:
            return spaces.Box(0, 255, tuple(shape), np.uint8)
        return spaces.Box(-np.inf, np.inf, tuple(shape), np.float32)

    space = observation(spec["observation_shape"], observations)
    if spec["action_kind"] == "discrete":
        return space, spaces.Discrete(spec["action_size"])
    return space, spaces.Box(np.asarray(spec["action_low"]), np.asarray(spec["action_high"]), dtype=np.float64)


def scale(action: np.ndarray, spec: Spec, ends: np.ndarray, name: str) -> np.ndarray:
    """Checked actions: ``[T, A]`` float32 in [-1, 1], or ``[T]`` int64."""
    rows, size = len(action), spec["action_size"]
    if spec["action_kind"] == "discrete":
        flat = action.reshape(rows, -1)
        if flat.shape[1] != 1:
            raise InputError(f"actions of {name} has shape {list(action.shape)}, expected [T] for a Discrete space")
        number = flat[:, 0].astype(np.int64)
        wrong = np.flatnonzero((number != flat[:, 0]) | (number < 0) | (number >= size))
        if len(wrong):
            raise InputError(
                f"actions of {name} holds {flat[wrong[0], 0]} at {place(int(wrong[0]), ends)}, expected a whole number "
                f"from 0 to {size - 1}"
            )
        return number
    # In float64, so that float32 actions within [-1, 1] come out bit for bit.
    flat = action.reshape(rows, -1).astype(np.float64)
    if action.ndim < 2 and size != 1 or flat.shape[1] != size:
        raise InputError(f"actions of {name} has shape {list(action.shape)}, expected [{rows}, {size}]")
    scaled = np.asarray(scale_action(flat, spec))
    over = np.abs(scaled) - 1.0
    bad = np.argwhere(over > 2.0 * OVERSHOOT)
    if len(bad):
        row, dim = (int(i) for i in bad[0])
        raise InputError(
            f"actions of {name} holds {flat[row, dim]:g} in dimension {dim} at {place(row, ends)}, outside of the "
            f"bounds [{spec['action_low'][dim]:g}, {spec['action_high'][dim]:g}]; pass the arrays with the "
            "action_space they were logged in, or clip them if the environment did"
        )
    return np.clip(scaled, -1.0, 1.0).astype(np.float32)


def encode(value: Any, space: Any, label: str, ends: np.ndarray, name: str) -> Any:
    """Checked against the space, then as the package stores it."""
    from gymnasium import spaces

    def check(value: Any, space: Any, label: str) -> None:
        if isinstance(space, spaces.Dict):
            if not isinstance(value, dict) or set(value) != set(space.spaces):
                got = sorted(value) if isinstance(value, dict) else f"an array of shape {list(value.shape)}"
                raise InputError(f"{label} of {name} must have the keys {sorted(space.spaces)}, got {got}")
            for key, inner in space.spaces.items():
                check(value[key], inner, f"{label}.{key}")
            return
        want = tuple(getattr(space, "shape", ()) or ())
        if isinstance(value, dict):
            raise InputError(f"{label} of {name} has the keys {sorted(value)}, expected one array of shape [T, ...]")
        if value.shape[1:] != want:
            raise InputError(f"{label} of {name} has shape {list(value.shape)}, expected {[len(value), *want]}")
        if isinstance(space, spaces.Discrete):
            index = value - space.start
            bad = np.flatnonzero((index < 0) | (index >= space.n) | (index != np.floor(index)))
            if len(bad):
                raise InputError(
                    f"{label} of {name} holds {value[bad[0]]} at {place(int(bad[0]), ends)}, expected a whole number "
                    f"from {space.start} to {space.start + space.n - 1}"
                )

    check(value, space, label)
    encoded = encode_observation(value, space)
    for path, leaf in array_leaves(encoded, label):
        # A float64 may be too large for float32.
        check_finite(leaf, path, ends, name)
    return _own(encoded)


def _own(value: Any) -> Any:
    """Pictures pass the encoder uncopied; what the user does to them later must not reach the episodes."""
    if isinstance(value, dict):
        return {key: _own(inner) for key, inner in value.items()}
    return value.copy() if value.dtype == np.uint8 else value
