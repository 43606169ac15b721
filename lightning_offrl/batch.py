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


def observation_leaves(shape: Any, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], list[int]]:
    """Paths and shapes of all leaves of ``spec["observation_shape"]``; one leaf with the path ``()`` if not nested."""
    if not isinstance(shape, Mapping):
        return {prefix: list(shape)}
    leaves: dict[tuple[str, ...], list[int]] = {}
    for key, inner in shape.items():
        leaves.update(observation_leaves(inner, (*prefix, key)))
    return leaves


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
    """A dict of arrays as a ``TensorDict`` of this batch size, an array as a tensor."""
    if isinstance(value, Mapping):
        size = list(batch_size)
        return TensorDict({key: nested(inner, size) for key, inner in value.items()}, batch_size=size)
    return torch.as_tensor(value)
