"""The batch: what every key means, and the description of spaces that travels with it.

A batch is a ``TensorDict`` of batch size ``[B]`` (``[S, B]`` when S seeds are stacked) with TorchRL's key names.

==============================  =====================  ==========================================================
key                             shape, dtype           meaning
==============================  =====================  ==========================================================
``observation``                 ``[B, D]`` float32     raw, not normalized; nested for Dict spaces, uint8 stays uint8
``action``                      ``[B, A]`` float32     Box: scaled to [-1, 1] per dimension
..                              ``[B]`` int64          Discrete: the index of the action
``("next", "observation")``     as ``observation``     the real observation after the step (after n steps if n > 1),
                                                       also where the episode was truncated
``("next", "reward")``          ``[B]`` float32        reward of the step, transformed as the data module was told;
                                                       the discounted sum of n rewards if n > 1
``("next", "terminated")``      ``[B]`` bool           the environment itself ended the episode: value after it is 0
``("next", "truncated")``       ``[B]`` bool           the episode was cut from outside (time limit): still bootstraps
``discount``                    ``[B]`` float32        gamma ** (number of steps in the reward), for the bootstrap
``("next", "action")``          as ``action``          the data's next action in the same episode; at the last step of
                                                       an episode, where there is none, the action itself
``mc_return``                   ``[B]`` float32        discounted sum of transformed rewards to the episode's end
``behavior_log_prob``           ``[B]`` float32        log density of the logged action under the policy that chose it,
                                                       with respect to the *scaled* action
``timestep``                    ``[B]`` int64          steps since the episode began, from 0
``return_quantile``             ``[B]`` float32        share of the split's transitions whose episode returned less
                                                       (half of those that returned as much): mean 0.5
``action_mask``                 ``[B, n]`` bool        Discrete: which of the n actions are legal for this observation
``("next", "action_mask")``     ``[B, n]`` bool        the same for the next observation; may be all False after a
                                                       terminal step
==============================  =====================  ==========================================================

The last six are there only where a page asks for them (``OfflineAlgorithm.needs``) or the log has them.
Shapes are ``[B]``, never TorchRL's ``[B, 1]``: ``[B] - [B, 1]`` is ``[B, B]`` and trains without complaint.
`to_torchrl` and `from_torchrl` go each way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from lightning_offrl.errors import InputError

Key = str | tuple[str, ...]
Spec = dict[str, Any]
"""Plain description of the spaces, safe in a checkpoint: ``observation_shape`` (list, or nested dict of lists),
``action_kind`` ("box" or "discrete"), ``action_size`` (dimensions, or number of actions), and for boxes ``action_low``
and ``action_high`` (lists, in the environment's units)."""

IMITATION: tuple[Key, ...] = ("observation", "action")
TRANSITION: tuple[Key, ...] = (
    "observation",
    "action",
    ("next", "observation"),
    ("next", "reward"),
    ("next", "terminated"),
    ("next", "truncated"),
    "discount",
)
OPTIONAL: tuple[Key, ...] = (
    ("next", "action"),
    "mc_return",
    "behavior_log_prob",
    "timestep",
    "return_quantile",
    "action_mask",
    ("next", "action_mask"),
)
_MASKS: tuple[Key, ...] = ("action_mask", ("next", "action_mask"))
_PER_TRANSITION: tuple[Key, ...] = (
    ("next", "reward"),
    ("next", "terminated"),
    ("next", "truncated"),
    "discount",
    "mc_return",
    "behavior_log_prob",
    "timestep",
    "return_quantile",
)


def key_name(key: Key) -> str:
    """``("next", "reward")`` as ``next.reward``, for messages."""
    return key if isinstance(key, str) else ".".join(key)


def check(batch: TensorDictBase, spec: Spec, needs: Iterable[Key] = TRANSITION) -> None:
    """Compare a batch (or block of batches) with what a page needs.

    Args:
        batch: any batch size, ``[..., B]``.
        spec: the spaces the page was built for.
        needs: the keys the page reads.

    Raises:
        InputError: naming the first key that is missing or has the wrong shape or type.
    """
    size = tuple(batch.batch_size)
    for key in needs:
        value = batch.get(key, None)
        if value is None:
            raise InputError(
                f"the batch lacks {key_name(key)!r}, which this algorithm reads; it has "
                f"{sorted(key_name(k) for k in batch.keys(True, True))}"
            )
        if key in _PER_TRANSITION and tuple(value.shape) != size:
            raise InputError(
                f"{key_name(key)} has shape {list(value.shape)}, expected {list(size)}: one number per transition, "
                "without a trailing 1 (see batch.from_torchrl)"
            )
    terminated = batch.get(("next", "terminated"), None)
    if terminated is not None and terminated.dtype != torch.bool:
        raise InputError(f"next.terminated must be bool, got {terminated.dtype}")
    check_observation(batch["observation"], spec, size)
    for key in _MASKS:
        mask = batch.get(key, None)
        if mask is not None and (mask.dtype != torch.bool or list(mask.shape) != [*size, spec["action_size"]]):
            raise InputError(
                f"{key_name(key)} is {mask.dtype} of shape {list(mask.shape)}, expected bool of shape "
                f"{[*size, spec['action_size']]}: True for every legal action"
            )
    action = batch["action"]
    want = [*size, spec["action_size"]] if spec["action_kind"] == "box" else list(size)
    if list(action.shape) != want:
        raise InputError(f"action has shape {list(action.shape)}, expected {want}")
    if spec["action_kind"] == "discrete" and action.dtype != torch.int64:
        raise InputError(f"a discrete action must be int64, got {action.dtype}")


def check_observation(observation: Any, spec: Spec, size: tuple[int, ...], name: str = "observation") -> None:
    """Raise `InputError` when ``observation`` (tensor or nested) has not the shape of the spec behind ``size``."""
    _check_leaf(observation, spec["observation_shape"], size, name)


def _check_leaf(value: Any, shape: Any, size: tuple[int, ...], name: str) -> None:
    if isinstance(shape, Mapping):
        if not isinstance(value, TensorDictBase | Mapping):
            raise InputError(f"{name} must be a dictionary with the keys {sorted(shape)}, got {type(value).__name__}")
        missing = sorted(set(shape) - set(value.keys()))
        if missing:
            raise InputError(f"{name} lacks {missing}; it has {sorted(value.keys())}")
        for key, inner in shape.items():
            _check_leaf(value[key], inner, size, f"{name}.{key}")
    elif not isinstance(value, Tensor) or list(value.shape) != [*size, *shape]:
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"{name} has shape {got}, expected {[*size, *shape]}: the algorithm was built for observations of shape "
            f"{list(shape)}; pass the data it was built for"
        )


def make_spec(observation_space: Any, action_space: Any) -> Spec:
    """The plain description of Gymnasium spaces.

    Args:
        observation_space: Box, Discrete (read as one-hot vectors) or a (nested) Dict of these; an ``action_mask`` in
            it is no part of the observation, see `without_mask`.
        action_space: Box (any shape, flattened, with finite bounds) or Discrete.

    Raises:
        InputError: for any other space, naming what is supported.
    """
    from gymnasium import spaces

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


def observation_leaves(shape: Any, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], list[int]]:
    """Paths and shapes of all leaves of ``spec["observation_shape"]``; one leaf with the path ``()`` if not nested."""
    if not isinstance(shape, Mapping):
        return {prefix: list(shape)}
    leaves: dict[tuple[str, ...], list[int]] = {}
    for key, inner in shape.items():
        leaves.update(observation_leaves(inner, (*prefix, key)))
    return leaves


def encode_observation(value: Any, space: Any) -> Any:
    """An environment's raw observation(s) as this package stores them.

    Args:
        value: what the environment returned for ``space``, or an array of these with leading dimensions.
        space: its Gymnasium space.

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


def scale_action(action: Any, spec: Spec) -> Any:
    """Environment units to [-1, 1] per dimension. ``[..., A]`` numpy or tensor; discrete actions pass unchanged."""
    if spec["action_kind"] == "discrete":
        return action
    low, high = _bounds(action, spec)
    return 2.0 * (action - low) / (high - low) - 1.0


def unscale_action(action: Any, spec: Spec) -> Any:
    """[-1, 1] to environment units, the inverse of `scale_action`. ``[..., A]`` numpy or tensor."""
    if spec["action_kind"] == "discrete":
        return action
    low, high = _bounds(action, spec)
    return low + 0.5 * (action + 1.0) * (high - low)


def log_volume(spec: Spec) -> float:
    """``log |d environment action / d scaled action|``: what a log density gains when its action is scaled."""
    if spec["action_kind"] == "discrete":
        return 0.0
    span = np.asarray(spec["action_high"]) - np.asarray(spec["action_low"])
    return float(np.log(span / 2.0).sum())


def _bounds(like: Any, spec: Spec) -> tuple[Any, Any]:
    if isinstance(like, Tensor):
        return like.new_tensor(spec["action_low"]), like.new_tensor(spec["action_high"])
    dtype = like.dtype if np.issubdtype(np.asarray(like).dtype, np.floating) else np.float64
    return np.asarray(spec["action_low"], dtype), np.asarray(spec["action_high"], dtype)


def to_torchrl(batch: TensorDictBase) -> TensorDictBase:
    """Our batch in TorchRL's layout, for its replay buffers and losses.

    Per-transition numbers become ``[B, 1]``, and ``("next", "done")`` = terminated or truncated is added.
    """
    out = batch.clone(recurse=False)
    for key in _PER_TRANSITION:
        value = out.get(key, None)
        if value is not None:
            out.set(key, value.unsqueeze(-1))
    terminated = out.get(("next", "terminated"), None)
    if terminated is not None:
        out.set(("next", "done"), terminated | out["next", "truncated"])
    return out


def from_torchrl(batch: TensorDictBase) -> TensorDictBase:
    """TorchRL's ``[B, 1]`` layout as ours, the inverse of `to_torchrl`; ``done`` entries are dropped.

    Raises:
        InputError: if a per-transition entry does not end in a dimension of size 1.
    """
    out = batch.clone(recurse=False)
    for key in _PER_TRANSITION:
        value = out.get(key, None)
        if value is None:
            continue
        if value.shape[-1:] != (1,) or value.ndim != batch.ndim + 1:
            raise InputError(
                f"{key_name(key)} has shape {list(value.shape)}, TorchRL's layout would be {[*batch.batch_size, 1]}"
            )
        out.set(key, value.squeeze(-1))
    for name in (("next", "done"), "done", "terminated", "truncated"):
        if out.get(name, None) is not None:
            out.del_(name)
    return out


def nested(value: Any, batch_size: Iterable[int]) -> Any:
    """A dict of arrays as a ``TensorDict``, an array as a tensor; what `encode_observation` returns, made storable."""
    if isinstance(value, Mapping):
        size = list(batch_size)
        return TensorDict({key: nested(inner, size) for key, inner in value.items()}, batch_size=size)
    return torch.as_tensor(value)
