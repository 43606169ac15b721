"""Where the data has been: states as comparable vectors, a map of them, and which episodes meet.

Every distance here is Euclidean between *standardized* states: each number of the observation divided by its standard
deviation over the data, so that units do not matter. Observations of more than `WIDEST` numbers (pictures) go through a
fixed random projection first (Johnson and Lindenstrauss, 1984), which keeps distances up to a few per cent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.data.episodes import Episodes, leaves
from lightning_offrl.ope.checks.neighbors import nearest

WIDEST = 128
_FARTHEST = 10.0
"""Standard deviations at which a single number is cut off, so that one outlier does not shrink all other distances."""
_CHUNK = 8192
LINKS = 8
"""Most neighbors that are kept for one state."""
_SUCCESSORS = 600
"""States at most that are mapped by what follows them."""
SAMPLE = 12_288
"""Steps, in whole episodes, on which neighbors are looked for."""


@dataclass(frozen=True)
class Scale:
    """What makes states comparable: fitted once, applied to observations and next observations alike."""

    projection: Tensor | None
    mean: Tensor
    deviation: Tensor

    def __call__(self, observation: Tensor | TensorDictBase, rows: Tensor | None = None) -> Tensor:
        """Standardized states ``[n, D]`` float32."""
        flat = _flat(observation, rows, self.projection)
        return ((flat - self.mean) / self.deviation).clamp_(-_FARTHEST, _FARTHEST)


def fit_scale(episodes: Episodes, seed: int = 0) -> Scale:
    """Mean and deviation of every number of the observation; what never changes is left out of distances."""
    observation = episodes.data["observation"]
    width = sum(int(np.prod(leaf.shape[1:])) for _, leaf in _leaves(observation))
    projection = None
    if width > WIDEST:
        generator = torch.Generator().manual_seed(seed)
        projection = torch.randn(width, WIDEST, generator=generator) / WIDEST**0.5
    flat = _flat(observation, None, projection).double()
    mean, deviation = flat.mean(0), flat.std(0, correction=0)
    deviation = torch.where(deviation > 1e-9 * mean.abs().clamp(min=1.0), deviation, torch.inf)
    return Scale(projection, mean.float(), deviation.float())


def _leaves(observation: Tensor | TensorDictBase) -> list[tuple[tuple[str, ...], Tensor]]:
    return [((), observation)] if isinstance(observation, Tensor) else list(leaves(observation))


def _flat(observation: Tensor | TensorDictBase, rows: Tensor | None, projection: Tensor | None) -> Tensor:
    found = [leaf for _, leaf in _leaves(observation)]
    total = len(found[0]) if rows is None else len(rows)
    out = []
    for start in range(0, total, _CHUNK):
        part = slice(start, min(start + _CHUNK, total))
        index = part if rows is None else rows[part]
        piece = torch.cat([leaf[index].reshape(part.stop - part.start, -1).float() for leaf in found], 1)
        out.append(piece if projection is None else piece @ projection)
    return torch.cat(out)


def row_hashes(*tables: Tensor) -> Tensor:
    """A 64-bit hash of each row over all tables, ``[T]`` int64: equal rows are equal, others differ but for chance."""
    generator = torch.Generator().manual_seed(7)
    total = torch.zeros(len(tables[0]), dtype=torch.int64)
    for table in tables:
        flat = table.reshape(len(table), -1)
        if flat.dtype == torch.uint8:  # eight at a time
            flat = torch.nn.functional.pad(flat, (0, -flat.shape[1] % 8)).contiguous().view(torch.int64)
        elif flat.is_floating_point():
            flat = (flat.float() + 0.0).view(torch.int32)  # -0 is 0
        keys = torch.randint(-(2**62), 2**62, (flat.shape[1],), generator=generator) | 1
        for column, key in enumerate(keys):  # wraps around, as hashing should
            mixed = (flat[:, column].long() + int(key) % 1013) * key
            total += mixed ^ (mixed >> 29)
        total = (total ^ (total >> 32)) * 0x9E3779B97F4A7C1
    return total


@dataclass(frozen=True)
class StateSpace:
    """Size and shape of the part of the state space that the data covers.

    Attributes:
        numbers: of the observation, after projection.
        constant: how many of them never change.
        distinct: different observations in the data, exactly.
        tabular: whether every observation stands in the data ten times or more on average: a finite set of states.
        pairs: different pairs of state and action (discrete actions in a finite set of states), else None.
        possible_pairs: ``distinct`` times the number of actions, or None.
        effective_dimension: ``(sum l)^2 / sum l^2`` over the eigenvalues l of the correlation matrix (participation
            ratio): 1 if all numbers move together, their number if they are unrelated.
        explained: share of the variance along the map's two axes.
        map: ``[n, 2]``, states on these axes, in standard deviations.
        map_rows: ``[n]``, which rows of the data they are.
        by_successors: the map is of where the data goes from each state (discounted counts of the states that follow),
            not of the observations: in a finite set of states whose observations say nothing of nearness (one-hot).
    """

    numbers: int
    constant: int
    distinct: int
    tabular: bool
    pairs: int | None
    possible_pairs: int | None
    effective_dimension: float
    explained: tuple[float, float]
    map: Tensor
    map_rows: Tensor
    by_successors: bool


def state_space(episodes: Episodes, scale: Scale, seed: int = 0, points: int = 20_000) -> StateSpace:
    """Measure it; the map is made of at most ``points`` randomly chosen steps."""
    total = len(episodes)
    state = row_hashes(*(leaf for _, leaf in _leaves(episodes.data["observation"])))
    distinct = len(torch.unique(state))
    tabular = distinct * 10 <= total
    pairs = possible = None
    if tabular and episodes.spec["action_kind"] == "discrete":
        pairs = len(torch.unique(state * 1_000_003 + episodes.data["action"]))
        possible = distinct * int(episodes.spec["action_size"])
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(total) if total <= points else torch.randperm(total, generator=generator)[:points].sort().values
    x = scale(episodes.data["observation"], rows)
    constant = int(torch.isinf(scale.deviation).sum())
    flat_map, values = _principal_axes(x)
    whole, square = float(values.sum()), float(values.square().sum())
    # No direction stands out of many: the numbers are names of states (one-hot).
    names = sum(values[:2].tolist()) < 0.5 * whole and whole**2 > 0.5 * square * (x.shape[1] - constant)
    by_successors = tabular and distinct <= _SUCCESSORS and names
    if by_successors:
        flat_map, values = _principal_axes(_successors(state, episodes)[rows])
    share = values[:2] / max(float(values.sum()), 1e-300)
    return StateSpace(
        numbers=x.shape[1],
        constant=constant,
        distinct=distinct,
        tabular=tabular,
        pairs=pairs,
        possible_pairs=possible,
        effective_dimension=whole**2 / square if whole > 0 else 0.0,
        explained=(float(share[0]), float(share[1]) if len(share) > 1 else 0.0),
        map=flat_map.float(),
        map_rows=rows,
        by_successors=by_successors,
    )


def _principal_axes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows on the two axes of largest variance ``[n, 2]``, and the variances along all axes, largest first."""
    centered = (x - x.mean(0)).double()
    values, vectors = torch.linalg.eigh(centered.T @ centered / len(x))
    axes = vectors[:, -2:].flip(1)
    # The sign of an axis is arbitrary: the largest weight points up.
    axes = axes * torch.sign(axes.gather(0, axes.abs().argmax(0, keepdim=True)))
    out = centered @ axes
    out = out if out.shape[1] == 2 else torch.cat([out, torch.zeros_like(out)], 1)
    return out, values.clamp(min=0.0).flip(0)


def _successors(state: Tensor, episodes: Episodes, discount: float = 0.95) -> Tensor:
    """For each step the discounted counts of the states that follow its state in the data, ``[T, S]``.

    The successor representation of the behavior (Dayan, 1993), from both directions of each step, so that the map does
    not depend on which way the data happened to go.
    """
    number = torch.unique(state, return_inverse=True)[1]
    size = int(number.max()) + 1
    inside = torch.ones(len(number), dtype=torch.bool)
    inside[episodes.start + episodes.length - 1] = False
    here = inside.nonzero().squeeze(1)
    count = torch.zeros(size, size, dtype=torch.float64)
    count.index_put_((number[here], number[here + 1]), torch.ones(len(here), dtype=torch.float64), True)
    count = count + count.T
    move = count / count.sum(1, keepdim=True).clamp(min=1.0)
    return torch.linalg.inv(torch.eye(size, dtype=torch.float64) - discount * move)[number].float()


@dataclass(frozen=True)
class Links:
    """Which states of the sampled episodes are the same state of another episode, for practical purposes.

    Attributes:
        episodes: the sampled episodes, N steps in all.
        chosen: their numbers in the whole data.
        radius: two states closer than this are linked: half of the median distance between consecutive states.
        step: that median.
        neighbors: ``[N + C, LINKS]`` rows of the sample that each state is linked to (nearest first), -1 where there
            are fewer; the first N are the observations, the last C the next observations of the C cut episodes.
        state: ``[N + C]`` the number of each state where states repeat exactly (at least twice on average), else None:
            all equal states are then linked, however many, and no others.
        cut: ``[C]``, the numbers (in the sample) of the episodes that were cut.
        overlap: share of the sampled steps with at least one link.
        surprise: median distance between what follows linked states in which the same was done (actions within 5 % of
            their range), in steps; None with fewer than 30 such pairs. About half a step or less where the environment
            is deterministic and smooth.
        surprise_pairs: on how many pairs that rests.
    """

    episodes: Episodes
    chosen: Tensor
    radius: float
    step: float
    neighbors: Tensor
    state: Tensor | None
    cut: Tensor
    overlap: float
    surprise: float | None
    surprise_pairs: int


def find_links(episodes: Episodes, scale: Scale, seed: int = 0, sample: int = SAMPLE) -> Links:
    """Look for neighbors of every sampled state among the sampled states of all *other* episodes.

    Args:
        episodes: the data.
        scale: of the states.
        seed: of the choice of episodes.
        sample: at most so many steps (one episode at least); whole episodes, drawn at random.
    """
    order = torch.randperm(episodes.n_episodes, generator=torch.Generator().manual_seed(seed))
    fits = int((episodes.length[order].cumsum(0) <= sample).sum())
    chosen = order[: max(fits, 1)].sort().values
    part = episodes.select(chosen)
    data, number = part.data, part.episode_index()
    x, following = scale(data["observation"]), scale(data["next", "observation"])
    step = float((following - x).norm(dim=1).median())
    radius = step / 2 if step > 0 else 1e-6
    ends = part.start + part.length - 1
    cut = (~data["next", "terminated"][ends]).nonzero().reshape(-1)
    query = torch.cat([x, following[ends[cut]]])
    owner = torch.cat([number, cut])
    state: Tensor | None = None
    hashes = row_hashes(query)
    if len(torch.unique(hashes[: len(x)])) * 2 <= len(x):
        state = torch.unique(hashes, return_inverse=True)[1]
        neighbors = _equal_elsewhere(state, owner, len(x), seed)
    else:
        _, neighbors = nearest(query, x, LINKS, apart=(owner, number), radius=radius)
    linked = neighbors[: len(x), 0] >= 0
    surprise, pairs = _surprise(part, neighbors[: len(x)], following, step)
    return Links(part, chosen, radius, step, neighbors, state, cut, float(linked.double().mean()), surprise, pairs)


def noise_variance(
    episodes: Episodes, scale: Scale, seed: int = 0, queries: int = 3000, sample: int = SAMPLE
) -> tuple[Tensor, Tensor]:
    """Variance of the actions given the state (Gamma test), and in all, per dimension (one-hot if discrete).

    Args:
        episodes: the data.
        scale: of the states.
        seed: of what is sampled.
        queries: states at most whose neighbors are looked up.
        sample: steps at most, in whole episodes, among which these are.

    Returns:
        Two ``[A]`` float64, the first at most the second; equal where there are no other episodes to compare with.
    """
    order = torch.randperm(episodes.n_episodes, generator=torch.Generator().manual_seed(seed))
    fits = int((episodes.length[order].cumsum(0) <= sample).sum())
    part = episodes.select(order[: max(fits, 2)].sort().values)
    action = part.data["action"]
    if action.ndim == 1:
        action = torch.nn.functional.one_hot(action, int(episodes.spec["action_size"]))
    action = action.double()
    total = action.var(0, correction=0)
    if part.n_episodes < 2:
        return total, total
    x, number = scale(part.data["observation"]), part.episode_index()
    some = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:queries]
    distance, index = nearest(x[some], x, 10, apart=(number[some], number))
    found = (index >= 0).all(0)
    index, distance = index[:, found], distance[:, found].double()
    half = 0.5 * (action[some][:, None] - action[index]).square().mean(0)
    apart = distance.square().mean(0)
    centered = apart - apart.mean()
    spread = float(centered.square().sum())
    # Neighbors that are all equally far (equal states above all) leave no slope to extrapolate along.
    slope = centered @ half / spread if spread > 1e-12 * float(apart.mean()) ** 2 else torch.zeros_like(total)
    # A slope below 0 is noise: actions do not become more alike with distance.
    left = half.mean(0) - slope.clamp(min=0.0) * apart.mean()
    return left.clamp(min=0.0).minimum(total), total


def _equal_elsewhere(state: Tensor, owner: Tensor, points: int, seed: int) -> Tensor:
    """Up to `LINKS` randomly chosen equal states of other episodes for each state, ``[Q, LINKS]``."""
    order = torch.randperm(points, generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort(state[:points][order], stable=True)]  # shuffled within equal states
    ranked = state[:points][order]
    first, last = torch.searchsorted(ranked, state), torch.searchsorted(ranked, state, right=True)
    size = last - first
    place = torch.arange(len(state))
    out = torch.full((len(state), LINKS), -1, dtype=torch.int64)
    for k in range(LINKS):
        found = order[(first + (place + k) % size.clamp(min=1)).clamp(max=points - 1)]
        good = (size > k) & (owner[found] != owner)
        out[:, k] = torch.where(good, found, -1)
    return out.sort(dim=1, descending=True).values


def _surprise(part: Episodes, neighbors: Tensor, following: Tensor, step: float) -> tuple[float | None, int]:
    row, column = (neighbors >= 0).nonzero(as_tuple=True)
    other = neighbors[row, column]
    action = part.data["action"]
    if part.spec["action_kind"] == "discrete":
        same = action[row] == action[other]
    else:
        same = ((action[row] - action[other]).abs() <= 0.1).all(1)  # actions span 2
    row, other = row[same], other[same]
    if len(row) < 30 or step <= 0:
        return None, len(row)
    return float((following[row] - following[other]).norm(dim=1).median()) / step, len(row)
