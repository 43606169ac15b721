"""Values of discrete actions: picking one, leaving out illegal ones, and the support of a behavior policy.

A mask is bool, True for legal. What is illegal becomes -inf: a large negative constant, added to Q in float32, would
absorb it, and a factor 0 would make an illegal action the best where all values are negative.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_offrl.losses.checks import same_shape


def of_action(values: Tensor, action: Tensor) -> Tensor:
    """The value of one action out of n.

    Args:
        values: ``[*lead, B, n]``, or ``[*lead, N, B, n]`` of N critics.
        action: ``[*lead, B]`` int64.

    Returns:
        ``[*lead, B]`` or ``[*lead, N, B]``.
    """
    if values.ndim == action.ndim + 2:
        action = action.unsqueeze(-2).expand(values.shape[:-1])
    return values.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def legal(values: Tensor, mask: Tensor | None) -> Tensor:
    """``values`` with -inf for illegal actions; no gradient reaches those.

    Args:
        values: ``[*lead, B, n]``, or ``[*lead, N, B, n]`` of N critics.
        mask: ``[*lead, B, n]`` bool, True for legal; None: all are.

    Returns:
        The shape of ``values``.

    Raises:
        ValueError: if the mask is not bool or does not fit.
    """
    if mask is None:
        return values
    if mask.dtype != torch.bool:
        raise ValueError(f"action_mask must be bool, True for legal actions, got {mask.dtype}")
    same_shape(values=values if values.ndim == mask.ndim else values[..., 0, :, :], action_mask=mask)
    return values.masked_fill(~(mask if values.ndim == mask.ndim else mask.unsqueeze(-3)), -math.inf)


def supported(logits: Tensor, threshold: float, mask: Tensor | None = None) -> Tensor:
    """Actions that the behavior takes often enough: ``pi(a|s) / max_b pi(b|s) >= threshold`` (BCQ, discrete).

    Args:
        logits: The logits of the behavior policy, ``[*lead, B, n]``.
        threshold: 0 keeps all legal actions, 1 the most likely one.
        mask: legal actions; the maximum is over these.

    Returns:
        ``[*lead, B, n]`` bool; in a state without legal actions all False.
    """
    logits = legal(logits, mask)
    least = math.log(threshold) if threshold > 0.0 else -math.inf
    kept = logits - logits.amax(-1, keepdim=True) >= least
    return kept if mask is None else kept & mask


def log_sum_exp_gap(q: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
    """``log sum_a exp Q(s, a) - Q(s, a_data)``, CQL(H) for discrete actions (Kumar et al., 2020, eq. 4).

    Not minus the mean of Q over all actions, which lets the data's action sink with the others.

    Args:
        q: ``[*lead, N, B, n]``.
        action: the data's, ``[*lead, B]`` int64, legal.
        mask: legal actions of these states; the sum is over these.

    Returns:
        ``[*lead, N, B]``, at least 0.
    """
    return torch.logsumexp(legal(q, mask), dim=-1) - of_action(q, action)


@torch.no_grad()
def double_q(online: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Double Q-learning: the online critics choose the next action, the targets value it (van Hasselt et al., 2016).

    The action is the best of the critics' mean, its value the smallest target; with one critic both are just it. A
    state without any legal action gives a finite number; only a terminal one may be so, where it counts for nothing.

    Args:
        online: ``[*lead, N, B, n]`` at the next observation.
        target: The values of the target critics, in the same shape.
        mask: ``[*lead, B, n]``, actions to choose from.

    Returns:
        ``[*lead, B]``, without gradient.
    """
    same_shape(online=online, target=target)
    return of_action(target, legal(online.mean(-3), mask).argmax(-1)).amin(-2)
