"""Quantile regression."""

from __future__ import annotations

import torch
from torch import Tensor


def quantile_levels(count: int, like: Tensor | None = None) -> Tensor:
    """Midpoints ``(i + 1/2) / m`` of m equal shares of probability, ``[m]`` (Dabney et al., 2018, lemma 2)."""
    dtype, device = (None, None) if like is None else (like.dtype, like.device)
    return (torch.arange(count, dtype=dtype, device=device) + 0.5) / count


def quantile_regression(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """``sum_j w_j mean_i (tau_i - 1[u_ij < 0]) u_ij``, ``u_ij = target_j - prediction_i``, ``tau_i`` the midpoints.

    Its minimizer is the quantiles of the weighted targets (Dabney et al., 2018, https://arxiv.org/abs/1710.10044, eq. 8
    without the Huber threshold, which would move them).

    Args:
        prediction: ``[..., m]``, the quantile functions at `quantile_levels`.
        target: ``[..., J]`` samples of the target distribution.
        weight: ``[..., J]``, their probabilities.

    Returns:
        ``[...]``.
    """
    difference = target.unsqueeze(-2) - prediction.unsqueeze(-1)  # [..., m, J]
    level = quantile_levels(prediction.shape[-1], prediction).unsqueeze(-1)
    loss = (level - (difference < 0).to(level.dtype)) * difference
    return (loss.mean(-2) * weight).sum(-1)
