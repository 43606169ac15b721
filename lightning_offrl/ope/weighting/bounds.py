"""Bounds of the value that hold whatever the log lacks: partial identification from bounded rewards.

Cut each weight at a bound c: what is cut, and what was never in the log, is worth between the smallest and the largest
reward. Since E[w] = 1 with full support and less without, the share of the policy's probability that the cut weights
leave out is 1 - E[min(w, c)] either way, and

    lower = sum_t gamma^t ( E[min(w_t, c) r_t] + (1 - E[min(w_t, c)]) r_min )
    upper = sum_t gamma^t ( E[min(w_t, c) r_t] + (1 - E[min(w_t, c)]) r_max )

enclose the value (the argument of Manski, 1990, for what is missing in data). They need true probabilities of the
behavior and a range of rewards that is possible, not the one seen; they need no overlap and no effective sample size,
so they are what is left to say when every estimate abstains. Both are means of independent bounded terms.
"""

from __future__ import annotations

import math

from lightning_offrl.errors import InputError
from lightning_offrl.ope.weighting.importance import PerEpisodeTerms, plain
from lightning_offrl.ope.weighting.intervals import Interval, bernstein, hoeffding
from lightning_offrl.ope.weighting.trajectories import Trajectories


def value_bounds(
    data: Trajectories, reward_range: tuple[float, float], max_weight: float | None = None
) -> tuple[PerEpisodeTerms, PerEpisodeTerms]:
    """Lower and upper bound of the value, as estimates per episode.

    Args:
        data: with weights from true probabilities.
        reward_range: lowest and highest possible reward of a step. 0 is added to it: an episode may end.
        max_weight: c; None: the root of the number of episodes (Ionides, 2008).

    Raises:
        InputError: no weights, a range that is none, or logged rewards outside it.
    """
    low, high = reward_range
    seen = data.reward[data.mask]
    if not low < high or float(seen.min()) < low or float(seen.max()) > high:
        raise InputError(
            f"the range of rewards [{low:g}, {high:g}] must hold every possible one, but the log goes from "
            f"{float(seen.min()):.6g} to {float(seen.max()):.6g}"
        )
    limit = math.sqrt(data.n) if max_weight is None else max_weight
    if not limit > 0.0:
        raise InputError(f"the bound of a weight must be positive, got {limit}")
    weight = data.log_weights.clamp(max=math.log(limit)).exp()
    sides = []
    for worth in (min(low, 0.0), max(high, 0.0)):
        sides.append(plain((data.factors * (weight * (data.reward - worth) + worth)).sum(-1)))
    return sides[0], sides[1]


def guaranteed_interval(
    name: str,
    terms: PerEpisodeTerms,
    data: Trajectories,
    reward_range: tuple[float, float] | None,
    max_weight: float | None,
    level: float,
) -> Interval | None:
    """Hoeffding's or the empirical Bernstein interval, the narrower of both at half the error each.

    Args:
        name: of the estimator; there are such intervals for naive, is and pdis.
        terms: its terms.
        data: discounted by step.
        reward_range: lowest and highest possible reward of a step.
        max_weight: largest possible weight of an episode, for is and pdis.
        level: coverage.

    Returns:
        None where the range of an episode's term is not known, and where episodes come in clusters: their terms are not
        independent, and a sum over a cluster of any size has no range.
    """
    if data.together is not None or reward_range is None or data.elapsed is not None:
        return None
    if name not in ("naive", "is", "pdis"):
        return None
    if name != "naive" and max_weight is None:
        return None
    total = sum(data.discount**t for t in range(data.horizon)) * (1.0 if name == "naive" else max_weight or 1.0)
    bottom, top = min(reward_range[0], 0.0) * total, max(reward_range[1], 0.0) * total  # episodes may end at any step
    half = 1.0 - (1.0 - level) / 2.0
    best = min((bound(terms, bottom, top, level=half) for bound in (hoeffding, bernstein)), key=lambda i: i.width)
    return Interval(max(best.low, bottom), min(best.high, top), level, best.method, guaranteed=True)
