"""What a transition needs from the rest of its episode: n-step rewards, the next action, Monte-Carlo returns, time.

All functions take flat columns ``[T]`` with the episodes one after the other, and none looks over an episode's border.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_offrl.errors import InputError


def end_index(start: Tensor, length: Tensor) -> Tensor:
    """The row of the last step of each row's episode.

    Args:
        start: ``[E]`` int64, first row of each episode.
        length: ``[E]`` int64, steps of each episode.

    Returns:
        ``[T]`` int64.
    """
    return torch.repeat_interleave(start + length - 1, length)


class NStep(NamedTuple):
    """Transitions over up to n steps, all ``[T]``."""

    reward: Tensor
    """``sum over k < m of discount**k * r[t + k]``, in the type of the rewards."""
    last: Tensor
    """int64, the row ``t + m - 1`` of the last step summed: its next observation is the one to bootstrap from."""
    terminated: Tensor
    """bool, whether that step ended in a terminal state."""
    truncated: Tensor
    """bool, whether that step was the last before the episode was cut."""
    discount: Tensor
    """float32, ``discount**m``."""


def n_step(reward: Tensor, terminated: Tensor, truncated: Tensor, end_index: Tensor, n: int, discount: float) -> NStep:
    """Sum the rewards of n steps, or of the m < n that the episode has left.

    Shortened at both kinds of end. A truncated episode then bootstraps with ``discount**m`` from its real last
    observation, so that no transition has to be thrown away (Sutton and Barto, section 7.1, with the horizon cut at the
    border).

    Args:
        reward: ``[T]``, one step each.
        terminated: ``[T]`` bool.
        truncated: ``[T]`` bool.
        end_index: ``[T]`` int64, from `end_index`.
        n: at least 1.
        discount: gamma per environment step.

    Raises:
        InputError: if n is below 1.
    """
    if n < 1:
        raise InputError(f"n-step rewards need n of at least 1, got {n}")
    row = torch.arange(len(reward))
    last = torch.minimum(row + (n - 1), end_index)
    steps = last - row + 1
    total = reward.double()
    value = total.clone()
    # More steps than the longest episode has left add nothing.
    for k in range(1, min(n, int(steps.max()) if len(steps) else 0)):
        inside = k < steps
        value += torch.where(inside, discount**k * total[torch.minimum(row + k, end_index)], 0.0)
    gamma = torch.full_like(value, discount) ** steps
    return NStep(value.to(reward.dtype), last, terminated[last], truncated[last], gamma.float())


def next_action(action: Tensor, end_index: Tensor) -> Tensor:
    """The action of the next step; at an episode's last step, where there is none, the action itself.

    Args:
        action: ``[T, ...]``.
        end_index: ``[T]`` int64, from `end_index`.
    """
    return action[torch.minimum(torch.arange(len(action)) + 1, end_index)]


def timestep(start: Tensor, length: Tensor) -> Tensor:
    """Steps since the episode began, from 0, ``[T]`` int64."""
    return torch.arange(int(length.sum())) - torch.repeat_interleave(start, length)


def monte_carlo_return(
    reward: Tensor,
    start: Tensor,
    length: Tensor,
    discount: float,
    *,
    terminated: Tensor | None = None,
    infinite_horizon: bool = False,
) -> Tensor:
    """Discounted sum of the rewards from each step to the end of its episode.

    Args:
        reward: ``[T]``.
        start: ``[E]`` int64.
        length: ``[E]`` int64.
        discount: gamma per environment step.
        terminated: ``[T]`` bool, needed with ``infinite_horizon``.
        infinite_horizon: take it that an episode which was cut would have gone on with its last reward for ever, worth
            ``r / (1 - discount)`` from its last step. For rewards of -1 until the goal this is what Cal-QL does
            (Nakamoto et al. 2023, https://arxiv.org/abs/2303.05479), where a failed episode must not look better the
            earlier it was cut.

    Returns:
        ``[T]`` in the type of the rewards.

    Raises:
        InputError: for an infinite horizon with a discount of 1, or without ``terminated``.
    """
    value = reward.double()
    end = end_index(start, length)
    if infinite_horizon:
        if terminated is None or discount >= 1.0:
            raise InputError(
                "Monte-Carlo returns over an infinite horizon need the terminated flags and a discount below 1, "
                f"got discount {discount}"
            )
        last = start + length - 1
        value = value.clone()
        value[last] = torch.where(terminated[last], value[last], value[last] / (1.0 - discount))
    # Doubling: after pass k each row holds the sum over its next 2**k steps. log2(longest) passes over the table,
    # where a backward recursion would take a Python step per row.
    row = torch.arange(len(value))
    span, longest = 1, int(length.max()) if len(length) else 0
    while span < longest:
        ahead = torch.minimum(row + span, end)
        value = value + torch.where(row + span <= end, discount**span * value[ahead], 0.0)
        span *= 2
    return value.to(reward.dtype)
