"""Expectations over the actions of a policy, exact where they can be, and the same for every kind of action."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_offrl.ope.policies.masked import probabilities

if TYPE_CHECKING:
    from lightning_offrl.ope.policies.target import TargetPolicy


@torch.no_grad()
def weighted_actions(
    policy: TargetPolicy, observation: Any, samples: int, generator: torch.Generator, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Actions and weights with ``E_{a ~ pi(s)} f(s, a) = sum_p weight_p f(s, action_p)``.

    All actions with their probabilities where they are discrete (exact), the one action of a deterministic policy
    (exact), and ``samples`` draws of equal weight otherwise.

    Args:
        policy: whose actions.
        observation: raw, ``[B, ...]``.
        samples: draws per observation of a stochastic continuous policy, at least 1.
        generator: of the draws.
        mask: legal actions ``[B, n]`` where the log has them: the policy is told, and refused where it goes beyond.

    Returns:
        Actions ``[B, P, A]`` (discrete: ``[B, P]`` int64) and weights ``[B, P]`` float64.
    """
    if policy.discrete:
        weight = probabilities(policy, observation, mask)
        return torch.arange(weight.shape[-1]).expand(weight.shape), weight
    action = policy.sample(observation, 1 if policy.is_deterministic else samples, generator).movedim(0, 1)
    return action, torch.full(action.shape[:2], 1.0 / action.shape[1], dtype=torch.float64)


def is_exact(policy: TargetPolicy) -> bool:
    """Whether `weighted_actions` draws nothing."""
    return policy.discrete or policy.is_deterministic
