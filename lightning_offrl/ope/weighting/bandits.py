"""Bandit logs (one step, logged propensities) and weights that are kept small: the same functions at horizon 1.

    clipped    min(w, bound)                       Ionides, 2008
    switched   w where w <= bound, else 0          Wang, Agarwal and Dudik, 2017 (in DR: the model where w is large)
    shrunk     bound w / (w^2 + bound)             Su, Dimakopoulou, Krishnamurthy and Dudik, 2020 (DRos)

All three trade bias for variance. None is used unless asked for, and `clipping_bias` says how large the bias can be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_offrl.errors import InputError
from lightning_offrl.ope.weighting.importance import PerEpisodeTerms, WeightRule
from lightning_offrl.ope.weighting.trajectories import LOGGED, Trajectories


def clipped(bound: float) -> WeightRule:
    """``min(w, bound)``, on log weights."""
    limit = math.log(_positive(bound))
    return lambda log_weight: log_weight.clamp(max=limit)


def switched(bound: float) -> WeightRule:
    """``w`` where ``w <= bound``, else 0, on log weights."""
    limit = math.log(_positive(bound))
    return lambda log_weight: torch.where(log_weight <= limit, log_weight, -torch.inf)


def shrunk(bound: float) -> WeightRule:
    """``bound w / (w^2 + bound)``, on log weights."""
    level = math.log(_positive(bound))
    return lambda log_weight: level + log_weight - torch.logaddexp(2.0 * log_weight, torch.full_like(log_weight, level))


def bandit_log(
    reward: Tensor,
    action: Tensor,
    target: Tensor,
    propensity: Tensor,
    *,
    q: Tensor | None = None,
    propensities_are: str = LOGGED,
) -> Trajectories:
    """Logged bandit feedback as episodes of one step.

    Args:
        reward: ``[n]``.
        action: ``[n]`` int64, the action taken.
        target: ``[n, A]``, the evaluated policy's probabilities in each context.
        propensity: ``[n]``, the probability with which the logged action was chosen.
        q: ``[n, A]``, a reward model's prediction for every action, for the doubly robust estimators.
        propensities_are: "logged" or "estimated".

    Raises:
        InputError: a propensity outside (0, 1], or shapes that differ.
    """
    n = len(reward)
    if target.ndim != 2 or any(len(x) != n for x in (action, target, propensity)):
        raise InputError(
            f"reward, action and propensity must be [n] and target [n, A], got {list(reward.shape)}, "
            f"{list(action.shape)}, {list(propensity.shape)} and {list(target.shape)}"
        )
    bad = int((~((propensity > 0.0) & (propensity <= 1.0))).sum())
    if bad:
        raise InputError(f"{bad:,} propensities are not in (0, 1]; each is the probability of the logged action")
    p = target.double()
    chosen = action.unsqueeze(-1)
    return Trajectories(
        reward=reward.unsqueeze(-1),
        mask=torch.ones(n, 1, dtype=torch.bool),
        behavior_log_prob=propensity.double().log().unsqueeze(-1),
        target_log_prob=p.gather(-1, chosen).log(),
        q=None if q is None else q.double().gather(-1, chosen),
        v=None if q is None else (p * q.double()).sum(-1, keepdim=True),
        behavior=propensities_are,
    )


def clipping_bias(data: Trajectories, rule: WeightRule, reward_range: tuple[float, float]) -> float:
    """Estimated bound of the bias that a rule brings into ``is``: ``mean(w - rule(w)) * (highest - lowest return)``.

    Args:
        data: with weights.
        rule: must not raise weights.
        reward_range: lowest and highest possible *return*.
    """
    low, high = reward_range
    log_weight = data.log_weights[:, -1]
    return float((log_weight.exp() - rule(log_weight).exp()).mean()) * (high - low)


def slope(estimates: Sequence[PerEpisodeTerms], width: float = 2.0) -> int:
    """Which of several bounds to take, by Lepski's principle (SLOPE; Su, Srinath and Krishnamurthy, 2020).

    Args:
        estimates: the same estimator with growing bias and shrinking variance (weights bounded ever harder).
        width: half-widths of the intervals, in standard errors.

    Returns:
        The last index up to which all intervals have a point in common.
    """
    low, high, chosen = -math.inf, math.inf, 0
    smallest = math.inf
    for i, estimate in enumerate(estimates):
        smallest = min(smallest, estimate.standard_error)  # a later interval is never wider (their assumption)
        low, high = max(low, estimate.value - width * smallest), min(high, estimate.value + width * smallest)
        if low > high:
            break
        chosen = i
    return chosen


def _positive(bound: float) -> float:
    if not bound > 0.0:
        raise InputError(f"the bound of a weight must be positive, got {bound}")
    return bound
