"""Losses and targets of value functions."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_offrl.losses.checks import same_shape


@torch.no_grad()
def td_target(reward: Tensor, terminated: Tensor, next_value: Tensor, discount: float | Tensor) -> Tensor:
    """One-step bootstrap target ``r + discount * (1 - terminated) V(s')``.

    A truncated episode still bootstraps: only a real terminal state is worth zero.

    Args:
        reward: ``[*lead, B]``, the discounted sum over n steps when n > 1.
        terminated: ``[*lead, B]`` bool, true only where the environment itself ended the episode.
        next_value: ``[*lead, B]``.
        discount: The discount per transition, so ``gamma**n`` for n steps; a ``[*lead, B]`` tensor when n varies.

    Returns:
        ``[*lead, B]``, without gradient.

    Raises:
        ValueError: if ``reward``, ``terminated`` and ``next_value`` differ in shape.
    """
    same_shape(reward=reward, terminated=terminated, next_value=next_value)
    return reward + discount * (~terminated).to(reward.dtype) * next_value


def expectile(difference: Tensor, level: float) -> Tensor:
    """Asymmetric square ``|level - 1[u < 0]| u^2`` with ``u = target - prediction`` (Kostrikov et al., 2021, eq. 4).

    Args:
        difference: u, any shape.
        level: weight of positive u; 0.5 is half the squared error, towards 1 the minimizer tends to the maximum.

    Returns:
        The shape of ``difference``.
    """
    square = difference.square()  # weighed before the choice: where() of two numbers would round them to float32
    return torch.where(difference < 0, (1.0 - level) * square, level * square)


def huber(difference: Tensor, threshold: float | None = 1.0) -> Tensor:
    """``u^2 / 2`` up to ``|u| = threshold``, beyond it a line of the same slope: ``threshold (|u| - threshold / 2)``.

    With threshold 1 this is smooth-L1.

    Args:
        difference: u, any shape.
        threshold: None: half the square everywhere.

    Returns:
        The shape of ``difference``.
    """
    square = 0.5 * difference.square()
    if threshold is None:
        return square
    size = difference.abs()
    return torch.where(size <= threshold, square, threshold * (size - 0.5 * threshold))


def soft_minimum(q: Tensor, weight: float) -> Tensor:
    """Soft clipped double Q-learning: ``weight min_i Q_i + (1 - weight) max_i Q_i`` (BCQ, Algorithm 1).

    Over the critics of *each* action: the maximum over sampled actions is taken of the result.

    Args:
        q: ``[*lead, N, B, M]``.
        weight: lambda; 1 is the minimum.

    Returns:
        ``[*lead, B, M]``.
    """
    return weight * q.amin(-3) + (1.0 - weight) * q.amax(-3)
