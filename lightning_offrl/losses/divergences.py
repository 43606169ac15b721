"""How far two distributions are apart."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def kl_to_standard_normal(mean: Tensor, log_std: Tensor) -> Tensor:
    """``KL(N(mean, std^2) || N(0, 1))`` of diagonal normals, summed over the features (VAE, app. B).

    ``-1/2 sum_i (1 + 2 log_std_i - mean_i^2 - exp(2 log_std_i))``. BCQ's and BEAR's code takes the *mean* over the
    features: divide by their number.

    Args:
        mean: ``[*lead, B, L]``.
        log_std: The logarithm of the standard deviation, of the same shape.

    Returns:
        ``[*lead, B]``.
    """
    return -0.5 * (1.0 + 2.0 * log_std - mean.square() - torch.exp(2.0 * log_std)).sum(-1)


def squared_mmd(
    x: Tensor, y: Tensor, bandwidth: float, kernel: Literal["laplacian", "gaussian"] = "laplacian"
) -> Tensor:
    """Squared maximum mean discrepancy between two sets of samples (Gretton et al., 2012).

    ``mean k(x, x') - 2 mean k(x, y) + mean k(y, y')`` over all pairs, those of a sample with itself included: the
    biased estimate, never negative. ``k = exp(-d / (2 bandwidth))`` with ``d = sum_i |x_i - y_i|`` (Laplacian) or
    ``sum_i (x_i - y_i)^2`` (Gaussian); as in BEAR's code, the bandwidth is *not* squared.

    Args:
        x: ``[*lead, B, N, A]``, N samples per state.
        y: ``[*lead, B, M, A]``.
        bandwidth: sigma (BEAR: 20).
        kernel: The name of the kernel, which says what distance is used.

    Returns:
        ``[*lead, B]``.
    """

    def mean_kernel(one: Tensor, other: Tensor) -> Tensor:
        difference = one.unsqueeze(-2) - other.unsqueeze(-3)  # [*lead, B, N, M, A]
        apart = difference.abs() if kernel == "laplacian" else difference.square()
        return torch.exp(-apart.sum(-1) / (2.0 * bandwidth)).mean((-2, -1))

    return mean_kernel(x, x) - 2.0 * mean_kernel(x, y) + mean_kernel(y, y)
