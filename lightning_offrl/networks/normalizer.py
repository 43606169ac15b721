"""The observation normalizer that every algorithm owns, saves and exports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from lightning_offrl.batch import Spec, observation_leaves
from lightning_offrl.networks.mlp import full_precision

Statistics = Mapping[tuple[str, ...], tuple[Tensor, Tensor]]
"""Per leaf of the observation its mean and standard deviation over the train split, float64, in the leaf's shape."""


class Normalizer(nn.Module):
    """``(s - mean) / (std + epsilon)`` per feature of every vector in the observation; pictures pass unchanged.

    Not fitted, it is the identity. Statistics are buffers, so they are in every checkpoint and exported policy.

    Args:
        spec: the spaces.
        epsilon: added to the standard deviation (TD3+BC's code: 1e-3).
    """

    def __init__(self, spec: Spec, epsilon: float = 1e-3) -> None:
        super().__init__()
        self.epsilon = epsilon
        shapes = observation_leaves(spec["observation_shape"])
        self.leaves = {path: i for i, (path, shape) in enumerate(shapes.items()) if len(shape) == 1}
        for path, i in self.leaves.items():
            self.register_buffer(f"mean_{i}", torch.zeros(shapes[path]))
            self.register_buffer(f"std_{i}", torch.ones(shapes[path]))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    def fit(self, statistics: Statistics) -> None:
        """Take over means and standard deviations computed in float64 on the train split."""
        for path, i in self.leaves.items():
            mean, std = statistics[path]
            self.get_buffer(f"mean_{i}").copy_(mean)
            self.get_buffer(f"std_{i}").copy_(std)
        self.get_buffer("fitted").fill_(True)
        self._active = True

    def forward(self, observation: Any) -> Any:
        """Normalized observation of the same structure, ``[..., D]``; uint8 entries stay as they are."""
        if not self.is_active():
            return observation
        if isinstance(observation, TensorDictBase):
            out = observation.clone(recurse=False)
            for path, i in self.leaves.items():
                if observation[path].is_floating_point():
                    out[path] = self._normalize(observation[path], i)
            return out
        return self._normalize(observation, 0) if () in self.leaves else observation

    def _normalize(self, x: Tensor, i: int) -> Tensor:
        mean, std = self.get_buffer(f"mean_{i}"), self.get_buffer(f"std_{i}")
        return (full_precision(x) - mean) / (std + self.epsilon)

    def is_active(self) -> bool:
        """Whether it was fitted; if not, it is the identity."""
        # a Python bool, read once after loading: a tensor in an `if` would stop a graph and a GPU
        if self._active is None:
            self._active = bool(self.get_buffer("fitted"))
        return self._active

    _active: bool | None = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._active = None
