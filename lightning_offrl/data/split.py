"""Holding out whole episodes: transitions of one episode are too alike to test on what was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.errors import InputError

if TYPE_CHECKING:
    from lightning_offrl.data.clusters import ClusterLabels


def split_by_episode(
    episodes: Episodes, fraction: float, seed: int, clusters: ClusterLabels | None = None
) -> tuple[Tensor, Tensor]:
    """Numbers of the episodes to train on and to hold out.

    Args:
        episodes: The dataset, of at least two episodes.
        fraction: The share of the episodes (not of the transitions) to hold out, in (0, 1). It is rounded to the
            nearest whole number of episodes, at least one on each side.
        seed: The seed; the same seed, fraction and number of episodes give the same split.
        clusters: The labels ``[E]`` of the persons that episodes belong to: all episodes of one are on the same side.
            The fraction is then a share of the clusters, and seed, fraction and clusters give the split.

    Returns:
        train and validation, int64, each ascending.

    Raises:
        InputError: if the fraction is not in (0, 1), or there are fewer than two episodes or clusters.
    """
    if not 0.0 < fraction < 1.0:
        raise InputError(f"the share of episodes to hold out must lie between 0 and 1, got {fraction}")
    total = episodes.n_episodes
    if total < 2:
        raise InputError(
            f"{episodes.name} has {total} episode, so none can be held out while one is left to train on; use a "
            "validation fraction of 0 or more data"
        )
    together = None
    if clusters is not None:
        from lightning_offrl.data.clusters import numbered  # only who holds out persons needs them

        together = numbered(clusters, total)
    units = total if together is None else together.n
    if units < 2:
        raise InputError(
            f"all {total:,} episodes of {episodes.name} belong to one cluster, so none can be held out; use a "
            "validation fraction of 0 or more data"
        )
    held_out = min(max(1, round(fraction * units)), units - 1)
    order = torch.randperm(units, generator=torch.Generator().manual_seed(seed))
    sides = order[held_out:], order[:held_out]
    kept, held = sides if together is None else (together.episodes(side) for side in sides)
    return kept.sort().values, held.sort().values
