"""Episodes and steps that stand in the data more than once, and what a split by episode would leak through them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_offrl.data.episodes import Episodes


@dataclass(frozen=True)
class Copies:
    """What repeats.

    Attributes:
        duplicated: episodes that are an exact copy of an earlier one.
        groups: different episodes that have copies.
        most: how often the most frequent episode stands in the data.
        example: numbers of two equal episodes, or None.
        shared_steps: share of the steps whose observation, action, reward and next observation also stand, exactly, in
            an episode with other content. In a finite set of states that is expected; in continuous data it is not.
        partly_shared: episodes with other content of which at least half the steps stand in one such episode or more.
        leak: probability that a validation split of one tenth of the episodes holds an episode that is also in the
            training part (in expectation over splits: share of held-out episodes with a copy in training).
    """

    duplicated: int
    groups: int
    most: int
    example: tuple[int, int] | None
    shared_steps: float
    partly_shared: int
    leak: float


def find_copies(episodes: Episodes, hashes: list[str], step: Tensor) -> Copies:
    """Look for repetitions.

    Args:
        episodes: the data.
        hashes: of each episode's content (`lightning_offrl.data.strata.episode_hashes`).
        step: ``[T]`` `row_hashes` of each step's observation, action, reward and next observation.
    """
    first: dict[str, int] = {}
    count: dict[str, int] = {}
    example = None
    content = torch.empty(len(hashes), dtype=torch.int64)
    for number, one in enumerate(hashes):
        if one in first and example is None:
            example = (first[one], number)
        first.setdefault(one, number)
        count[one] = count.get(one, 0) + 1
        content[number] = first[one]
    owner = content[episodes.episode_index()]
    # A step is shared if its hash belongs to episodes of at least two different contents.
    _, place = torch.unique(step, return_inverse=True)
    distinct = int(place.max()) + 1
    low = torch.full((distinct,), len(hashes), dtype=torch.int64).scatter_reduce_(0, place, owner, "amin")
    high = torch.full((distinct,), -1, dtype=torch.int64).scatter_reduce_(0, place, owner, "amax")
    shared = (low != high)[place]
    per_episode = torch.zeros(len(hashes)).index_add_(0, episodes.episode_index(), shared.float()) / episodes.length
    repeated = [n for n in count.values() if n > 1]
    return Copies(
        duplicated=sum(n - 1 for n in repeated),
        groups=len(repeated),
        most=max(count.values()),
        example=example,
        shared_steps=float(shared.double().mean()),
        partly_shared=int((per_episode >= 0.5).sum()),
        leak=sum(n * (1.0 - 0.1 ** (n - 1)) for n in repeated) / len(hashes),
    )
