"""Whether an estimate that rests on importance weights may be shown, in words.

Four questions to the weights w of the episodes: how many episodes carry them (effective sample size), whether one
carries them all, whether their mean is 1 as it must be, and whether the policy's probability is where the data are.
An estimate that fails is not printed as if it were one: it abstains, with the reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_offrl.data.clusters import Clusters
from lightning_offrl.ope.weighting.intervals import FEW_CLUSTERS, FEWEST_CLUSTERS
from lightning_offrl.ope.weighting.trajectories import ESTIMATED, Trajectories

# Log-probabilities are logged in float32: over a long episode their rounding moves a weight by up to about this much.
ROUNDING = 1e-3
LOGGED = "log-probabilities are wrong (tanh correction, rescaled or clipped actions?)"
FITTED = (
    "the fitted probabilities are off, by a poor fit or because decisions depended on more than the observation "
    "(earlier steps, or something that the log lacks)"
)


@dataclass(frozen=True)
class Limits:
    """When an estimate abstains.

    Attributes:
        ess: smallest effective sample size, in episodes.
        ess_share: smallest effective share of the episodes.
        top_share: largest share of all weight on one episode.
        mean_errors: how many standard errors the mean weight may be off 1.
        unseen_share: largest share of the policy's own episodes that a log of this size does not show.
        far_share: largest share of its actions that may lie farther from the log, beyond the base of 1 %.
        advised_ess_share: below this share a sentence is added, nothing more.
        clusters: smallest effective number of clusters, where episodes belong to some.
        cluster_share: largest share of all weight on one cluster.
        advised_clusters: below this effective number a sentence is added, nothing more.
    """

    ess: float = 30.0
    ess_share: float = 0.01
    top_share: float = 0.10
    mean_errors: float = 3.0
    unseen_share: float = 0.05
    far_share: float = 0.02
    advised_ess_share: float = 0.10
    clusters: float = FEWEST_CLUSTERS
    cluster_share: float = 0.20
    advised_clusters: float = FEW_CLUSTERS


@dataclass(frozen=True)
class WeightCheck:
    """What the weights of the episodes say.

    Attributes:
        n: episodes.
        ess: ``(sum w)^2 / sum w^2`` (Kish, 1965).
        top_share: share of the largest weight.
        mean_weight: of all episodes, expected 1.
        mean_weight_error: its standard error.
        step_ratio: mean ratio of a single step over all logged steps, expected 1.
        step_ratio_error: its standard error, episodes as clusters, or the data's own.
        reasons: why estimates from these weights abstain; empty if they do not.
        advice: what to mind although they do not.
        wrong: the weights are too large on average, so the log-probabilities cannot be right.
        clusters: number of clusters C, where episodes belong to some; then both errors are of independent clusters.
        effective_clusters: ``(sum W)^2 / sum W^2`` of the sums W of their weights.
        top_cluster: share of the largest W.
    """

    n: int
    ess: float
    top_share: float
    mean_weight: float
    mean_weight_error: float
    step_ratio: float
    step_ratio_error: float
    reasons: tuple[str, ...] = ()
    advice: tuple[str, ...] = field(default=())
    wrong: bool = False
    clusters: int | None = None
    effective_clusters: float | None = None
    top_cluster: float | None = None

    @property
    def eligible(self) -> bool:
        """No reason to abstain."""
        return not self.reasons


@dataclass(frozen=True)
class WeightSteps:
    """What the weights of the first t steps say, for t = 1 to H: where along an episode they are lost.

    Attributes:
        ess: effective sample sizes, in episodes.
        top_share: share of the largest weight.
        mean: mean weight, expected 1.
        mean_error: its standard error.
        going: share of the episodes that have a step t.
    """

    ess: tuple[float, ...]
    top_share: tuple[float, ...]
    mean: tuple[float, ...]
    mean_error: tuple[float, ...]
    going: tuple[float, ...]


def weights_by_step(data: Trajectories) -> WeightSteps:
    """Effective sample size, largest share and mean of the weights up to each step; an ended episode keeps its last.

    Raises:
        InputError: there are no weights.
    """
    log_weight = data.log_weights
    total, squares = torch.logsumexp(log_weight, 0), torch.logsumexp(2.0 * log_weight, 0)
    some = total > -torch.inf
    ess = torch.where(some, torch.exp(2.0 * total - squares), 0.0)
    top = torch.where(some, torch.exp(log_weight.amax(0) - total), 1.0)
    weight = log_weight.exp()
    error = weight.std(0) / math.sqrt(data.n) if data.n > 1 else torch.full_like(total, math.inf)
    if data.together is not None:
        size = data.together.size.double()
        errors = [_cluster_mean(sums, size)[1] for sums in data.together.sums(weight).unbind(-1)]
        error = torch.tensor(errors, dtype=torch.float64)
    columns = (ess, top, weight.mean(0), error, data.mask.double().mean(0))
    return WeightSteps(*(tuple(column.tolist()) for column in columns))


def effective_sample_size(log_weight: Tensor) -> float:
    """``(sum w)^2 / sum w^2`` of ``[E]`` log weights; 0 where all weights are 0."""
    if not bool((log_weight > -torch.inf).any()):
        return 0.0
    total, squares = torch.logsumexp(log_weight, 0), torch.logsumexp(2.0 * log_weight, 0)
    return float(torch.exp(2.0 * total - squares))


def check_weights(data: Trajectories, limits: Limits | None = None) -> WeightCheck:
    """Judge the weights of whole episodes.

    Args:
        data: with weights.
        limits: None: the defaults of `Limits`.

    Raises:
        InputError: there are no weights.
    """
    limits = limits or Limits()
    log_weight = data.log_weights[:, -1]
    n = data.n
    ess = effective_sample_size(log_weight)
    top = float(torch.exp(log_weight.amax() - torch.logsumexp(log_weight, 0))) if ess > 0.0 else 1.0
    mean, error = _mean_and_error(log_weight.exp())
    assert data.log_ratio is not None
    ratios, steps = torch.where(data.mask, data.log_ratio.exp(), 0.0).sum(-1), data.length.double()
    if data.together is not None:
        ratios, steps = data.together.sums(ratios), data.together.sums(steps)
        mean, error = _cluster_mean(data.together.sums(log_weight.exp()), data.together.size.double())
    step, step_error = _cluster_mean(ratios, steps)

    reasons, advice = [], []
    if ess == 0.0:
        reasons.append("the policy never takes the logged actions: every weight is 0")
    elif ess < limits.ess:
        reasons.append(f"effective sample size {ess:.1f} of {n:,} episodes (at least {limits.ess:g} are needed)")
    elif ess < limits.ess_share * n:
        reasons.append(f"effective sample size {ess:.1f} is {ess / n:.2%} of {n:,} episodes")
    elif ess < limits.advised_ess_share * n:
        advice.append(f"effective sample size {ess:.0f} of {n:,} episodes: expect wide intervals")
    if ess > 0.0 and top > limits.top_share:
        reasons.append(f"one episode holds {top:.0%} of the weight")
    held: tuple[int, float, float] | tuple[()] = ()
    if data.together is not None:
        held = _by_cluster(data.together, log_weight)
        if ess > 0.0:
            found = _few_clusters(*held, limits)
            reasons += found[0]
            advice += found[1]
    off = _off_one(mean, error, limits.mean_errors)
    step_off = _off_one(step, step_error, limits.mean_errors)
    if step_off < 0 and ess > 0.0:
        reasons.append(
            f"{1.0 - step:.1%} of the policy's probability at the logged states is on actions that the log does not "
            f"show (mean step ratio {step:.4f} +- {step_error:.4f}, expected 1)"
        )
    elif off < 0 and ess > 0.0:
        reasons.append(
            f"the mean weight is {mean:.3g} +- {error:.2g}, expected 1: the log lacks what the policy does, or its "
            "log-probabilities are wrong"
        )
    if off > 0 or step_off > 0:
        why = FITTED if data.behavior == ESTIMATED else LOGGED
        reasons.append(
            f"the mean weight is {mean:.3g} +- {error:.2g} (per step {step:.4f} +- {step_error:.4f}), expected 1: {why}"
        )
    return WeightCheck(
        n, ess, top, mean, error, step, step_error, tuple(reasons), tuple(advice), off > 0 or step_off > 0, *held
    )


def _by_cluster(clusters: Clusters, log_weight: Tensor) -> tuple[int, float, float]:
    """Number of clusters, effective number and largest share by the sums of their weights."""
    logs = clusters.log_sums(log_weight)
    effective = effective_sample_size(logs)
    top = float(torch.exp(logs.amax() - torch.logsumexp(logs, 0))) if effective > 0.0 else 1.0
    return clusters.n, effective, top


def _few_clusters(n: int, effective: float, top: float, limits: Limits) -> tuple[list[str], list[str]]:
    """Reasons and advice."""
    reasons, advice = [], []
    if effective < limits.clusters:
        reasons.append(
            f"effective number of clusters {effective:.1f} of {n:,} (at least {limits.clusters:g} are needed)"
        )
    elif effective < limits.advised_clusters:
        advice.append(f"effective number of clusters {effective:.0f} of {n:,}: the interval may be too narrow")
    if top > limits.cluster_share:
        reasons.append(f"one cluster holds {top:.0%} of the weight")
    return reasons, advice


def _off_one(mean: float, error: float, errors: float) -> int:
    """-1 or 1 where a mean lies below or above 1 by more than chance and rounding, else 0."""
    if not math.isfinite(mean):
        return 1
    allowed = errors * (error if math.isfinite(error) else math.inf) + ROUNDING
    return 0 if abs(mean - 1.0) <= allowed else (1 if mean > 1.0 else -1)


def _mean_and_error(x: Tensor) -> tuple[float, float]:
    n = len(x)
    return float(x.mean()), float(x.std() / math.sqrt(n)) if n > 1 else math.inf


def _cluster_mean(total: Tensor, size: Tensor) -> tuple[float, float]:
    """Mean of all numbers, and its error, from sums and sizes of clusters ``[C]``."""
    n, mean = len(total), float(total.sum() / size.sum())
    residual = (total - mean * size) / size.mean()
    return mean, float((residual.square().sum() / max(n - 1, 1) / n).sqrt()) if n > 1 else math.inf
