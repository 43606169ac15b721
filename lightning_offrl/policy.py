"""Trained policies as files: written by `export_policy`, read by `load_policy`, without the training configuration.

A ``policy.pt`` holds the class of the algorithm, its constructor arguments, the weights of the submodules that ``act``
uses (``OfflineAlgorithm.acting``, the normalizer among them), the spaces, and what it was trained on: plain values and
tensors, read with ``weights_only=True``. A training checkpoint has all of these too, so `load_policy` takes either.
"""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from lightning_offrl.batch import Spec, nested, unscale_action
from lightning_offrl.errors import InputError
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.algorithm_names import algorithm_name, module_to_import, public_name
from lightning_offrl.training.checkpoint import FORMAT, describe
from lightning_offrl.training.files import write_atomically

if TYPE_CHECKING:  # what writes a policy does without what reads one
    from lightning_offrl.training.saved import Saved

_CUSTOM = "encoder.module."


class Policy:
    """A trained policy that acts in the environment's own units.

    Args:
        algorithm: an algorithm in eval mode.
        spec: the spaces it was trained on.
        info: ``algorithm``, ``updates``, ``data`` (name, fingerprint, environment, references), ``versions``, ``seed``.
    """

    def __init__(self, algorithm: OfflineAlgorithm, spec: Spec, info: dict[str, Any]) -> None:
        self.algorithm, self.spec, self.info = algorithm.eval().requires_grad_(False), spec, info
        floating = [p.dtype for p in algorithm.parameters() if p.is_floating_point()]
        self._dtype = floating[0] if floating else torch.float32

    def act(self, observation: Any, action_mask: Any = None) -> Any:
        """Greedy actions.

        Args:
            observation: one raw observation, or any number of leading dimensions of them: numpy, tensor, list, or a
                dict of these for Dict spaces. A Discrete observation is its index, or one-hot; several are one-hot.
            action_mask: for discrete actions, which of the n are legal: true or false (1 or 0), ``[*leading, n]``, such
                as Gymnasium's ``info["action_mask"]``. None: all are, or what a dict observation says under this key.

        Returns:
            Actions in environment units: float32 ``[*leading, A]``, or for discrete actions int64 ``[*leading]``, and
            for a single observation a Python int.

        Raises:
            InputError: the observation has another shape than the policy was trained on, or is not finite; a mask of
                another shape, for continuous actions, or without any legal action.
        """
        shape = self.spec["observation_shape"]
        if action_mask is None and isinstance(observation, Mapping | TensorDictBase) and "action_mask" not in shape:
            action_mask = observation.get("action_mask", None) if self.spec["action_kind"] == "discrete" else None
        arrays = _arrays(observation, shape, "observation")
        leading = _leading(arrays, shape, "observation")
        batch = nested(_flatten(arrays, len(leading)), [math.prod(leading)])
        with torch.no_grad():
            action = self.act_scaled(batch, self._legal(action_mask, leading)).cpu()
        if self.spec["action_kind"] == "discrete":
            numbers = action.numpy().reshape(leading)
            return int(numbers) if not leading else numbers
        scaled = action.double().numpy().reshape(*leading, self.spec["action_size"])
        low, high = np.asarray(self.spec["action_low"]), np.asarray(self.spec["action_high"])
        return np.clip(unscale_action(scaled, self.spec), low, high).astype(np.float32)

    def act_scaled(self, observation: Any, action_mask: Tensor | None = None) -> Tensor:
        """The algorithm's own ``act``: ``[B, ...]`` tensors to ``[B, A]`` in [-1, 1], or ``[B]`` int64.

        ``action_mask`` is bool ``[B, n]``, for discrete actions.
        """
        device = next((p.device for p in self.algorithm.parameters()), torch.device("cpu"))

        def place(leaf: Tensor) -> Tensor:
            return leaf.to(device=device, dtype=self._dtype if leaf.is_floating_point() else None)

        placed = observation.apply(place) if isinstance(observation, TensorDictBase) else place(observation)
        act: Any = self.algorithm.act
        legal = {} if action_mask is None or not self._takes_mask() else {"action_mask": action_mask.to(device)}
        return act(placed, **legal)

    def _takes_mask(self) -> bool:
        from lightning_offrl.envs.action_masks import takes_mask

        return takes_mask(self.algorithm.act)

    def _legal(self, action_mask: Any, leading: tuple[int, ...]) -> Tensor | None:
        """A given mask as bool ``[B, n]``."""
        if action_mask is None:
            return None
        if self.spec["action_kind"] != "discrete":
            raise InputError("action_mask is for discrete actions, but this policy's are continuous: leave it out")
        if not self._takes_mask():
            raise InputError(
                f"{type(self.algorithm).__name__} cannot be told which actions are legal: give its act(observation) an "
                "argument action_mask, or leave the mask out"
            )
        mask, want = np.asarray(action_mask), (*leading, self.spec["action_size"])
        if mask.shape != want or not ((mask == 0) | (mask == 1)).all():
            raise InputError(
                f"action_mask must be true or false (1 or 0) of shape {list(want)}, one flag for every action, got "
                f"{mask.dtype} of shape {list(mask.shape)}"
            )
        mask = mask.astype(bool).reshape(-1, want[-1])
        if not mask.any(-1).all():
            raise InputError("action_mask forbids every action; at least one must be legal")
        return torch.from_numpy(mask)

    def __repr__(self) -> str:
        data = (self.info.get("data") or {}).get("name")
        return f"Policy({self.info['algorithm'].rpartition('.')[2]}, {self.info.get('updates')} updates on {data})"


def export_policy(algorithm: OfflineAlgorithm, path: str | Path, *, seed_index: int | None = None) -> Path:
    """Write the policy of an algorithm to a file, in one step: a kill leaves the old file or the new one.

    Args:
        algorithm: trained or not; not changed.
        path: ``policy.pt``.
        seed_index: which of S stacked seeds; needed if there are several.

    Raises:
        InputError: stacked seeds without a choice, a choice out of range, or a path that cannot be written.
    """
    seeds = algorithm.lead[0] if algorithm.lead else 1
    _check_seed(seeds, seed_index, "the algorithm")
    about = describe(algorithm_name(algorithm), algorithm.spec, algorithm.data_facts())
    hyper = {k: v for k, v in dict(algorithm.hparams).items() if not k.startswith("_")}
    state = _acting_only(algorithm.state_dict(), algorithm.acting)
    if seeds > 1:
        hyper, state = _one_seed(type(algorithm), hyper, state, seed_index or 0)
    content = {
        "offrl_policy": FORMAT,
        "algorithm": algorithm_name(algorithm),
        "hyper_parameters": hyper,
        "state_dict": {key: value.detach().cpu().clone() for key, value in state.items()},
        "spec": algorithm.spec,
        "info": {
            "algorithm": algorithm_name(algorithm),
            "updates": algorithm.updates,
            "seed": int(hyper.get("seed", 0)),
            "data": about["data"],
            "versions": about["versions"],
        },
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    try:
        torch.load(io.BytesIO(buffer.getbuffer()), weights_only=True)
    except pickle.UnpicklingError as problem:
        raise InputError(
            f"{algorithm_name(algorithm)} has constructor arguments that are not plain values (numbers, strings, "
            "lists, dictionaries), so its policy could not be loaded again; convert them, or leave them out of "
            "save_hyperparameters"
        ) from problem
    write_atomically(path, buffer.getbuffer(), what="the policy")
    return Path(path)


def load_policy(path: str | Path, *, encoder: nn.Module | None = None, seed_index: int | None = None) -> Policy:
    """A policy from ``policy.pt`` or from a training checkpoint.

    An algorithm of your own is found if its module is imported; nothing is imported because the file says so. What is
    built has the sizes of the weights in the file, or is not built.

    Args:
        path: the file, read with ``weights_only=True``.
        encoder: the module given as ``encoder`` in training, if one was; its weights are overwritten.
        seed_index: which of S stacked seeds, for a checkpoint that holds several.

    Raises:
        InputError: no such file, a damaged one, one of something else or of a newer format, an algorithm that is not
            known, hyper-parameters that do not fit the weights, or a custom encoder that is missing or different.
    """
    from lightning_offrl.algorithms.resolve import resolve_algorithm
    from lightning_offrl.training.saved import read_saved

    saved = read_saved(path)
    kind = resolve_algorithm(saved.algorithm, saved.path)
    state = _acting_only(saved.state, kind.acting)
    hyper = dict(saved.hyper_parameters)
    _check_seed(saved.seeds, seed_index, str(saved.path))
    needs_encoder = any(_CUSTOM in key for key in state)
    if needs_encoder and encoder is None:
        raise InputError(
            f"{saved.path} was trained with a custom encoder: pass a module of that class, as in "
            "load_policy(path, encoder=YourEncoder(...))"
        )
    if saved.seeds > 1:
        hyper, state = _one_seed(kind, hyper, state, seed_index or 0)
    algorithm = _fitting(kind, hyper, encoder, state, saved)
    algorithm.updates = int(saved.info.get("updates") or 0)
    name = public_name(saved.algorithm)
    policy = Policy(algorithm, saved.spec, {**saved.info, "algorithm": name, "seed": int(hyper.get("seed", 0))})
    if module_to_import(name) is None:
        _try(policy, saved.path)
    return policy


def _fitting(
    kind: type[OfflineAlgorithm],
    hyper: dict[str, Any],
    encoder: nn.Module | None,
    state: dict[str, Tensor],
    saved: Saved,
) -> OfflineAlgorithm:
    """The parts that act, with the weights of the file; refused before any memory is taken if the sizes differ."""
    sketch = _acting_part(_sketch(kind, hyper, encoder))
    wanted = sketch.state_dict()
    wrong = [
        f"{key} has shape {list(state[key].shape)} and needs {list(one.shape)}"
        for key, one in wanted.items()
        if key in state and (state[key].shape != one.shape or state[key].is_floating_point() != one.is_floating_point())
    ]
    wrong += [f"{key} is not in the file" for key in wanted if key not in state]
    wrong += [f"{key} has no place in it" for key in state if key not in wanted]
    if wrong:
        what = "the encoder differs from the one in training, or " if encoder is not None else ""
        raise InputError(
            f"the weights in {saved.path} do not fit {kind.__name__} ({what}its hyper-parameters are not those it was "
            f"trained with, or it was written by another version): {wrong[0]}"
        )
    dtype = next((v.dtype for k, v in state.items() if v.is_floating_point() and not k.startswith("normalizer")), None)
    if all(tensor.is_meta for tensor in wanted.values()) and module_to_import(algorithm_name(kind)) is None:
        sketch.load_state_dict({key: value.contiguous().clone() for key, value in state.items()}, assign=True)
        return sketch.to(dtype=dtype)
    algorithm = _acting_part(_build(kind, hyper, encoder)).to(dtype=dtype)  # an own one may keep tensors elsewhere
    algorithm.load_state_dict(state)
    return algorithm


def _acting_part(algorithm: OfflineAlgorithm) -> OfflineAlgorithm:
    for name in [*algorithm._modules, *algorithm._parameters, *algorithm._buffers]:
        if name not in algorithm.acting:  # so that an incomplete `acting` is an error, not a random critic
            delattr(algorithm, name)
    return algorithm


def _sketch(kind: type[OfflineAlgorithm], hyper: dict[str, Any], encoder: nn.Module | None) -> OfflineAlgorithm:
    """The algorithm with shapes in place of numbers (PyTorch's device "meta"), which takes no memory."""
    try:
        with torch.device("meta"):
            return _build(kind, hyper, None if encoder is None else copy.deepcopy(encoder).to("meta"))
    except InputError:
        if encoder is None and module_to_import(algorithm_name(kind)) is None:
            raise
        return _build(kind, hyper, encoder)  # code of the user's, which may need numbers to be built


def _build(kind: type[OfflineAlgorithm], hyper: dict[str, Any], encoder: nn.Module | None) -> OfflineAlgorithm:
    extra: dict[str, Any] = {} if encoder is None else {"encoder": encoder}
    try:
        return kind(**hyper, **extra)
    except InputError:
        raise
    except Exception as problem:  # arguments of any type, from a file
        text = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise InputError(
            f"{kind.__name__} of this version does not take the arguments it was trained with ({text}); "
            "install the version that wrote the file"
        ) from problem


def _try(policy: Policy, path: Path) -> None:
    """Act once, so that hyper-parameters of a wrong type are said here."""

    def zeros(shape: Any) -> Any:
        return {k: zeros(v) for k, v in shape.items()} if isinstance(shape, Mapping) else torch.zeros(1, *shape)

    try:
        with torch.no_grad():
            policy.act_scaled(nested(zeros(policy.spec["observation_shape"]), [1]))
    except Exception as problem:
        text = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise InputError(
            f"the policy in {path} cannot act ({type(problem).__name__}: {text}): its hyper-parameters are not those "
            "it was trained with; get the file again from its source"
        ) from problem


def _one_seed(
    kind: type[OfflineAlgorithm], hyper: dict[str, Any], state: dict[str, Tensor], index: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments and weights of one of S stacked runs: those of the single run with ``seed + index``."""
    hyper = {**hyper, "seeds": 1, "seed": int(hyper.get("seed", 0)) + index}
    single = _sketch(kind, hyper, None).state_dict()
    # What the normalizer holds is shared by all seeds; every other tensor has one more dimension than in a single run.
    state = {k: v[index] if k in single and v.ndim == single[k].ndim + 1 else v for k, v in state.items()}
    return hyper, state


def _acting_only(state: Mapping[str, Tensor], acting: tuple[str, ...]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key.split(".", 1)[0] in acting}


def _check_seed(seeds: int, index: int | None, what: str) -> None:
    if seeds > 1 and index is None:
        raise InputError(f"{what} holds {seeds} stacked seeds: choose one with seed_index, from 0 to {seeds - 1}")
    if index is not None and not 0 <= index < seeds:
        raise InputError(f"seed_index {index} is out of range: {what} holds the seeds 0 to {seeds - 1}")


def _arrays(value: Any, shape: Any, name: str) -> Any:
    """Observation as float32 numpy (uint8 stays uint8), in the structure of the spec."""
    if isinstance(shape, Mapping):
        if not isinstance(value, Mapping | TensorDictBase):
            raise InputError(f"{name} must be a dictionary with the keys {sorted(shape)}, got {type(value).__name__}")
        missing = sorted(set(shape) - set(value.keys()))
        if missing:
            raise InputError(f"{name} lacks {missing}; it has {sorted(value.keys())}")
        return {key: _arrays(value[key], inner, f"{name}.{key}") for key, inner in shape.items()}
    if isinstance(value, Mapping | TensorDictBase):
        raise InputError(f"{name} is a dictionary, the policy was trained on arrays of shape {shape}")
    try:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        array = array if array.dtype == np.uint8 else array.astype(np.float32)
    except (TypeError, ValueError) as problem:
        raise InputError(
            f"{name} must be numbers of shape {shape}, got {type(value).__name__} ({problem})"
        ) from problem
    if array.ndim == 0 and len(shape) == 1 and (shape[0] > 1 or isinstance(value, int | np.integer)):
        index = int(array)
        if index != array or not 0 <= index < shape[0]:
            raise InputError(f"{name} {array} is not an index below {shape[0]}, nor a vector of {shape[0]} features")
        array = np.eye(shape[0], dtype=np.float32)[index] if shape[0] > 1 else array.reshape(1)
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds NaN or infinite values; an action for it would mean nothing")
    return array


def _leading(arrays: Any, shape: Any, name: str) -> tuple[int, ...]:
    if isinstance(shape, Mapping):
        sizes = {key: _leading(arrays[key], inner, f"{name}.{key}") for key, inner in shape.items()}
        if len(set(sizes.values())) > 1:
            raise InputError(f"the entries of {name} have different leading dimensions: {sizes}")
        return next(iter(sizes.values()))
    behind = arrays.shape[arrays.ndim - len(shape) :]
    if arrays.ndim < len(shape) or list(behind) != list(shape):
        if len(shape) == 1 and arrays.ndim >= 1:
            raise InputError(
                f"{name} has {arrays.shape[-1]} features but the policy was trained on {shape[0]}; "
                "pass what the environment of its data returns"
            )
        raise InputError(f"{name} has shape {list(arrays.shape)}, the policy was trained on {list(shape)}")
    return tuple(arrays.shape[: arrays.ndim - len(shape)])


def _flatten(arrays: Any, leading: int) -> Any:
    if isinstance(arrays, dict):
        return {key: _flatten(value, leading) for key, value in arrays.items()}
    return arrays.reshape(math.prod(arrays.shape[:leading]), *arrays.shape[leading:])
