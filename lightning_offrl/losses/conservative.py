"""The conservative part of CQL: how much more the critics promise on other actions than on those of the data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_offrl.losses.checks import same_shape


def soft_maximum(q: Tensor, log_density: Tensor | None, temperature: float = 1.0) -> Tensor:
    """``T log sum_k exp(Q_k / T - log p_k)`` over the sampled actions of each state, the last dimension.

    With ``log_density`` and ``- T log M`` this estimates ``T log of the integral of exp(Q / T)`` by importance sampling
    (Kumar et al., 2020, appendix F). Without it, the plain log-sum-exp of the authors' ``min_q_version 2``. Only Q is
    divided by T: the authors' code also divides ``log p``, which for T other than 1 estimates another integral.

    Args:
        q: ``[*lead, N, B, M]``, M actions per state.
        log_density: The log-density that each action was drawn with, ``[*lead, B, M]``; no gradient flows into it.
        temperature: T.

    Returns:
        ``[*lead, N, B]``; ``T log M`` is *not* subtracted.

    Raises:
        ValueError: if the samples of ``q`` and ``log_density`` do not match.
    """
    exponent = q / temperature
    if log_density is not None:
        same_shape(q=q[..., 0, :, :], log_density=log_density)
        exponent = exponent - log_density.detach().unsqueeze(-3)
    return temperature * torch.logsumexp(exponent, dim=-1)


def uniform_log_density(actions: int) -> float:
    """Log density of the uniform distribution on ``[-1, 1]^A``: ``-A log 2``."""
    return -actions * math.log(2.0)
