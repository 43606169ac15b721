"""Doubly robust estimators: importance weights with a value function as control variate.

With w_{-1} = 1:

    dm      mean v(s_0)                                                       the value function alone
    dr      mean sum_t gamma^t [ w_t (r_t - q_t) + w_{t-1} v_t ]              Jiang and Li, 2016, eq. 10, unrolled
    wdr     the same, w_t and w_{t-1} each divided by its mean                Thomas and Brunskill, 2016, section 5
    magic   sum_j x_j g_j, x = argmin x' (Cov + b b') x on the simplex        Thomas and Brunskill, 2016, section 6

``dr`` is unbiased with true behavior probabilities and *any* q, v that agree (v = E_pi q), and with exact q, v and
any probabilities. ``g_j`` is ``wdr`` up to step j, the value function from there: j = -1 is ``dm``, the last ``wdr``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_offrl.data.clusters import Clusters
from lightning_offrl.errors import InputError
from lightning_offrl.ope.weighting.importance import PerEpisodeTerms, WeightRule, plain, weighted
from lightning_offrl.ope.weighting.intervals import Resamples
from lightning_offrl.ope.weighting.trajectories import Trajectories
from lightning_offrl.training.old_code import takes_old_keywords

MAX_RETURNS = 12
"""How many j-step returns `magic` blends at most, evenly spaced with both ends."""


def direct(data: Trajectories) -> PerEpisodeTerms:
    """``dm``: mean value of the first state.

    Raises:
        InputError: no values.
    """
    return plain(_values(data)[1][:, 0])


@takes_old_keywords
def doubly_robust(data: Trajectories, *, normalized: bool = False, rule: WeightRule | None = None) -> PerEpisodeTerms:
    """``dr``, or ``wdr`` if normalized.

    Args:
        data: with weights, ``q`` and ``v``.
        normalized: divide each step's weights by their mean.
        rule: changes the log weights, those that multiply v included; at horizon 1 v has the weight 1.

    Raises:
        InputError: no weights, or no values.
    """
    q, v = _values(data)
    after, before = _log_weights(data)
    if rule is not None:
        after, before = rule(after), torch.cat([before[:, :1], rule(after[:, :-1])], -1)
    correction = weighted(after, data.factors * (data.reward - q), normalized)
    return correction.combined(weighted(before, data.factors * v, normalized))


def magic(
    data: Trajectories,
    *,
    steps: list[int] | None = None,
    seed: int = 0,
    n_boot: int = 200,
) -> tuple[PerEpisodeTerms, dict[int, float]]:
    """Blend of ``dm``, ``wdr`` and what lies between, by their estimated bias and covariance.

    Cov is that of the estimates: of the terms per episode, divided by the number of episodes. The bias of g_j is its
    distance to the 50 % percentile interval of ``wdr`` under resampling of *episodes* (of the data's clusters, where it
    has any, as in Cov), and enters as the outer product b b'. As an estimate, the blend keeps its x.

    Args:
        data: with weights, ``q`` and ``v``.
        steps: which j, -1 to H - 1; None: both ends and up to `MAX_RETURNS` in all.
        seed: of the resampling.
        n_boot: resamples.

    Returns:
        The estimate, and the share x_j of each j.

    Raises:
        InputError: no weights or values, or a step that does not exist.
    """
    last = data.horizon - 1
    if steps is None:
        steps = sorted({round(float(j)) for j in torch.linspace(-1, last, min(MAX_RETURNS, last + 2))})
    if not steps or min(steps) < -1 or max(steps) > last:
        raise InputError(f"the steps of magic must be in -1 (values only) to {last} (weights only), got {steps}")
    parts = [step_return(data, j) for j in steps]
    each = torch.stack([part.per_episode for part in parts])
    covariance = _covariance(each, data.together)
    value = each.mean(-1)
    full = doubly_robust(data, normalized=True)
    resamples = Resamples(data.n, n_boot, seed, data.together)
    low, high = resamples.values(full).quantile(torch.tensor([0.25, 0.75]).double())
    low, high = torch.minimum(low, torch.tensor(full.value)), torch.maximum(high, torch.tensor(full.value))
    bias = torch.where(value > high, value - high, torch.where(value < low, value - low, 0.0))
    share = simplex_minimum(covariance.double() + bias.unsqueeze(-1) * bias)
    return _blend(data, steps, share), dict(zip(steps, share.tolist(), strict=True))


def _covariance(each: Tensor, clusters: Clusters | None) -> Tensor:
    """Of the means of ``[J, E]`` terms, ``[J, J]``; with clusters from the sums of their deviations."""
    n = each.shape[-1]
    if clusters is None:
        return torch.atleast_2d(torch.cov(each)) / n if n > 1 else torch.zeros(len(each), len(each))
    away = clusters.sums((each - each.mean(-1, keepdim=True)).T)  # [C, J]
    return away.T @ away * (clusters.n / max(clusters.n - 1, 1) / n**2)


def _blend(data: Trajectories, steps: list[int], share: Tensor) -> PerEpisodeTerms:
    """``sum_j x_j g_j`` with one column per weight: step t is in g_j for j >= t, and v_t in g_{t-1}, too."""
    q, v = _values(data)
    after, before = _log_weights(data)
    x = torch.zeros(data.horizon + 1, dtype=torch.float64)  # of j = -1, 0, ..., H - 1
    x[torch.tensor(steps) + 1] = share
    reached = x.flip(0).cumsum(0).flip(0)[1:]
    terms = weighted(after, reached * data.factors * (data.reward - q), True)
    return terms.combined(weighted(before, (reached + x[:-1]) * data.factors * v, True))


def step_return(data: Trajectories, j: int) -> PerEpisodeTerms:
    """``g_j``: weighted doubly robust up to step j, the value function from step j + 1 on."""
    q, v = _values(data)
    after, before = _log_weights(data)
    factors = data.factors
    head = slice(0, j + 1)
    tail = weighted(before[:, head.stop : head.stop + 1], (factors * v)[:, head.stop : head.stop + 1], True)
    if j < 0:
        return tail
    terms = weighted(after[:, head], (factors * (data.reward - q))[:, head], True)
    terms = terms.combined(weighted(before[:, head], (factors * v)[:, head], True))
    return terms.combined(tail) if j < data.horizon - 1 else terms


def simplex_minimum(matrix: Tensor) -> Tensor:
    """``argmin x' M x`` over x >= 0 with sum 1, by active sets: exact up to rounding.

    Args:
        matrix: ``[J, J]`` symmetric positive semi-definite.
    """
    size = len(matrix)
    scale = float(matrix.diagonal().amax())
    if not scale > 0.0:  # no error anywhere: take the last, which leans on the values least
        return torch.eye(size, dtype=torch.float64)[-1]
    m = matrix / scale
    x = torch.zeros(size, dtype=torch.float64)
    x[int(m.diagonal().argmin())] = 1.0
    for _ in range(50 * size):
        gradient = m @ x
        active = x > 0.0
        outside = torch.where(active, torch.inf, gradient)
        entering = int(outside.argmin())
        if float(outside[entering]) >= float(x @ gradient) - 1e-13:
            break
        active[entering] = True
        for _ in range(size):  # to the minimum on this face, dropping what would become negative on the way
            goal = _face_minimum(m, active)
            falling = active & (goal < 0.0)
            if not bool(falling.any()):
                x = goal
                break
            share = torch.where(falling, x / (x - goal).clamp(min=1e-300), torch.inf)
            leaving = int(share.argmin())
            x = x + float(share[leaving]) * (goal - x)
            x[leaving], active[leaving] = 0.0, False
    return x / x.sum()


def _face_minimum(m: Tensor, active: Tensor) -> Tensor:
    index = active.nonzero().squeeze(-1)
    k = len(index)
    system = torch.zeros(k + 1, k + 1, dtype=torch.float64)
    system[:k, :k] = m[index][:, index]
    system[:k, k], system[k, :k] = 1.0, 1.0
    right = torch.zeros(k + 1, dtype=torch.float64)
    right[k] = 1.0
    solution = torch.linalg.pinv(system, hermitian=True, rtol=1e-13) @ right
    out = torch.zeros(len(m), dtype=torch.float64)
    out[index] = solution[:k]
    return out


def _values(data: Trajectories) -> tuple[Tensor, Tensor]:
    if data.q is None or data.v is None:
        raise InputError("doubly robust estimates and magic need a value function (q and v); fit one with fqe or mb")
    return data.q, data.v


def _log_weights(data: Trajectories) -> tuple[Tensor, Tensor]:
    """``log w_t`` and ``log w_{t-1}``, both ``[E, H]``."""
    after = data.log_weights
    return after, torch.cat([torch.zeros_like(after[:, :1]), after[:, :-1]], -1)
