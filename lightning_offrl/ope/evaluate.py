"""Evaluate a policy from logged episodes: every estimate with its interval, whether it may be used, and a verdict.

    result = evaluate(policy, episodes, discount=0.99, horizon=20)
    print(result.table())

Direct estimates (fqe, lstd, model rollouts) are fitted first and passed in; a value function among them makes the
doubly robust estimators possible.
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
from lightning_offrl.ope.checks.weight_diagnostics import Limits, WeightCheck, check_weights, weights_by_step
from lightning_offrl.ope.direct.estimate import DirectEstimate
from lightning_offrl.ope.policies.target import TargetPolicy, smoothed, without_density
from lightning_offrl.ope.result import Evaluation, Row
from lightning_offrl.ope.verdict import assumption, judge
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
from lightning_offrl.ope.weighting.registry import ESTIMATORS, KIS, RIS, chosen
from lightning_offrl.ope.weighting.return_distribution import tail as worst
from lightning_offrl.ope.weighting.sensitivity import unrecorded_cause
from lightning_offrl.ope.weighting.trajectories import ESTIMATED, Trajectories, first_steps, pad, trajectories

FEW_REFITS = 10
_TOO_FEW = "no interval: too few clusters"


def evaluate(
    policy: TargetPolicy,
    episodes: Episodes,
    *,
    discount: float,
    horizon: int | None = None,
    estimators: Sequence[str] = ("auto",),
    behavior: TargetPolicy | None = None,
    behavior_name: str | None = None,
    direct: Sequence[DirectEstimate] = (),
    by: Mapping[str, Sequence[Any]] | None = None,
    clusters: ClusterLabels | None = None,
    elapsed: Tensor | None = None,
    reward_range: tuple[float, float] | None = None,
    max_weight: float | None = None,
    bandwidth: float | None = None,
    level: float = 0.95,
    interval: str = "auto",
    n_boot: int = 1000,
    seed: int = 0,
    limits: Limits | None = None,
    tail: float | None = None,
    name: str = "policy",
) -> Evaluation:
    """Estimate ``E[sum_t gamma^t r_t]`` of a policy over the first ``horizon`` steps from the log's first states.

    Args:
        policy: to evaluate.
        episodes: the log, with raw rewards.
        discount: gamma, per step, or per unit of ``elapsed``.
        horizon: steps that count; None: whole episodes.
        estimators: names, or "auto".
        behavior: the behavior policy, true or fitted; None: the log's own log-probabilities, where it has them.
        behavior_name: "logged", "estimated" or another word for the table.
        direct: fitted estimates, all with this discount and without a limit of steps. The first with a value function
            also serves the doubly robust estimators.
        by: columns, each ``[E]`` labels: everything is estimated for each group, too, with intervals widened so that
            all groups of a column are covered together (Bonferroni).
        clusters: ``[E]`` labels, equal where episodes belong to one person or machine: then these are resampled, not
            episodes, and must be many (`ope.weighting.intervals.FEWEST_CLUSTERS`). Fitted estimates have an
            interval if they were given the same ones.
        elapsed: ``[T]`` time since the episode began, for discounting by time.
        reward_range: lowest and highest reward that a step can have; gives guaranteed intervals, and bounds of the
            value that hold whatever the log lacks.
        max_weight: largest weight that an episode can have, for guaranteed intervals of `is` and `pdis`.
        bandwidth: evaluate a deterministic continuous policy blurred by a Gaussian of this width (kis).
        level: of the intervals.
        interval: how those from weights are made, see `lightning_offrl.ope.weighting.intervals.METHODS`.
        n_boot: resamples.
        seed: of resampling and draws.
        limits: when to abstain.
        tail: share of the worst episodes whose returns are estimated, too.
        name: what to call the policy.

    Raises:
        InputError: what cannot be: unknown estimators, impossible log-probabilities, groups of another size.
    """
    limits = limits or Limits()
    notes: list[str] = []
    together = None if clusters is None else Clusters.of(clusters, episodes.n_episodes)
    if bandwidth is not None:
        policy = smoothed(policy, bandwidth)
        notes.append(f"{KIS}, bandwidth {bandwidth:g}")
    whole = trajectories(
        episodes,
        policy,
        behavior,
        discount=discount,
        horizon=horizon,
        behavior_name=behavior_name,
        elapsed=elapsed,
        groups=by,
        clusters=together,
    )
    if together is not None:
        notes += _said_of(together, reward_range is not None)
    if elapsed is not None:
        notes.append("discounted by time")
    if whole.behavior == ESTIMATED and whole.log_ratio is not None:
        notes.append(RIS)
    notes += whole.notes
    support = _support(policy, behavior, episodes, whole, horizon, seed)
    untrue = _untrue_samples(policy, behavior, episodes)
    notes += untrue
    how = _How(tuple(estimators), limits, reward_range, max_weight, n_boot, seed, interval, tuple(untrue))
    valued = next((estimate for estimate in direct if estimate.has_values), None)
    if (
        valued is not None
        and not _reasons(whole, support, how)[1]
        and any(e.family == "hybrid" for e in chosen(how.estimators, True))
    ):
        table = first_steps(episodes, whole.horizon)
        masks = (table.data["action_mask"],) if "action_mask" in table.data.keys() else ()
        v = valued.v(table.data["observation"], *masks)
        whole = replace(whole, q=pad(whole, valued.q(table)), v=pad(whole, v))
    limited = horizon is not None and horizon < int(episodes.length.max())
    if elapsed is not None and direct:
        raise InputError("fqe, lstd and model rollouts discount by step; leave them out where time is discounted")
    result = _evaluate(whole, how, direct, support, level, limited, None)
    result.policy, result.data, result.horizon = name, episodes.name, horizon if limited else None
    result.clusters, result.notes = together, (*notes, *result.notes)
    cause = unrecorded_cause(episodes) if result.verdict.assumption else None
    if cause is not None:
        result.verdict.assumption += f". The log contradicts it: {cause}"
    if tail is not None:
        reasons = _reasons(whole, support, how)[1]
        common: dict[str, Any] = {"level": level, "n_boot": n_boot, "seed": seed, "limits": limits, "reasons": reasons}
        names = ("naive",) if whole.log_ratio is None else ("naive", "wis")
        result.tails = tuple(worst(whole, tail, name=of, **common) for of in names)
    for column, labels in (by or {}).items():
        result.groups[column] = _by_group(whole, labels, column, together, how, direct, support, level, limited)
    return result


@dataclass(frozen=True)
class _How:
    estimators: tuple[str, ...]
    limits: Limits
    reward_range: tuple[float, float] | None
    max_weight: float | None
    n_boot: int
    seed: int
    interval: str
    untrue: tuple[str, ...] = ()


def _by_group(
    whole: Trajectories,
    labels: Sequence[Any],
    column: str,
    clusters: Clusters | None,
    how: _How,
    direct: Sequence[DirectEstimate],
    support: dict[str, Support],
    level: float,
    limited: bool,
) -> dict[str, Evaluation]:
    names = sorted({str(label) for label in labels})
    if len(names) > 50:
        raise InputError(f"the column {column} has {len(names)} different labels; at most 50 groups can be told apart")
    together = 1.0 - (1.0 - level) / len(names)
    out = {}
    for label in names:
        member = torch.tensor([str(x) == label for x in labels])
        out[label] = _evaluate(whole.select(member), how, direct, support, together, limited, member)
        out[label].clusters = None if clusters is None else clusters.select(member)
        out[label].notes = (f"intervals hold for all {len(names)} groups of {column} together: {together:.4g} each",)
    return out


def _evaluate(
    data: Trajectories,
    how: _How,
    direct: Sequence[DirectEstimate],
    support: dict[str, Support],
    level: float,
    limited: bool,
    member: Tensor | None,
) -> Evaluation:
    """All rows of one set of episodes; ``member`` says which of the log's they are, None: all."""
    check, reasons = _reasons(data, support, how)
    shared = Resamples(data.n, resamples_for(level, how.n_boot), how.seed, data.together)
    rows = []
    for e in chosen(how.estimators, any(estimate.has_values for estimate in direct)):
        row = Row(e.name, e.family, math.nan, "abstains")
        rows.append(row)
        if e.family != "baseline":
            row.ess = None if check is None else check.ess
            row.reasons = reasons
            if e.family == "hybrid" and data.q is None and not reasons:
                row.reasons = ("needs fitted values: add fqe or lstd",)
            if check is None or (e.family == "hybrid" and data.q is None):
                continue
        assert e.terms is not None
        terms = e.terms(data)
        row.value = terms.value
        if e.family != "baseline" and not math.isfinite(terms.value):
            row.reasons = (*row.reasons, "no logged episode has any weight at some step")
        if row.reasons:
            continue
        row.status = "baseline" if e.family == "baseline" else "eligible"
        row.terms = terms
        if not shared.too_few_clusters:
            row.interval, row.resampled = resampled_interval(terms, shared, level, how.interval)
        row.guaranteed = guaranteed_interval(e.name, terms, data, how.reward_range, how.max_weight, level)
        if check is not None and e.family != "baseline":
            row.notes = (*check.advice, *_unnormalized_advice(e.name, check))
        if row.interval is None:
            row.notes = (*row.notes, _TOO_FEW)
    rows += [_direct_row(d, data, level, limited, member, shared, how.untrue) for d in direct]
    returns = data.returns
    q5, q95 = returns.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    verdict = judge(rows, shared, q95 - q5, level)
    verdict.assumption = assumption(rows, data.behavior == ESTIMATED)
    spread = (q5, float(returns.mean()), q95, float(returns.max()))
    out = Evaluation(
        "policy", "log", data.n, data.discount, None, data.behavior, rows, verdict, spread, check, support, level=level
    )
    out.bounds = _bounds(data, how, check, shared, level)
    if check is not None:
        out.steps, out.log_weights = weights_by_step(data), data.log_weights[:, -1]
    return out


def _bounds(
    data: Trajectories, how: _How, check: WeightCheck | None, shared: Resamples, level: float
) -> Interval | None:
    """From the lower end of the lower bound to the upper end of the upper, each one-sided at half the error."""
    if how.reward_range is None or check is None or check.wrong or data.behavior == ESTIMATED:
        return None
    if shared.too_few_clusters:
        return None
    lower, upper = value_bounds(data, how.reward_range)
    ends = [resampled_interval(side, shared, level)[0] for side in (lower, upper)]
    return Interval(ends[0].low, ends[1].high, level, "bounds")


def _reasons(data: Trajectories, support: dict[str, Support], how: _How) -> tuple[WeightCheck | None, tuple[str, ...]]:
    """What the weights say, and why nothing that rests on them may be shown."""
    if data.log_ratio is None:
        return None, (data.no_weights,)
    check = check_weights(data, how.limits)
    found = [support[name].reason(_support_limit(name, how.limits)) for name in support]
    return check, (*how.untrue, *check.reasons, *(reason for reason in found if reason is not None))


def _direct_row(
    estimate: DirectEstimate,
    data: Trajectories,
    level: float,
    limited: bool,
    member: Tensor | None,
    shared: Resamples,
    untrue: tuple[str, ...],
) -> Row:
    known = ESTIMATORS.get(estimate.method)
    row = Row(estimate.method, known.family if known else "values", estimate.value, "eligible")
    row.reasons = tuple(dict.fromkeys((*untrue, *estimate.flags)))
    if estimate.horizon != (data.horizon if limited else None):
        row.reasons += (f"estimates {_steps(estimate.horizon)}, not {_steps(data.horizon if limited else None)}",)
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


def _said_of(clusters: Clusters, guaranteed: bool) -> list[str]:
    """What to mind about clusters."""
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
    horizon: int | None,
    seed: int,
) -> dict[str, Support]:
    """What can be asked: the density where both have one, distances wherever there are two episodes."""
    found = {}
    if data.log_ratio is not None and behavior is not None:
        found["unseen"] = unseen_share(episodes, policy, behavior, horizon=horizon, seed=seed)
    if episodes.n_episodes > 1:
        found["far"] = far_share(episodes, policy, horizon=horizon, seed=seed)
    return found


def _untrue_samples(policy: TargetPolicy, behavior: TargetPolicy | None, episodes: Episodes) -> list[str]:
    """Sentences on policies whose samples are not of their densities."""
    checked = {"the policy": policy} if behavior is None else {"the policy": policy, "the behavior policy": behavior}
    found = {whose: check_samples(one, episodes) for whose, one in checked.items()}
    said = (None if check is None else check.reason(whose) for whose, check in found.items())
    return [sentence for sentence in said if sentence is not None]


def _support_limit(name: str, limits: Limits) -> float:
    return limits.unseen_share if name == "unseen" else limits.far_share


def _unnormalized_advice(name: str, check: WeightCheck) -> tuple[str, ...]:
    off = abs(check.mean_weight - 1.0)
    if name in ("is", "pdis", "dr") and check.mean_weight_error > 0.0 and off > 2.0 * check.mean_weight_error:
        return (f"mean weight {check.mean_weight:.2f}: off by about as much; the normalized form is not",)
    return ()


def refused(policy: TargetPolicy) -> str | None:
    """Why there are no weights for a policy, before anything is computed; None if it has a density or probabilities."""
    has = policy.discrete or not (policy.is_deterministic or getattr(policy, "no_density", None))
    return None if has else without_density(policy)
