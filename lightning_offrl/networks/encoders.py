"""From an observation to one feature vector: concatenation, or a user's module for pictures and dictionaries."""

from __future__ import annotations

import copy
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from lightning_offrl.batch import Spec, nested, observation_leaves
from lightning_offrl.errors import InputError


class Encoder(nn.Module):
    """Gives every network its input vector.

    Without a module of the user's it concatenates all entries of the observation, ``[..., D]``, in the order of their
    names. With one, it holds a copy of that module: each network trains its own.

    Args:
        spec: the spaces.
        module: maps an observation ``[B, *shape]`` (or a ``TensorDict`` of batch size ``[B]``) to ``[B, F]``.

    Raises:
        InputError: if there are pictures and no module, or the module does not return ``[B, F]``.
    """

    def __init__(self, spec: Spec, module: nn.Module | None = None) -> None:
        super().__init__()
        self.leaves = observation_leaves(spec["observation_shape"])
        self.module = None if module is None else copy.deepcopy(module)
        if module is None:
            self.size = 0
            for path, shape in self.leaves.items():
                if len(shape) != 1:
                    raise InputError(
                        f"observation {'.'.join(path)} of shape {shape} cannot be read by a plain network; "
                        "pass `encoder`, a module that maps an observation to [B, features]"
                    )
                self.size += shape[0]
        else:
            self.size = _features(module, spec)

    def forward(self, observation: Any) -> Tensor:
        """``[*lead, B, ...]`` to ``[*lead, B, size]``."""
        if self.module is not None:
            return self.module(observation)
        if isinstance(observation, Tensor):
            return observation
        return torch.cat([observation[path] for path in sorted(self.leaves)], dim=-1)


def _features(module: nn.Module, spec: Spec) -> int:
    shape = spec["observation_shape"]

    def zeros(inner: Any) -> Any:
        if isinstance(inner, dict):
            return {key: zeros(value) for key, value in inner.items()}
        return torch.zeros(2, *inner)

    example = nested(zeros(shape), [2])
    try:
        with torch.no_grad():
            out = copy.deepcopy(module).eval()(example)
    except Exception as error:
        kind = "a TensorDict" if isinstance(example, TensorDictBase) else f"a tensor {list(example.shape)}"
        raise InputError(f"the encoder failed on {kind} of zeros: {error}") from error
    if not isinstance(out, Tensor) or out.ndim != 2 or out.shape[0] != 2:
        got = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise InputError(f"the encoder must return [B, features]; for a batch of 2 it returned {got}")
    return int(out.shape[1])
