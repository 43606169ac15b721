"""Evaluate a policy from logged episodes: every estimate with its interval, whether it may be used, and a verdict.

    result = evaluate(policy, episodes, discount=0.99, horizon=20)
    print(result.table())

Direct estimates (fqe, lstd, model rollouts) are fitted first and passed in; a value function among them makes the
doubly robust estimators possible. Several policies are evaluated alike with one `OPESettings`:

    settings = OPESettings(discount=0.99, horizon=20)
    results = {name: evaluate(policy, episodes, settings) for name, policy in policies.items()}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_offrl.data.clusters import ClusterLabels, Clusters
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.errors import InputError
from lightning_offrl.ope.checks.sample_check import check_samples
from lightning_offrl.ope.checks.support import Support, far_share, unseen_share
from lightning_offrl.ope.checks.weight_diagnostics import WeightCheck, check_weights, weights_by_step
from lightning_offrl.ope.direct.estimate import DirectEstimate
from lightning_offrl.ope.estimate import Row
from lightning_offrl.ope.policies.target import TargetPolicy, smoothed, without_density
from lightning_offrl.ope.result import OPEResult
from lightning_offrl.ope.settings import OPESettings
from lightning_offrl.ope.tails import Tail, tail
from lightning_offrl.ope.verdict import assumption, conclude
from lightning_offrl.ope.weighting.bounds import guaranteed_interval, value_bounds
from lightning_offrl.ope.weighting.intervals import (
    FEW_CLUSTERS,
    FEWEST_CLUSTERS,
    Interval,
    Resamples,
    from_refits,
    resampled_interval,
    resamples_for,
)
from lightning_offrl.ope.weighting.registry import ESTIMATORS, KIS, RIS, Estimator, chosen
from lightning_offrl.ope.weighting.sensitivity import unrecorded_cause
from lightning_offrl.ope.weighting.trajectories import ESTIMATED, Trajectories, first_steps, pad, trajectories
from lightning_offrl.training.old_code import takes_old_keywords

FEW_REFITS = 10
MOST_GROUPS = 50
_TOO_FEW = "no interval: too few clusters"


@takes_old_keywords
def evaluate(
    policy: TargetPolicy,
    episodes: Episodes,
    settings: OPESettings | None = None,
    *,
    behavior: TargetPolicy | None = None,
    behavior_name: str | None = None,
    direct: Sequence[DirectEstimate] = (),
    by: Mapping[str, Sequence[Any]] | None = None,
    clusters: ClusterLabels | None = None,
    elapsed: Tensor | None = None,
    name: str = "policy",
    **changes: Any,
) -> OPEResult:
    """Estimate ``E[sum_t gamma^t r_t]`` of a policy over the first steps of an episode from the log's first states.

    Args:
        policy: The policy to evaluate.
        episodes: The log, with raw rewards.
        settings: What to estimate and how; None: all of it is in ``changes``.
        behavior: The behavior policy, true or fitted; None: the log's own log-probabilities, where it has them.
        behavior_name: How the table calls the behavior; None: "logged" or "estimated".
        direct: Fitted estimates, all with this discount and for whole episodes or these steps. The first with a value
            function also serves the doubly robust estimators.
        by: Columns, each ``[E]`` labels: everything is estimated for each group, too, with intervals widened so that
            all groups of a column are covered together (Bonferroni).
        clusters: ``[E]`` labels, equal where episodes belong to one person or machine. Then these are resampled, not
            episodes, and there must be many of them (`ope.weighting.intervals.FEWEST_CLUSTERS`). Fitted estimates have
            an interval if they were given the same ones.
        elapsed: ``[T]`` time since the episode began, for discounting by time.
        name: The name of the policy.
        changes: Fields of `OPESettings`, such as ``discount=0.99``; they come before those of ``settings``.

    Raises:
        InputError: unknown estimators, impossible log-probabilities, groups of another size, or such mistakes.
    """
    settings = OPESettings(**changes) if settings is None else replace(settings, **changes)
    together = None if clusters is None else Clusters.of(clusters, episodes.n_episodes)
    if elapsed is not None and direct:
        raise InputError("fqe, lstd and model rollouts discount by step; leave them out where time is discounted")
    if settings.bandwidth is not None:
        policy = smoothed(policy, settings.bandwidth)
    whole = trajectories(
        episodes,
        policy,
        behavior,
        discount=settings.discount,
        horizon=settings.horizon,
        behavior_name=behavior_name,
        elapsed=elapsed,
        groups=by,
        clusters=together,
    )
    untrue = _untrue_samples(policy, behavior, episodes)
    limited = settings.horizon is not None and settings.horizon < int(episodes.length.max())
    support = _support(policy, behavior, episodes, whole, settings)
    given = _Given(settings, tuple(direct), together, support, untrue, limited)
    whole = _with_values(whole, given, episodes)
    result = _evaluate(whole, given, settings.level)
    result.policy, result.data, result.horizon = name, episodes.name, settings.horizon if limited else None
    result.clusters, result.notes = together, (*_notes(whole, given), *untrue)
    cause = unrecorded_cause(episodes) if result.verdict.assumption else None
    if cause is not None:
        result.verdict.assumption += f". The log contradicts it: {cause}"
    result.tails = _tails(whole, given)
    for column, labels in (by or {}).items():
        result.groups[column] = _by_group(whole, given, column, labels)
    return result


@dataclass(frozen=True)
class _Given:
    """What the estimates of the whole log and those of its groups share."""

    settings: OPESettings
    direct: tuple[DirectEstimate, ...]
    clusters: Clusters | None
    support: dict[str, Support]
    untrue: tuple[str, ...]
    limited: bool


def _with_values(data: Trajectories, given: _Given, episodes: Episodes) -> Trajectories:
    """With ``q`` and ``v`` of the first fitted estimate that has them, where an estimator will use them."""
    valued = next((estimate for estimate in given.direct if estimate.has_values), None)
    if valued is None or _reasons(data, given)[1]:
        return data
    if not any(e.family == "hybrid" for e in chosen(given.settings.estimators, True)):
        return data
    table = first_steps(episodes, data.horizon)
    masks = (table.data["action_mask"],) if "action_mask" in table.data.keys() else ()
    v = valued.v(table.data["observation"], *masks)
    return replace(data, q=pad(data, valued.q(table)), v=pad(data, v))


def _notes(data: Trajectories, given: _Given) -> list[str]:
    """What was assumed, in words."""
    settings = given.settings
    notes = [] if settings.bandwidth is None else [f"{KIS}, bandwidth {settings.bandwidth:g}"]
    if given.clusters is not None:
        notes += _cluster_notes(given.clusters, settings.reward_range is not None)
    if data.elapsed is not None:
        notes.append("discounted by time")
    if data.behavior == ESTIMATED and data.log_ratio is not None:
        notes.append(RIS)
    return [*notes, *data.notes]


def _tails(data: Trajectories, given: _Given) -> tuple[Tail, ...]:
    """The worst episodes of the log and of the policy, where they were asked for."""
    settings, reasons = given.settings, _reasons(data, given)[1]
    if settings.tail is None:
        return ()
    how: dict[str, Any] = {name: getattr(settings, name) for name in ("level", "n_boot", "seed", "limits")}
    names = ("naive",) if data.log_ratio is None else ("naive", "wis")
    return tuple(tail(data, settings.tail, name=of, reasons=reasons, **how) for of in names)


def _by_group(data: Trajectories, given: _Given, column: str, labels: Sequence[Any]) -> dict[str, OPEResult]:
    names = sorted({str(label) for label in labels})
    if len(names) > MOST_GROUPS:
        raise InputError(
            f"the column {column} has {len(names)} different labels; at most {MOST_GROUPS} groups can be told apart"
        )
    level = 1.0 - (1.0 - given.settings.level) / len(names)
    out = {}
    for label in names:
        member = torch.tensor([str(x) == label for x in labels])
        out[label] = _evaluate(data.select(member), given, level, member)
        out[label].clusters = None if given.clusters is None else given.clusters.select(member)
        out[label].notes = (f"intervals hold for all {len(names)} groups of {column} together: {level:.4g} each",)
    return out


def _evaluate(data: Trajectories, given: _Given, level: float, member: Tensor | None = None) -> OPEResult:
    """All estimates of one set of episodes; ``member`` says which of the log's they are, None: all."""
    settings = given.settings
    check, reasons = _reasons(data, given)
    shared = Resamples(data.n, resamples_for(level, settings.n_boot), settings.seed, data.together)
    estimators = chosen(settings.estimators, any(estimate.has_values for estimate in given.direct))
    rows = [_weighted_row(e, data, settings, level, shared, check, reasons) for e in estimators]
    rows += [_direct_row(one, data, given, level, shared, member) for one in given.direct]
    returns = data.returns
    q5, q95 = returns.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    verdict = conclude(rows, shared, q95 - q5, level)
    verdict.assumption = assumption(rows, data.behavior == ESTIMATED)
    spread = (q5, float(returns.mean()), q95, float(returns.max()))
    out = OPEResult("policy", "log", data.n, data.discount, None, data.behavior, rows, verdict, spread, check)
    out.support, out.level, out.bounds = given.support, level, _bounds(data, settings, check, shared, level)
    if check is not None:
        out.steps, out.log_weights = weights_by_step(data), data.log_weights[:, -1]
    return out


def _weighted_row(
    e: Estimator,
    data: Trajectories,
    settings: OPESettings,
    level: float,
    shared: Resamples,
    check: WeightCheck | None,
    reasons: tuple[str, ...],
) -> Row:
    """The estimate of one estimator from the padded episodes, or why it abstains."""
    row = Row(e.name, e.family, math.nan, "abstains")
    if e.family != "baseline":
        row.ess = None if check is None else check.ess
        row.reasons = reasons
        if e.family == "hybrid" and data.q is None and not reasons:
            row.reasons = ("needs fitted values: add fqe or lstd",)
        if check is None or (e.family == "hybrid" and data.q is None):
            return row
    assert e.terms is not None
    terms = e.terms(data)
    row.value = terms.value
    if e.family != "baseline" and not math.isfinite(terms.value):
        row.reasons = (*row.reasons, "no logged episode has any weight at some step")
    if row.reasons:
        return row
    row.status = "baseline" if e.family == "baseline" else "eligible"
    row.terms = terms
    if not shared.too_few_clusters:
        row.interval, row.resampled = resampled_interval(terms, shared, level, settings.interval)
    row.guaranteed = guaranteed_interval(e.name, terms, data, settings.reward_range, settings.max_weight, level)
    if check is not None and e.family != "baseline":
        row.notes = (*check.advice, *_unnormalized_advice(e.name, check))
    if row.interval is None:
        row.notes = (*row.notes, _TOO_FEW)
    return row


def _bounds(
    data: Trajectories, settings: OPESettings, check: WeightCheck | None, shared: Resamples, level: float
) -> Interval | None:
    """From the lower end of the lower bound to the upper end of the upper, each one-sided at half the error."""
    if settings.reward_range is None or check is None or check.wrong or data.behavior == ESTIMATED:
        return None
    if shared.too_few_clusters:
        return None
    lower, upper = value_bounds(data, settings.reward_range)
    ends = [resampled_interval(side, shared, level)[0] for side in (lower, upper)]
    return Interval(ends[0].low, ends[1].high, level, "bounds")


def _reasons(data: Trajectories, given: _Given) -> tuple[WeightCheck | None, tuple[str, ...]]:
    """What the weights say, and why nothing that rests on them may be shown."""
    if data.log_ratio is None:
        return None, (data.no_weights,)
    limits = given.settings.limits
    largest = {"unseen": limits.unseen_share, "far": limits.far_share}
    check = check_weights(data, limits)
    found = [support.reason(largest[name]) for name, support in given.support.items()]
    return check, (*given.untrue, *check.reasons, *(reason for reason in found if reason is not None))


def _direct_row(
    estimate: DirectEstimate,
    data: Trajectories,
    given: _Given,
    level: float,
    shared: Resamples,
    member: Tensor | None,
) -> Row:
    """The row of a fitted estimate, or why it abstains."""
    horizon = data.horizon if given.limited else None
    known = ESTIMATORS.get(estimate.method)
    row = Row(estimate.method, known.family if known else "values", estimate.value, "eligible")
    row.reasons = tuple(dict.fromkeys((*given.untrue, *estimate.flags)))
    if estimate.horizon != horizon:
        row.reasons += (f"estimates {_steps(estimate.horizon)}, not {_steps(horizon)}",)
    per_state = estimate.per_initial_state.double()
    if member is not None:
        if len(per_state) != len(member):
            row.reasons += ("its first states are not those of the groups",)
        else:
            row.value = float(per_state[member].mean())
            row.notes = ("no interval by group: the refits are of the whole log",)
    elif shared.too_few_clusters:
        row.notes = (_TOO_FEW,)
    elif data.together is not None and (estimate.clusters is None or not estimate.clusters.equal(data.together.index)):
        row.notes = ("no interval: it needs refits to resamples of these clusters",)
    elif estimate.replicates is not None and len(estimate.replicates) > 1:
        row.interval = from_refits(estimate.value, estimate.replicates, level=level)
        row.resampled, row.counts = estimate.replicates.double(), estimate.counts
        if len(estimate.replicates) < FEW_REFITS:
            row.notes = (f"interval from only {len(estimate.replicates)} refits",)
    else:
        row.notes = (f"no interval: it needs refits to resampled {'clusters' if data.together else 'episodes'}",)
    if not math.isfinite(row.value):
        row.reasons += ("its value is not a finite number",)
    row.status = "abstains" if row.reasons else "eligible"
    return row


def _cluster_notes(clusters: Clusters, guaranteed: bool) -> list[str]:
    """What to keep in mind about the clusters."""
    if clusters.alone:
        where = f" (column {clusters.column})" if clusters.column else ""
        return [f"every episode is a cluster of its own{where}, so intervals are those of episodes"]
    like = f"{clusters.words} vary like {clusters.effective:.1f} of equal size"
    if clusters.effective < FEWEST_CLUSTERS:
        return [f"{like}: too few for any interval, which needs {FEWEST_CLUSTERS}"]
    notes = [f"what is resampled is {clusters.words}, all episodes of each; errors and intervals are of these"]
    if clusters.effective < FEW_CLUSTERS:
        notes.append(f"{like}: below {FEW_CLUSTERS}, intervals may be too narrow (Cameron, Gelbach and Miller, 2008)")
    if guaranteed:
        notes.append("no guaranteed intervals: they are for independent episodes")
    return notes


def _steps(horizon: int | None) -> str:
    return "whole episodes" if horizon is None else f"the first {horizon} steps"


def _support(
    policy: TargetPolicy,
    behavior: TargetPolicy | None,
    episodes: Episodes,
    data: Trajectories,
    settings: OPESettings,
) -> dict[str, Support]:
    """The checks of support that are possible: by density where both have one, by distance with two episodes."""
    found: dict[str, Support] = {}
    how: dict[str, Any] = {"horizon": settings.horizon, "seed": settings.seed}
    if data.log_ratio is not None and behavior is not None:
        found["unseen"] = unseen_share(episodes, policy, behavior, **how)
    if episodes.n_episodes > 1:
        found["far"] = far_share(episodes, policy, **how)
    return found


def _untrue_samples(policy: TargetPolicy, behavior: TargetPolicy | None, episodes: Episodes) -> tuple[str, ...]:
    """Sentences on policies whose samples are not of their densities."""
    checked = {"the policy": policy} if behavior is None else {"the policy": policy, "the behavior policy": behavior}
    found = {whose: check_samples(one, episodes) for whose, one in checked.items()}
    said = (None if check is None else check.reason(whose) for whose, check in found.items())
    return tuple(sentence for sentence in said if sentence is not None)


def _unnormalized_advice(name: str, check: WeightCheck) -> tuple[str, ...]:
    off = abs(check.mean_weight - 1.0)
    if name in ("is", "pdis", "dr") and check.mean_weight_error > 0.0 and off > 2.0 * check.mean_weight_error:
        return (f"mean weight {check.mean_weight:.2f}: off by about as much; the normalized form is not",)
    return ()


def refused(policy: TargetPolicy) -> str | None:
    """Why there are no weights for a policy, before anything is computed; None if it has a density or probabilities."""
    has = policy.discrete or not (policy.is_deterministic or getattr(policy, "no_density", None))
    return None if has else without_density(policy)
