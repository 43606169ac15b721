"""Policies where the log has masks of legal actions: they receive the masks, and may not take illegal actions.

A policy whose ``probabilities`` takes ``action_mask`` (bool ``[B, n]``, True for legal) receives it. Any policy that
puts probability on illegal actions is refused: the environment would not let it act so, and no estimate could guess
what it would do instead. After the end of an episode no action is legal, and none counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.envs.action_masks import takes_mask
from lightning_offrl.errors import InputError

if TYPE_CHECKING:
    from lightning_offrl.ope.policies.target import TargetPolicy

ROUNDING = 1e-6
"""The most probability on illegal actions that is taken for rounding."""


def legal_actions(episodes: Episodes, rows: Tensor | slice, following: bool = False) -> Tensor | None:
    """Masks ``[B, n]`` at some rows, of the observation or the next one; None where the log has none."""
    found: Tensor | None = episodes.data.get(("next", "action_mask") if following else "action_mask", None)
    return None if found is None else found[rows]


def probabilities(policy: TargetPolicy, observation: Any, mask: Tensor | None) -> Tensor:
    """``[B, n]`` float64 of a discrete policy, none of it on illegal actions.

    Raises:
        InputError: the policy puts probability on illegal actions.
    """
    if mask is None:
        table = policy.probabilities(observation)
        assert table is not None
        return table.double()
    mask = mask | ~mask.any(-1, keepdim=True)
    given = {"action_mask": mask} if takes_mask(policy.probabilities) else {}
    found = policy.probabilities(observation, **given)
    assert found is not None
    table = found.double()
    illegal = (table * ~mask).sum(-1)
    wrong = illegal > ROUNDING
    if bool(wrong.any()):
        raise InputError(
            f"the policy puts probability on actions that the log's masks forbid: in {int(wrong.sum()):,} of "
            f"{len(illegal):,} states, {float(illegal[wrong].mean()):.1%} of it on average there; evaluate a policy "
            "that takes action_mask (trained pages do), or one restricted to legal actions as it would be when it acts"
        )
    return table


def log_prob(policy: TargetPolicy, observation: Any, action: Tensor, mask: Tensor | None) -> Tensor | None:
    """``[B]`` float64, or None for a policy without density; errors as of `probabilities`."""
    if mask is None or not policy.discrete:
        return policy.log_prob(observation, action)
    return probabilities(policy, observation, mask).gather(-1, action.unsqueeze(-1)).squeeze(-1).log()


def sample(policy: TargetPolicy, observation: Any, n: int, generator: torch.Generator, mask: Tensor | None) -> Tensor:
    """``[n, B, A]``, discrete ``[n, B]``; errors as of `probabilities`."""
    if mask is None or not policy.discrete:
        return policy.sample(observation, n, generator)
    table = probabilities(policy, observation, mask)
    return torch.multinomial(table, n, replacement=True, generator=generator).T.contiguous()
