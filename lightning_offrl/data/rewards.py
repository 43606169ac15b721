"""Scaling and shifting of rewards, fitted on the train split; the data keeps its raw rewards."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.errors import InputError
from lightning_offrl.training import old_names

PRESETS = {
    "none": "rewards as they are",
    "iql-locomotion": "r * 1000 / (largest - smallest return of an episode), as IQL's authors do for Gym locomotion",
    "antmaze": "r - 1, as IQL's authors do for AntMaze",
    "antmaze-cql": "10 r - 5, as in CQL and Cal-QL for AntMaze",
    "standardize": "(r - mean) / standard deviation over all transitions",
}


@dataclass(frozen=True)
class RewardTransform:
    """The rewards a learner sees: ``scale * r + shift``.

    Args:
        scale: The factor.
        shift: The number that is added after scaling.
    """

    scale: float = 1.0
    shift: float = 0.0


def fit_reward(transform: str | RewardTransform, episodes: Episodes) -> tuple[float, float]:
    """Scale and shift for a preset's name, or of a transform that is already numbers.

    Args:
        transform: a name in `PRESETS`, or a `RewardTransform`.
        episodes: the train split, with raw rewards.

    Returns:
        ``(scale, shift)``; the learner's reward is ``scale * r + shift``.

    Raises:
        InputError: for an unknown name, or a preset that divides by a spread of zero.
    """
    transform = old_names.value("reward", transform)
    if isinstance(transform, RewardTransform):
        return float(transform.scale), float(transform.shift)
    if transform not in PRESETS:
        near = difflib.get_close_matches(transform, PRESETS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"there is no reward transform {transform!r}; {hint}There are: {', '.join(PRESETS)}")
    if transform == "antmaze":
        return 1.0, -1.0
    if transform == "antmaze-cql":
        return 10.0, -5.0
    if transform == "iql-locomotion":
        returns = episodes.returns()
        spread = float(returns.max() - returns.min())
        if spread <= 0.0:
            raise InputError(
                f"reward transform 'iql-locomotion' divides by the spread of the episodes' returns, but all "
                f"{len(returns)} episodes of {episodes.name} have the return {float(returns[0]):.6g}; use "
                "'standardize' or 'none'"
            )
        return 1000.0 / spread, 0.0
    if transform == "standardize":
        reward = episodes.data["next", "reward"].double()
        deviation = float(reward.std(correction=0))
        if deviation <= 0.0:
            raise InputError(
                f"reward transform 'standardize' divides by the standard deviation of the rewards, but every reward of "
                f"{episodes.name} is {float(reward[0]):.6g}; use 'none'"
            )
        return 1.0 / deviation, -float(reward.mean()) / deviation
    return 1.0, 0.0


def return_quantile(returns: Tensor, length: Tensor) -> Tensor:
    """For each transition, where its episode's return stands among those of all transitions.

    Args:
        returns: ``[E]`` of the episodes.
        length: ``[E]`` int64, steps of each.

    Returns:
        ``[T]`` float32 in (0, 1): the share of transitions whose episode returned less, and half of those that returned
        as much. Its mean over the transitions is one half.
    """
    values, place = torch.unique(returns, return_inverse=True)  # sorted
    weight = torch.zeros(len(values), dtype=torch.float64).index_add_(0, place, length.double())
    quantile = (weight.cumsum(0) - 0.5 * weight) / weight.sum()
    return torch.repeat_interleave(quantile[place], length).float()
