"""Two sets of points: Kullback-Leibler divergence by nearest neighbors, and mean discrepancy by a kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_offrl.ope.checks.neighbors import nearest


def knn_log_ratios(p: Tensor, q: Tensor, k: int = 5, *, paired: bool = False, queries: int = 10_000) -> Tensor | None:
    """``KL(p || q)`` in bits from samples (Wang, Kulkarni and Verdu, 2009, https://doi.org/10.1109/TIT.2009.2016060).

    ``d mean_i log2(nu_i / rho_i) + log2(m / (n - 1))`` with rho_i the distance of p's point i to its k-th nearest other
    point of p, and nu_i to its k-th nearest of q. It falls short where dimensions or divergence are many: of 1 bit it
    finds about .95 in 3 dimensions (10,000 points), .8 in 6 and .7 in 17 (5,000 points).

    Args:
        p: ``[n, d]``.
        q: ``[m, d]``.
        k: The number of neighbors; few are noisy, many are biased.
        paired: Whether row i of both belongs to one state, which both then leave out. Their common coordinates cancel,
            which halves the error.
        queries: The number of points of p whose neighbors are searched.

    Returns:
        The terms ``[Q]``, in bits; their mean may be slightly negative. None where points coincide (discrete data):
        distances say nothing then.
    """
    query = p[:queries]
    own = torch.arange(len(query)), torch.arange(len(p))
    rho = nearest(query, p, k, apart=own)[0][:, -1]
    nu = nearest(query, q, k, apart=own if paired else None)[0][:, -1]
    if bool((rho <= 0.0).any()) or bool((nu <= 0.0).any()):
        return None
    others = len(q) - 1 if paired else len(q)
    nats = p.shape[-1] * (nu.log() - rho.log()) + math.log(others / (len(p) - 1))
    return nats / math.log(2.0)


def whitened(points: Tensor, by: Tensor) -> Tensor:
    """``[N, d]`` points in coordinates in which those of ``by`` have mean 0 and covariance 1.

    A divergence is the same in all coordinates, but neighbors are found in round clouds only: where an action follows
    the state closely, cloud and shift would else be a thin sheet beside another. A thousandth of the mean variance is
    added in directions that ``by`` does not fill.
    """
    center = by.mean(0)
    covariance = (by - center).T @ (by - center) / len(by)
    ridge = 1e-3 * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=by.dtype)
    values = torch.linalg.eigvalsh(covariance)
    covariance = covariance if float(values[0]) > 1e-6 * float(values[-1]) else covariance + ridge
    factor = torch.linalg.cholesky(covariance)
    return torch.linalg.solve_triangular(factor, (points - center).T, upper=False).T


def paired_mmd(
    p: Tensor, q: Tensor, *, bandwidth: float | None = None, swaps: int = 500, seed: int = 0
) -> tuple[float, float]:
    """Squared maximum mean discrepancy of paired samples, and how often chance alone gives as much.

    ``sum_{i != j} h_ij / (n (n - 1))``, ``h_ij = k(p_i, p_j) + k(q_i, q_j) - k(p_i, q_j) - k(p_j, q_i)``: unbiased
    (Gretton et al., 2012, https://jmlr.org/papers/v13/gretton12a.html, lemma 6), so it may be slightly negative. The
    kernel is ``exp(-|x - y|^2 / (2 bandwidth^2))``. If both actions of a pair came from one policy they could be
    exchanged; exchanging pair i turns the sign of row and column i of h.

    Args:
        p: ``[n, d]``.
        q: ``[n, d]``, row i in the same state.
        bandwidth: The width of the kernel; None: the median distance of all points.
        swaps: The number of random exchanges.
        seed: The seed of the exchanges.

    Returns:
        MMD^2 and the p-value.
    """
    both = torch.cat([p, q])
    distance = torch.cdist(both, both)
    if bandwidth is None:
        bandwidth = max(float(distance[distance > 0.0].median()) if bool((distance > 0.0).any()) else 1.0, 1e-12)
    kernel = torch.exp(-distance.square() / (2.0 * bandwidth**2))
    n = len(p)
    h = kernel[:n, :n] + kernel[n:, n:] - kernel[:n, n:] - kernel[n:, :n]
    h.fill_diagonal_(0.0)
    pairs = n * (n - 1)
    found = float(h.sum()) / pairs
    generator = torch.Generator().manual_seed(seed)
    signs = 2.0 * torch.randint(2, (swaps, n), generator=generator).to(h) - 1.0
    chance = ((signs @ h) * signs).sum(-1) / pairs
    return found, (1.0 + float((chance >= found).sum())) / (swaps + 1.0)
