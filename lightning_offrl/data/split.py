"""Holding out whole episodes: transitions of one episode are too alike to test on what was trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.errors import InputError


def split_by_episode(episodes: Episodes, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Numbers of the episodes to train on and to hold out.

    Args:
        episodes: at least two.
        fraction: share of the episodes (not of the transitions) to hold out, in (0, 1); rounded to the nearest whole
            number, at least one on each side.
        seed: the same seed, fraction and number of episodes give the same split.

    Returns:
        train and validation, int64, each ascending.

    Raises:
        InputError: if the fraction is not in (0, 1), or there are fewer than two episodes.
    """
    if not 0.0 < fraction < 1.0:
        raise InputError(f"the share of episodes to hold out must lie between 0 and 1, got {fraction}")
    total = episodes.n_episodes
    if total < 2:
        raise InputError(
            f"{episodes.name} has {total} episode, so none can be held out while one is left to train on; use a "
            "validation fraction of 0 or more data"
        )
    held_out = min(max(1, round(fraction * total)), total - 1)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return order[held_out:].sort().values, order[:held_out].sort().values
