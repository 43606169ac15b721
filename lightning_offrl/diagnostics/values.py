"""Can the critics be believed? Bounds, calibration, gaps and drift of Q, and agreement of its members.

Functions of tensors, all in the units that Q was trained in (transformed rewards, its discount).

    q_bounds           Q outside of what discounted rewards can add up to has diverged
    q_calibration      E[return-to-go | Q] = Q would be a line of slope 1 (for the policy that made the data)
    q_gap              Q(s, pi(s)) - Q(s, a): what the policy is promised for leaving the data
    q_drift            Q that still moves at the end has not converged
    initial_value      V(s0) beyond the best return of the log is a claim without example
    disagreement       spread over an ensemble at the policy's actions, relative to the log's
    offline_online_gap V(s0) against discounted returns of played episodes
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from lightning_offrl.diagnostics.diagnosis import CLOSER, Diagnosis, Level, level_of
from lightning_offrl.errors import InputError

CALMER = "lower the learning rates or the discount, clip gradients (model.clip_grad_norm), or use more critics"
"""What to try where values run away."""
CAUTION_OUTSIDE, ALARM_OUTSIDE = 0.001, 0.01
CAUTION_DISAGREEMENT, ALARM_DISAGREEMENT = 2.0, 5.0
CAUTION_GAP, ALARM_GAP = 1.0, 3.0
CAUTION_DRIFT, ALARM_DRIFT = 0.05, 0.20
"""Shares of Q outside its bounds, ratios of spreads, gaps in standard deviations of returns, relative changes over the
last fifth of training. Rules of thumb of this package, but for a drift of 5 %, as in fitted Q evaluation."""


def value_range(rewards: Tensor, discount: float, *, ends: bool, longest: int | None = None) -> tuple[float, float]:
    """Smallest and largest discounted sum of such rewards, whatever the policy.

    Args:
        rewards: ``[T]`` of the log.
        discount: gamma.
        ends: episodes can end by themselves, so that a sum may have as few as one term.
        longest: most steps of an episode; None: no limit, which needs a discount below 1.

    Raises:
        InputError: an unlimited sum without discount.
    """
    if longest is None and discount >= 1.0:
        raise InputError("without a discount values are bounded only over a limited number of steps: give `longest`")
    if longest is None:
        most = 1.0 / (1.0 - discount)
    else:
        most = float(longest) if discount == 1.0 else (1.0 - discount**longest) / (1.0 - discount)
    least = 1.0 if ends else most
    low, high = float(rewards.min()), float(rewards.max())
    return low * (most if low < 0.0 else least), high * (most if high > 0.0 else least)


def q_bounds(q: Tensor, low: float, high: float) -> Diagnosis:
    """Share of Q values outside of what is possible (a tenth of the range, either side, is let pass).

    Args:
        q: any shape.
        low: from `value_range`.
        high: likewise.
    """
    slack = 0.1 * (high - low)
    finite = q.isfinite()
    outside = float((~finite | (q < low - slack) | (q > high + slack)).double().mean())
    extremes = (float(q[finite].min()), float(q[finite].max())) if bool(finite.any()) else (math.nan, math.nan)
    level = level_of(outside, CAUTION_OUTSIDE, ALARM_OUTSIDE)
    reading = (
        f"Q lies between {extremes[0]:.4g} and {extremes[1]:.4g}; rewards allow {low:.4g} to {high:.4g}: "
        f"{outside:.1%} outside"
    )
    if not bool(finite.all()):
        reading = f"{float((~finite).double().mean()):.1%} of the Q values are not finite: training has diverged"
    numbers = {"q_mean": float(q.mean()), "q_low": low, "q_high": high}
    return Diagnosis("q_outside", outside, level, reading, CALMER, numbers)


def q_calibration(q: Tensor, returns: Tensor) -> Diagnosis:
    """Line of returns on Q at logged pairs: slope 1 and no offset if Q is the value of the policy that made the data.

    Returns are regressed on Q and not the other way round: their noise then costs precision, not bias. A policy that
    is better than the log's has Q above the returns; its slope is still positive.

    Args:
        q: ``[T]`` at logged pairs.
        returns: ``[T]`` discounted return-to-go from there; leave out episodes that were cut.
    """
    x, y = q.double(), returns.double()
    spread = float(x.var(correction=0))
    if len(x) < 3 or not math.isfinite(spread) or spread <= 1e-12 * max(float(x.square().mean()), 1e-300):
        reading = "Q is the same everywhere (or not finite): nothing to calibrate"
        return Diagnosis("q_slope", math.nan, "unknown", reading, CALMER)
    slope = float(((x - x.mean()) * (y - y.mean())).mean()) / spread
    correlation = slope * math.sqrt(spread / float(y.var(correction=0))) if float(y.var(correction=0)) > 0.0 else 0.0
    offset = float(x.mean() - y.mean())
    level: Level = "alarm" if slope <= 0.0 else "caution" if not 0.5 <= slope <= 2.0 else "ok"
    reading = (
        f"where Q is 1 higher, returns are {slope:.2f} higher (correlation {correlation:.2f}); on average Q is "
        f"{abs(offset):.4g} {'above' if offset > 0.0 else 'below'} the log's returns"
    )
    return Diagnosis("q_slope", slope, level, reading, CALMER, {"q_offset": offset, "q_correlation": correlation})


def q_gap(q_policy: Tensor, q_data: Tensor, return_spread: float) -> Diagnosis:
    """``mean Q(s, pi(s)) - Q(s, a)`` at logged states, in standard deviations of the log's returns.

    Args:
        q_policy: ``[T]``.
        q_data: ``[T]``.
        return_spread: standard deviation of the discounted returns; 0: unknown.
    """
    gap = float((q_policy - q_data).double().mean())
    relative = gap / return_spread if return_spread > 0.0 else math.nan
    higher = float((q_policy > q_data).double().mean())
    reading = (
        f"the policy's action is valued {gap:+.4g} more than the log's, {relative:+.2g} standard deviations of its "
        f"returns; higher in {higher:.0%} of the states"
    )
    numbers = {"q_gap": gap, "q_gap_positive": higher}
    return Diagnosis("q_gap_sd", relative, level_of(relative, CAUTION_GAP, ALARM_GAP), reading, CLOSER, numbers)


def q_drift(updates: Sequence[int], q_mean: Sequence[float]) -> Diagnosis:
    """Relative change of mean Q over the last fifth of training so far.

    Args:
        updates: The numbers of gradient updates at which Q was recorded, ascending.
        q_mean: The mean Q at each of them.
    """
    if len(updates) < 2 or updates[-1] <= 0:
        return Diagnosis("q_drift", math.nan, "unknown", "a drift shows after two records of Q", CALMER)
    begin = 0.8 * updates[-1]
    before = max(i for i, at in enumerate(updates[:-1]) if at <= begin or i == 0)
    scale = max(abs(q_mean[-1]), abs(q_mean[before]), 1e-12)
    drift = abs(q_mean[-1] - q_mean[before]) / scale
    drift = math.inf if math.isnan(drift) else drift
    reading = (
        f"mean Q moved from {q_mean[before]:.4g} to {q_mean[-1]:.4g} since update {updates[before]:,}: {drift:.0%}"
    )
    return Diagnosis("q_drift", drift, level_of(drift, CAUTION_DRIFT, ALARM_DRIFT), reading, f"train longer; {CALMER}")


def initial_value(v0: Tensor, returns: Tensor) -> Diagnosis:
    """Value of the policy at first states, against the log's discounted returns.

    A value above the best return is a caution; an alarm only if by more than the best is above the mean, and by more
    than a tenth of it (where all returns are alike, the error of any network is more than their spread).

    Args:
        v0: ``[E]`` ``V(s0)`` of each episode.
        returns: ``[E]`` discounted return of each.
    """
    value, best, mean = float(v0.double().mean()), float(returns.max()), float(returns.double().mean())
    slack = max(best - mean, 0.1 * abs(best))
    level: Level = "alarm" if not value <= best + slack else "caution" if value > best else "ok"
    reading = f"V(s0) is {value:.4g}; the log's discounted returns have mean {mean:.4g} and best {best:.4g}"
    numbers = {"v0_over_best": value - best, "return_mean": mean, "return_best": best}
    return Diagnosis("v0", value, level, reading, f"{CALMER}; {CLOSER}", numbers)


def disagreement(at_policy: Tensor, at_data: Tensor) -> Diagnosis:
    """Spread over an ensemble at the policy's actions relative to the spread at the log's.

    Args:
        at_policy: ``[N, T]`` of N members at (s, pi(s)); numbers behind (``[N, T, D]``, of dynamics models) are joined
            by their Euclidean norm.
        at_data: ``[N, T]`` at (s, a).
    """
    spread_policy, spread_data = _spread(at_policy), _spread(at_data)
    if len(at_policy) < 2 or not float(spread_data.mean()) > 0.0:
        reading = "one critic, or critics that are equal, cannot disagree"
        return Diagnosis("disagreement", math.nan, "unknown", reading, "train several critics")
    ratio = float(spread_policy.mean() / spread_data.mean())
    beyond = float((spread_policy > spread_data.quantile(0.99)).double().mean())
    reading = (
        f"{len(at_policy)} critics disagree {ratio:.2g} times as much about the policy's actions as about the log's; "
        f"{beyond:.1%} are beyond the log's 99 % quantile"
    )
    level = level_of(ratio, CAUTION_DISAGREEMENT, ALARM_DISAGREEMENT)
    return Diagnosis("disagreement", ratio, level, reading, CLOSER, {"disagreement_beyond": beyond})


def _spread(values: Tensor) -> Tensor:
    spread = values.double().std(0, correction=0)
    return spread.norm(dim=-1) if spread.ndim > 1 else spread


def offline_online_gap(offline: Tensor, online: Tensor, *, tail: float = 0.0) -> Diagnosis:
    """The offline estimate of V(s0) against what the same episodes returned when played.

    Both with the same discount, in the same units, from the same first states; otherwise the gap means nothing.

    Args:
        offline: ``[E]`` estimate at each episode's first state.
        online: ``[E]`` discounted return of each.
        tail: share of an endless value that lies behind the end of episodes that were cut, the mean of gamma^length.
    """
    difference = (offline - online).double()
    gap, n = float(difference.mean()), len(difference)
    error = float(difference.std() / math.sqrt(n)) if n > 1 else math.nan
    spread = float(online.double().std()) if n > 1 else math.nan
    sure = abs(gap) > 2.0 * error if not math.isnan(error) else False
    far = abs(gap) > max(spread, 0.1 * abs(float(online.double().mean())))
    level: Level = "unknown" if math.isnan(error) else "ok" if not sure else "alarm" if far else "caution"
    reading = (
        f"V(s0) offline {float(offline.double().mean()):.4g}, played {float(online.double().mean()):.4g}: "
        f"{gap:+.3g} +- {error:.2g}"
    )
    if tail > 0.01:
        reading += f" ({tail:.0%} of an endless value lies behind the time limit)"
    return Diagnosis("online_gap", gap, level, reading, f"{CALMER}; {CLOSER}", {"online_gap_se": error})
