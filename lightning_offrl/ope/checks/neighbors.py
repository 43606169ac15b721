"""Nearest neighbors among logged states, leaving out those of the same episode.

Every distance is computed, block by block: for 3,000 queries among 30,000 points that takes about 1 second in float32,
in 3 dimensions as in 50. `scipy.spatial.cKDTree` takes 0.05 seconds in 3 dimensions, 0.2 to 4 in 11 and 7 to 35 in 50,
and would need many more neighbors than are wanted, because those nearest to a state come from its own episode.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_BLOCK = 512


def nearest(
    query: Tensor, points: Tensor, k: int, *, apart: tuple[Tensor, Tensor] | None = None, radius: float = math.inf
) -> tuple[Tensor, Tensor]:
    """The k nearest points of each query, in the Euclidean distance.

    Args:
        query: ``[Q, D]``.
        points: ``[N, D]``.
        k: The number of neighbors.
        apart: Labels ``[Q]`` of the queries and ``[N]`` of the points: points with the query's own label do not count.
        radius: Points that are farther away do not count.

    Returns:
        Distances ``[Q, k]``, nearest first, and the indices of the points ``[Q, k]``; infinity and -1 where there are
        fewer.
    """
    width = min(k, len(points))
    distance = torch.full((len(query), k), math.inf, dtype=query.dtype)
    index = torch.full((len(query), k), -1)
    for rows in torch.arange(len(query)).split(_BLOCK):
        gap = torch.cdist(query[rows], points)
        if apart is not None:
            gap.masked_fill_(apart[0][rows, None] == apart[1], math.inf)
        value, place = gap.topk(width, largest=False)
        counts = value.isfinite() & (value <= radius)
        distance[rows, :width] = torch.where(counts, value, math.inf)
        index[rows, :width] = torch.where(counts, place, -1)
    return distance, index
