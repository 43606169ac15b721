"""Intervals for estimates: resampling of episodes, the delta method, and bounds that hold at every sample size.

    percentile     quantiles of the estimate over bootstrap samples of episodes, each with its own normalizer
    percentile-t   the same of (estimate - value) / error, turned around; better where episodes are few (Efron, 1981)
    bca            percentile at levels corrected for bias and for skewness                       Efron, 1987, section 4
    delta          value +- z * error
    hoeffding      (b - a) sqrt(log(2 / alpha) / 2n) around the mean                  Hoeffding, 1963
    bernstein      sqrt(2 var log(4 / alpha) / n) + 7 (b - a) log(4 / alpha) / (3 (n - 1))
                                                                                   Maurer and Pontil, 2009, theorem 4
    refits         from the values of models fitted to bootstrap samples (fqe)

Hoeffding's and Bernstein's bounds need the range [a, b] of a single episode's term *from the user*; the largest number
of a sample is no bound. They are for means of independent terms, so not for self-normalized estimates or clusters.

Where several episodes belong to one person, clusters are resampled, all episodes of each, and errors are those of sums
over clusters (`lightning_offrl.data.clusters`). This needs many clusters of like size; with few, intervals come out too
narrow. Cameron, Gelbach and Miller (2008) see it with 5 to 30 and studentize; MacKinnon and Webb (2017,
https://doi.org/10.1002/jae.2508) see it with 50 of unlike size. How often nominal 95 % intervals held the mean of 600
simulated logs with a normal effect of each cluster as large as the noise of an episode (intervals of episodes: 30 to
75 %; the effective number is ``(sum n)^2 / sum n^2`` of the sizes n):

    clusters                    effective    percentile-t    percentile    bca     delta
    5 of equal size                 5            94 %           83 %       84 %     87 %
    10                             10            94 %           90 %       89 %     91 %
    10, exponential effects        10            93 %           86 %       87 %     88 %
    20                             20            95 %           93 %       93 %     94 %
    30                             30            96 %           95 %       94 %     95 %
    61, one with 10 % of all       42            94 %           93 %       92 %     94 %
    61, one with 20 % of all       20            94 %           93 %       87 %     92 %
    61, one with 30 % of all       10            90 %           90 %       80 %     86 %
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_offrl.data.bootstrap import times_drawn
from lightning_offrl.data.clusters import ClusterLabels, numbered
from lightning_offrl.errors import InputError
from lightning_offrl.ope.weighting.importance import PerEpisodeTerms

FEW_EPISODES = 100
"""Below this number of episodes (with clusters, their effective number) `interval` studentizes (percentile-t)."""
FEWEST_CLUSTERS = 10
"""Below this effective number of clusters (by size) there is no interval."""
FEW_CLUSTERS = 30
"""Below this effective number it is said that intervals may be too narrow."""
METHODS = ("auto", "percentile", "percentile-t", "bca", "delta")
_CHUNK = 20_000_000  # numbers held at once while resampling


@dataclass(frozen=True)
class Interval:
    """Bounds of a value.

    Attributes:
        low: lower bound.
        high: upper bound.
        level: nominal probability that the interval covers the value.
        method: one of the names above.
        guaranteed: holds at every sample size, if the stated range is right.
    """

    low: float
    high: float
    level: float
    method: str
    guaranteed: bool = False

    @property
    def usable(self) -> bool:
        """Whether both bounds are finite numbers."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def width(self) -> float:
        """``high - low``."""
        return self.high - self.low

    def contains(self, value: float) -> bool:
        """Whether the value lies inside."""
        return self.low <= value <= self.high


class Resamples:
    """Bootstrap samples of episodes, the same for every estimate of one evaluation, so that differences are paired.

    Args:
        n: episodes.
        n_boot: resamples R.
        seed: of the draws.
        clusters: ``[E]`` labels of what episodes belong to: then clusters are drawn, each with all its episodes.
    """

    def __init__(self, n: int, n_boot: int = 1000, seed: int = 0, clusters: ClusterLabels | None = None) -> None:
        self.n, self.n_boot, self.seed = n, n_boot, seed
        self.clusters = numbered(clusters, n)
        self.units = n if self.clusters is None else self.clusters.n
        self._drawn: list[Tensor] = []

    @property
    def like(self) -> float:
        """Number of units, of clusters the effective one by size."""
        return self.n if self.clusters is None else self.clusters.effective

    @property
    def enough(self) -> bool:
        """Whether there is so much to draw from that an interval means something."""
        return self.like >= (2 if self.clusters is None else FEWEST_CLUSTERS)

    @property
    def too_few_clusters(self) -> bool:
        """Whether it is clusters that there are too few of."""
        return self.clusters is not None and not self.enough

    def counts(self) -> Iterator[Tensor]:
        """Chunks ``[R', E]`` of how often each episode was drawn; rows add up to E unless clusters are drawn."""
        for drawn in self._unit_counts():
            if self.clusters is None:
                yield drawn
            else:
                yield from (self.clusters.spread(part) for part in drawn.split(max(1, _CHUNK // self.n)))

    def _unit_counts(self) -> Iterator[Tensor]:
        """The same ``[R', U]`` of the units that are drawn, clusters or episodes; kept if there is only one chunk."""
        if not self._drawn and self.units * self.n_boot <= _CHUNK:
            self._drawn = list(self._draw())
        yield from self._drawn or self._draw()

    def _draw(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        chunk = max(1, min(self.n_boot, _CHUNK // self.units))
        for first in range(0, self.n_boot, chunk):
            yield times_drawn(self.units, min(chunk, self.n_boot - first), generator)

    def values(self, terms: PerEpisodeTerms) -> Tensor:
        """The estimate in every resample, ``[R]``; ``terms`` are per episode."""
        of_units = terms.clustered(self.clusters)
        return torch.cat([of_units.resampled(counts) for counts in self._unit_counts()])

    def values_and_errors(self, terms: PerEpisodeTerms) -> tuple[Tensor, Tensor]:
        """The estimate and its standard error in every resample, ``[R]`` each; ``terms`` are per episode."""
        of_units = terms.clustered(self.clusters)
        both = [(of_units.resampled(c), of_units.resampled_errors(c)) for c in self._unit_counts()]
        return torch.cat([value for value, _ in both]), torch.cat([error for _, error in both])


def interval(
    terms: PerEpisodeTerms,
    *,
    level: float = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
    method: str = "auto",
    clusters: ClusterLabels | None = None,
) -> Interval:
    """Interval of an estimate from its terms per episode.

    Args:
        terms: the estimate.
        level: nominal coverage.
        n_boot: resamples; raised where the level is so high that its quantiles would rest on fewer than 10 resamples.
        seed: of the resampling.
        method: one of `METHODS`; "auto": percentile-t below `FEW_EPISODES`, else percentile.
        clusters: ``[E]`` labels of what episodes belong to; infinite bounds where these are too few.

    Raises:
        InputError: an unknown method, or a level outside (0, 1).
    """
    resamples = Resamples(terms.n, resamples_for(level, n_boot), seed, clusters)
    return resampled_interval(terms, resamples, level, method)[0]


def resampled_interval(
    terms: PerEpisodeTerms, resamples: Resamples, level: float = 0.95, method: str = "auto"
) -> tuple[Interval, Tensor]:
    """The bootstrap interval, and the estimate in every resample ``[R]``; arguments as of `interval`."""
    alpha = _alpha(level)
    if method == "auto":
        method = "percentile-t" if resamples.like < FEW_EPISODES else "percentile"
    if method not in METHODS:
        raise InputError(f"unknown interval {method!r}; there are {', '.join(METHODS)}")
    of_units = terms.clustered(resamples.clusters)
    value, error = of_units.value, of_units.standard_error
    if not resamples.enough or not math.isfinite(value):
        nothing = torch.full((resamples.n_boot,), torch.nan, dtype=torch.float64)
        return Interval(-math.inf, math.inf, level, method), nothing
    if method != "percentile-t":
        values = resamples.values(terms)
        if method == "percentile":
            return Interval(*_quantiles(values, alpha), level, method), values
        if method == "bca":
            return Interval(*_corrected(values, value, of_units.left_out, alpha), level, method), values
        half = _normal_quantile(1.0 - alpha / 2.0) * error
        return Interval(value - half, value + half, level, method), values
    values, errors = resamples.values_and_errors(terms)
    if error == 0.0:
        return Interval(value, value, level, method), values
    low, high = _quantiles(_studentized(values - value, errors), alpha)
    return Interval(value - high * error, value - low * error, level, method), values


def resamples_for(level: float, n_boot: int) -> int:
    """``n_boot``, or more where each tail would rest on fewer than 10 resamples."""
    return max(n_boot, math.ceil(20.0 / _alpha(level)))


def difference(first: PerEpisodeTerms, second: PerEpisodeTerms) -> PerEpisodeTerms:
    """``first - second`` as an estimate of its own, from the same episodes: its interval is the paired one."""
    return first.combined(second.scaled(-1.0))


def hoeffding(terms: PerEpisodeTerms, low: float, high: float, *, level: float = 0.95) -> Interval:
    """Hoeffding's interval; ``low`` and ``high`` bound the term of a single episode (for ``is``: weight times return).

    Raises:
        InputError: a self-normalized estimate, or terms outside the range.
    """
    mean, n, alpha = _bounded_mean(terms, low, high, level)
    half = (high - low) * math.sqrt(math.log(2.0 / alpha) / (2.0 * n))
    return Interval(mean - half, mean + half, level, "hoeffding", guaranteed=True)


def bernstein(terms: PerEpisodeTerms, low: float, high: float, *, level: float = 0.95) -> Interval:
    """The empirical Bernstein interval, narrower than Hoeffding's where the variance is small; arguments as there."""
    mean, n, alpha = _bounded_mean(terms, low, high, level)
    if n < 2:
        return Interval(low, high, level, "bernstein", guaranteed=True)
    variance = float(terms.per_episode.var())
    log = math.log(4.0 / alpha)
    half = math.sqrt(2.0 * variance * log / n) + 7.0 * (high - low) * log / (3.0 * (n - 1))
    return Interval(mean - half, mean + half, level, "bernstein", guaranteed=True)


def from_refits(value: float, replicates: Tensor, *, level: float = 0.95) -> Interval:
    """From the values of models refitted to bootstrap samples of episodes.

    The quantile p is the value of rank ``p (R + 1)`` (Davison and Hinkley, 1997, section 2.4): another draw from where
    the R came from lies below it with probability p exactly, while ranks up to ``p (R - 1) + 1`` leave 90 % between
    the outer two of 40. Where there is no such rank (fewer than 39 refits at 95 %): ``value +- t sd`` with Student's t
    for R - 1 degrees of freedom. The spread of Q over first states is no such interval: it leaves out the error of the
    fit.

    Args:
        value: the estimate from all data.
        replicates: ``[R]``, R >= 2.
        level: nominal coverage.

    Raises:
        InputError: fewer than two refits.
    """
    alpha = _alpha(level)
    if replicates.ndim != 1 or len(replicates) < 2:
        raise InputError(f"an interval from refits needs at least 2 of them (10 or more are useful), got {replicates}")
    count = len(replicates)
    rank = alpha / 2.0 * (count + 1)
    if rank > 1.0 - 1e-9:
        place = max(rank - 1.0, 0.0) / (count - 1)
        low, high = _quantiles(replicates.double(), alpha, (place, 1.0 - place))
        return Interval(low, high, level, "refits")
    half = student_t(1.0 - alpha / 2.0, count - 1) * float(replicates.double().std())
    return Interval(value - half, value + half, level, "refits")


def percentile(values: Tensor, level: float = 0.95) -> Interval:
    """The percentile interval of ``[R]`` values in bootstrap samples; infinite if one of them is no number."""
    return Interval(*_quantiles(values, _alpha(level)), level, "percentile")


def student_t(probability: float, degrees: int) -> float:
    """The quantile of Student's t distribution; `scipy.special`, because `scipy.stats` takes a second to import."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def _studentized(deviation: Tensor, error: Tensor) -> Tensor:
    return torch.where(error > 0.0, deviation / error, torch.where(deviation == 0.0, 0.0, deviation.sign() * torch.inf))


def _corrected(values: Tensor, value: float, left_out: Tensor, alpha: float) -> tuple[float, float]:
    """BCa: quantiles at levels moved by the bias and the acceleration of the estimate; infinite where these are."""
    if not bool((values != value).any()):
        return value, value
    away = left_out.mean() - left_out  # [E]
    squares = float(away.square().sum())
    acceleration = float(away.pow(3).sum()) / (6.0 * squares**1.5) if squares > 0.0 else 0.0
    # half of the resamples that equal the estimate (but for rounding) count as below it: a matter of few episodes
    same = 1e-12 * max(abs(value), float(values.abs().max()))
    below, not_above = (values < value - same).double().mean(), (values <= value + same).double().mean()
    bias = _normal_quantile(0.5 * float(below + not_above))
    levels = []
    for p in (alpha / 2.0, 1.0 - alpha / 2.0):
        z = bias + _normal_quantile(p)
        if not math.isfinite(z) or not acceleration * z < 1.0:
            return -math.inf, math.inf
        levels.append(float(torch.special.ndtr(torch.tensor(bias + z / (1.0 - acceleration * z)).double())))
    return _quantiles(values, alpha, levels)


def _normal_quantile(probability: float) -> float:
    return float(torch.special.ndtri(torch.tensor(probability, dtype=torch.float64)))


def _quantiles(values: Tensor, alpha: float, levels: Sequence[float] | None = None) -> tuple[float, float]:
    """The two outer quantiles, or those at two ``levels``.

    Infinite if a resample has no value, for then nothing is known of the tail.
    """
    if bool(values.isnan().any()):
        return -math.inf, math.inf
    ordered = values.sort().values
    last = len(ordered) - 1

    def at(p: float) -> float:
        # linear between order statistics, as numpy's default; infinite neighbors give infinity, not NaN
        place = p * last
        i = min(int(place), last)
        left, right = float(ordered[i]), float(ordered[min(i + 1, last)])
        return left if place == i or left == right else left + (place - i) * (right - left)

    low, high = levels or (alpha / 2.0, 1.0 - alpha / 2.0)
    return at(low), at(high)


def _alpha(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise InputError(f"the level of an interval must be between 0 and 1, such as 0.95, got {level}")
    return 1.0 - level


def _bounded_mean(terms: PerEpisodeTerms, low: float, high: float, level: float) -> tuple[float, int, float]:
    if terms.normalized and bool((terms.denominator != terms.denominator[:1]).any()):
        raise InputError(
            "a guaranteed interval is for a mean of independent terms; this estimate divides by its own weights. "
            "Use is, pdis or dr, or the bootstrap"
        )
    values = terms.per_episode
    outside = int(((values < low) | (values > high)).sum())
    if not low < high or outside:
        raise InputError(
            f"the range [{low:g}, {high:g}] must bound the term of every episode, but {outside} of {terms.n} lie "
            f"outside: they go from {float(values.min()):.6g} to {float(values.max()):.6g}; give the range that is "
            "possible, not the one seen"
        )
    return terms.value, terms.n, _alpha(level)
