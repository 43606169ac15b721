"""Losses of policies."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_offrl.losses.checks import same_shape


def advantage_weighted(
    log_prob: Tensor, advantage: Tensor, inverse_temperature: float, max_weight: float = 100.0
) -> Tensor:
    """``-min(exp(inverse_temperature * A), max_weight) log pi(a|s)``; the clamp comes *after* the exponential.

    IQL multiplies the advantage by beta, AWAC divides it by lambda: pass beta, or 1 / lambda.

    Args:
        log_prob: ``[*lead, B]`` of the data's actions.
        advantage: ``[*lead, B]``; no gradient flows into it.
        inverse_temperature: beta.
        max_weight: 100 in IQL's and AWAC's code.

    Returns:
        ``[*lead, B]``.

    Raises:
        ValueError: if the shapes differ.
    """
    same_shape(log_prob=log_prob, advantage=advantage)
    weight = torch.exp(inverse_temperature * advantage.detach()).clamp(max=max_weight)
    return -weight * log_prob
