"""Which transitions are drawn how often, where uniform drawing is not what the data needs: weights and fixed shares.

The dataset report (``offrl data report``) says which of these a dataset asks for, and why.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_offrl.data.episodes import Episodes, leaves
from lightning_offrl.data.samplers import UniformSampler
from lightning_offrl.errors import InputError

STRATA = {
    "none": "one batch from everything",
    "return": "by the return of the episode, in groups of as many episodes each",
    "length": "by the length of the episode, in groups of as many episodes each",
    "ending": "episodes that ended in a terminal state, and those that were cut",
    "reward": "steps with a reward of 0, and steps with another",
    "action": "by the action (discrete actions only)",
    "policy": "by the behavior policy that the dataset report found (needs `report`)",
}
WEIGHTS = {
    "uniform": "every transition alike",
    "return": "exp(normalized return of the episode / temperature)",
    "unique": "an episode that stands n times in the data counts once",
}


@dataclass
class Sampling:
    """How the transitions of a batch are chosen.

    Args:
        strata: The property that divides the data into parts which each get a fixed share of every batch: none, return,
            length, ending, reward, action, or policy.
        shares: The share of each part, in any unit. The order is: returns and lengths from low to high, terminal before
            cut, zero reward before others, actions and policies by number. None gives every part that has transitions
            the same share.
        groups: The number of parts by return or length.
        weight: The weight of a transition within its part (or in the whole data): uniform, return, or unique.
        temperature: The temperature of the weight by return, for returns scaled to [0, 1] (Hong et al. 2023,
            https://arxiv.org/abs/2306.13085: 0.1 for IQL and TD3+BC, 0.2 for CQL).
        report: The path of the JSON file that ``offrl data report`` wrote for this dataset, which ``strata: policy``
            needs.
    """

    strata: str = "none"
    shares: list[float] | None = None
    groups: int = 4
    weight: str = "uniform"
    temperature: float = 0.1
    report: str | None = None

    def __post_init__(self) -> None:
        for name, value, known in (("strata", self.strata, STRATA), ("weight", self.weight, WEIGHTS)):
            if value not in known:
                near = difflib.get_close_matches(str(value), known, 1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise InputError(f"data.sampling.{name} cannot be {value!r}; {hint}There are: {', '.join(known)}")
        if not self.temperature > 0.0:
            raise InputError(f"data.sampling.temperature must be above 0, got {self.temperature}")
        if self.groups < 2:
            raise InputError(f"data.sampling.groups must be at least 2, got {self.groups}")
        if self.shares is not None and self.strata == "none":
            raise InputError("data.sampling.shares are given but strata is 'none'; say what to divide the data by")
        if self.strata == "policy" and self.report is None:
            raise InputError(
                "data.sampling.strata 'policy' needs data.sampling.report, the JSON file that `offrl data report` wrote"
            )

    def sampler(
        self, episodes: Episodes, batch_size: int, seed: int, seeds: int = 1, rank: int = 0, world: int = 1
    ) -> UniformSampler:
        """The sampler for these episodes (the train split); its rows are theirs.

        Raises:
            InputError: for shares that do not fit the strata, actions that are not discrete, or a report of other data.
        """
        weight = self.weights(episodes)
        if self.strata == "none":
            if weight is None:
                return UniformSampler(len(episodes), batch_size, seed, seeds, rank, world)
            return WeightedSampler(weight, batch_size, seed, seeds, rank, world)
        strata = self.stratum(episodes)
        shares = None if self.shares is None else torch.tensor(self.shares, dtype=torch.float64)
        if shares is not None and len(shares) != self._count(strata):
            raise InputError(
                f"data.sampling.shares has {len(shares)} numbers, but {episodes.name} has {self._count(strata)} strata "
                f"by {self.strata}"
            )
        return StratifiedSampler(strata, shares, batch_size, seed, seeds, rank, world, weight=weight)

    def weights(self, episodes: Episodes) -> Tensor | None:
        """``[T]`` float64, or None where all are alike."""
        if self.weight == "return":
            value = return_weight(episodes.returns(), self.temperature)
        elif self.weight == "unique":
            value = 1.0 / copies(episode_hashes(episodes)).double()
        else:
            return None
        return torch.repeat_interleave(value, episodes.length)

    def stratum(self, episodes: Episodes) -> Tensor:
        """``[T]`` int64."""
        data = episodes.data
        if self.strata == "reward":
            return (data["next", "reward"] != 0).long()
        if self.strata == "action":
            if episodes.spec["action_kind"] != "discrete":
                raise InputError(
                    f"data.sampling.strata 'action' needs discrete actions, those of {episodes.name} are continuous"
                )
            return data["action"]
        if self.strata == "return":
            value = quantile_group(episodes.returns(), self.groups)
        elif self.strata == "length":
            value = quantile_group(episodes.length.double(), self.groups)
        elif self.strata == "ending":
            value = data["next", "truncated"][episodes.start + episodes.length - 1].long()
        else:
            assert self.report is not None
            value = policies_of(self.report, episodes)
        return torch.repeat_interleave(value, episodes.length)

    def _count(self, strata: Tensor) -> int:
        fixed = {"reward": 2, "ending": 2, "return": self.groups, "length": self.groups}.get(self.strata)
        return fixed if fixed is not None else int(strata.max()) + 1


class WeightedSampler(UniformSampler):
    """Transitions drawn with replacement, each with a probability in proportion to its weight.

    Args:
        weight: ``[T]``, not negative, at least one above zero; a weight of zero is never drawn.
        batch_size: and all others as in `UniformSampler`.
        seed: of the run.
        seeds: stacked seeds S.
        rank: this process.
        world: number of processes.

    Raises:
        InputError: for weights that are negative, not finite, or all zero.
    """

    def __init__(
        self, weight: Tensor, batch_size: int, seed: int, seeds: int = 1, rank: int = 0, world: int = 1
    ) -> None:
        super().__init__(len(weight), batch_size, seed, seeds, rank, world)
        self._cumulative = _cumulative(weight)

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        """The joint batch of one update and seed, ``[rows]`` int64."""
        return _invert(self._cumulative, torch.rand(rows, generator=generator, dtype=torch.float64))


class StratifiedSampler(UniformSampler):
    """Batches in which every stratum has its share, exactly.

    With shares p and a joint batch of n rows, stratum h gets n p_h rows in every update where that is a whole number,
    else ``floor(n p_h)`` or ``ceil(n p_h)`` with the mean n p_h (systematic sampling: one uniform offset, then equal
    steps along the cumulative shares; Cochran, 1977, section 8.1). Within a stratum rows are drawn with replacement,
    uniformly or by weight. The joint batch is shuffled, so that under DDP every rank sees all strata.

    Args:
        strata: ``[T]`` int64, the number of each transition's stratum, from 0.
        shares: ``[H]``, not negative, in any unit; None gives every stratum the same. A stratum without rows must have
            the share 0.
        batch_size: and all others as in `UniformSampler`.
        seed: of the run.
        seeds: stacked seeds S.
        rank: this process.
        world: number of processes.
        weight: ``[T]`` of the rows within their stratum; None: alike.

    Raises:
        InputError: for shares or weights that are negative, not finite or all zero, or a share of an empty stratum.
    """

    def __init__(
        self,
        strata: Tensor,
        shares: Tensor | None,
        batch_size: int,
        seed: int,
        seeds: int = 1,
        rank: int = 0,
        world: int = 1,
        *,
        weight: Tensor | None = None,
    ) -> None:
        super().__init__(len(strata), batch_size, seed, seeds, rank, world)
        count = torch.bincount(strata)
        if shares is None:
            shares = (count > 0).double()
        if len(shares) < len(count):
            raise InputError(f"there are {len(count)} strata but {len(shares)} shares; give one share for each stratum")
        count = torch.nn.functional.pad(count, (0, len(shares) - len(count)))
        self._shares = _cumulative(shares, "shares of strata")
        self._rows = torch.argsort(strata, stable=True)
        self._end = count.cumsum(0)
        self._start = self._end - count
        weight = torch.ones(len(strata), dtype=torch.float64) if weight is None else weight
        mass = torch.zeros(len(shares), dtype=torch.float64).index_add_(0, strata, weight.double())
        empty = ((shares > 0) & (mass <= 0)).nonzero().reshape(-1)
        if len(empty):
            raise InputError(
                f"stratum {int(empty[0])} has the share {float(shares[empty[0]]):g} but "
                f"{'no transition' if count[empty[0]] == 0 else 'only transitions of weight 0'}; give it the share 0"
            )
        # One cumulative sum over all strata, in their order: a stratum is an interval of it.
        self._within = _cumulative(weight[self._rows])
        self._mass = mass / mass.sum()
        self._before = self._mass.cumsum(0) - self._mass

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        """The joint batch of one update and seed, ``[rows]`` int64, shuffled."""
        offset = torch.rand(1, generator=generator, dtype=torch.float64)
        points = (torch.arange(rows, dtype=torch.float64) + offset) / rows
        stratum = _invert(self._shares, points)
        place = torch.rand(rows, generator=generator, dtype=torch.float64)
        place = _invert(self._within, self._before[stratum] + place * self._mass[stratum])
        # Rounding at a border must not leave the stratum.
        drawn = self._rows[place.maximum(self._start[stratum]).minimum(self._end[stratum] - 1)]
        return drawn[torch.randperm(rows, generator=generator)]


def _cumulative(weight: Tensor, what: str = "sampling weights") -> Tensor:
    """Cumulative shares ``[T]`` float64, the last of them exactly 1."""
    weight = weight.double()
    if weight.ndim != 1 or len(weight) == 0 or not bool(torch.isfinite(weight).all()) or bool((weight < 0).any()):
        raise InputError(f"{what} must be finite numbers from 0 on, one for each; got {weight.tolist()[:5]} ...")
    total = weight.cumsum(0)
    if float(total[-1]) <= 0.0:
        raise InputError(f"{what} are all zero, so nothing could be drawn; give at least one above zero")
    return total / total[-1]


def _invert(cumulative: Tensor, points: Tensor) -> Tensor:
    """The first index whose cumulative share lies above each point of [0, 1)."""
    return torch.searchsorted(cumulative, points.clamp(max=1.0 - 2.0**-53), right=True)


def return_weight(returns: Tensor, temperature: float) -> Tensor:
    """``exp((G - min G) / (max G - min G) / temperature)`` for each episode, its largest scaled to 1.

    Return weighting of Hong et al. 2023, https://arxiv.org/abs/2306.13085. Equal returns weigh alike.

    Args:
        returns: ``[E]``.
        temperature: of the normalized returns, above 0.

    Returns:
        ``[E]`` float64 in (0, 1].
    """
    low, high = returns.min(), returns.max()
    if float(high - low) <= 0.0:
        return torch.ones_like(returns, dtype=torch.float64)
    return torch.exp((returns.double() - high) / (high - low) / temperature)


def quantile_group(values: Tensor, groups: int) -> Tensor:
    """Number of the group of each value, from low to high, in groups as equal in size as ties allow.

    Args:
        values: ``[E]``.
        groups: how many; equal values always share a group, so some may be empty.

    Returns:
        ``[E]`` int64.
    """
    distinct, place = torch.unique(values, return_inverse=True)
    weight = torch.bincount(place, minlength=len(distinct)).double()
    middle = (weight.cumsum(0) - 0.5 * weight) / weight.sum()
    return (middle * groups).floor().clamp(max=groups - 1).long()[place]


def episode_hashes(episodes: Episodes) -> list[str]:
    """What each episode holds as a short hash: episodes that are equal in every number have the same.

    Observations, actions, rewards and flags enter; order in the dataset, name and logged densities do not.
    """
    tables = [
        value.contiguous().numpy().reshape(len(episodes), -1)
        for path, value in leaves(episodes.data)
        if path[-1] != "behavior_log_prob"
    ]
    out = []
    for start, length in zip(episodes.start.tolist(), episodes.length.tolist(), strict=True):
        digest = hashlib.blake2b(digest_size=8)
        for table in tables:
            digest.update(table[start : start + length].tobytes())
        out.append(digest.hexdigest())
    return out


def copies(hashes: list[str]) -> Tensor:
    """How often each episode's content stands in the list, ``[E]`` int64."""
    count = Counter(hashes)
    return torch.tensor([count[one] for one in hashes])


def policies_of(report: str | Path, episodes: Episodes) -> Tensor:
    """Number of the behavior policy of each episode, ``[E]`` int64, from a dataset report's JSON.

    Raises:
        InputError: if the file cannot be read, holds no such table, or was written for other data.
    """
    try:
        facts: Any = json.loads(Path(report).expanduser().read_text())
    except OSError as problem:
        raise InputError(
            f"the dataset report {report} cannot be read ({problem.strerror}); write it with `offrl data report`"
        ) from problem
    except ValueError as problem:
        raise InputError(f"{report} is not JSON; give the .json file that `offrl data report` wrote") from problem
    table = facts.get("episode_policies") if isinstance(facts, dict) else None
    if not isinstance(table, dict):
        raise InputError(f"{report} is not a dataset report: it has no 'episode_policies'")
    hashes = episode_hashes(episodes)
    unknown = sum(one not in table for one in hashes)
    if unknown:
        raise InputError(
            f"{unknown} of {len(hashes)} episodes of {episodes.name} are not in the dataset report {report}; it was "
            "written for other data: write it again with `offrl data report`"
        )
    return torch.tensor([int(table[one]) for one in hashes])
