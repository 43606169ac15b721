"""Fixed features of observation and action, for linear estimates of values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torch.nn import functional as F

from lightning_offrl.data.episodes import Episodes, is_tabular, leaves
from lightning_offrl.errors import InputError

Features = Callable[[Any, Tensor], Tensor]
"""Observations ``[B, ...]`` and actions ``[B, A]`` (discrete ``[B]``) to ``[B, F]`` float64."""


def one_hot_features(n_actions: int) -> Features:
    """One feature per pair of state and action: linear in these is tabular.

    Args:
        n_actions: A.

    Returns:
        One-hot observations ``[B, S]`` and actions ``[B]`` to ``[B, S * A]``.
    """

    def features(observation: Any, action: Tensor) -> Tensor:
        return _outer(observation.double(), F.one_hot(action, n_actions).double())

    return features


def quadratic_features(episodes: Episodes) -> Features:
    """1, all numbers and all products of two of them, each number standardized over the data.

    The numbers are those of observation and action together; with discrete actions those of the observation, once per
    action. The value of a linear policy in a linear system with quadratic rewards is of this form.

    Args:
        episodes: the data to standardize by; constant numbers are left out.

    Raises:
        InputError: for observations that hold pictures.
    """
    n_actions = int(episodes.spec["action_size"]) if episodes.spec["action_kind"] == "discrete" else None
    x = _vector(episodes.data["observation"])
    if n_actions is None:
        x = torch.cat([x, episodes.data["action"].double()], -1)
    mean, std = x.mean(0), x.std(0, correction=0)
    varies = std > 1e-9 * mean.abs().clamp(min=1.0)
    first, second = torch.triu_indices(int(varies.sum()), int(varies.sum()))

    def features(observation: Any, action: Tensor) -> Tensor:
        x = _vector(observation)
        if n_actions is None:
            x = torch.cat([x, action.double()], -1)
        z = ((x - mean) / std)[:, varies]
        polynomial = torch.cat([torch.ones(len(z), 1, dtype=z.dtype), z, z[:, first] * z[:, second]], -1)
        return polynomial if n_actions is None else _outer(polynomial, F.one_hot(action, n_actions).double())

    return features


def default_features(episodes: Episodes) -> Features:
    """Tabular where observations are one-hot and actions discrete, else quadratic."""
    if is_tabular(episodes):
        return one_hot_features(int(episodes.spec["action_size"]))
    return quadratic_features(episodes)


def _outer(x: Tensor, y: Tensor) -> Tensor:
    return (x.unsqueeze(-1) * y.unsqueeze(-2)).flatten(1)


def _vector(observation: Any) -> Tensor:
    parts = [value for _, value in leaves(observation)] if isinstance(observation, TensorDictBase) else [observation]
    if any(part.ndim != 2 for part in parts):
        raise InputError("quadratic features need observations of vectors; give `features`, a function of your own")
    return torch.cat([part.double() for part in parts], -1)
