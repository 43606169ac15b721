"""Losses over ensembles of critics."""

from __future__ import annotations

import torch
from torch import Tensor


def gradient_diversity(gradients: Tensor) -> Tensor:
    """Mean cosine between the action gradients of different critics (An et al., 2021, eq. 4).

    ``1 / (N - 1) * sum_{i != j} <g_i, g_j>`` with unit vectors ``g_i = dQ_i/da``: N when all agree, at least -1.

    Args:
        gradients: ``[*lead, N, B, A]``, not normalized; 1e-10 is added to the norms, as in the authors' code.

    Returns:
        ``[*lead, B]``.

    Raises:
        ValueError: if N is 1.
    """
    n = gradients.shape[-3]
    if n < 2:
        raise ValueError("diversity needs at least two critics")
    unit = gradients / (gradients.norm(dim=-1, keepdim=True) + 1e-10)
    # sum over pairs i != j of <g_i, g_j> = |sum_i g_i|^2 - sum_i |g_i|^2: no N x N matrix
    together = unit.sum(-3).square().sum(-1)
    alone = unit.square().sum(-1).sum(-2)
    return (together - alone) / (n - 1)


def action_gradients(q: Tensor, action: Tensor) -> Tensor:
    """``dQ_i/da`` of every critic at its own copy of the action, differentiable again.

    Args:
        q: ``[*lead, N, B]``, computed from ``action``.
        action: ``[*lead, N, B, A]``, requiring gradients.

    Returns:
        ``[*lead, N, B, A]``.
    """
    (gradient,) = torch.autograd.grad(q.sum(), action, create_graph=True)
    return gradient
