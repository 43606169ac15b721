"""The base of algorithms that evaluate a policy: it puts the policy's actions into every batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from lightning_offrl.batch import Spec
from lightning_offrl.errors import InputError
from lightning_offrl.ope.policies.expectation import weighted_actions
from lightning_offrl.rng import mix
from lightning_offrl.training.algorithm import OfflineAlgorithm

if TYPE_CHECKING:
    from lightning_offrl.ope.policies.target import TargetPolicy

_STREAM = 0xAC7


class PolicyEvaluationAlgorithm(OfflineAlgorithm):
    """The base of algorithms that learn from the data what a given policy is worth, with either kind of action.

    The policy sees raw observations. Its actions at the next observation are drawn anew for every update, from the
    seed, the update and the stacked head, and stand in the batch as ``("next", "policy_action")`` ``[*lead, B, P, A]``
    (discrete: ``[*lead, B, P]``) with ``("next", "policy_weight")`` ``[*lead, B, P]``, which adds up to one. Where a
    table has these columns already, they are taken as they are; where it has ``("next", "policy_draws")``
    ``[T, M, A]``, every draw is one of these M.

    Args:
        spec: The spaces.
        samples: The number of actions per observation of a stochastic continuous policy.
        **common: see `OfflineAlgorithm`.
    """

    def __init__(self, spec: Spec, *, samples: int = 1, **common: Any) -> None:
        self.action_kind = spec["action_kind"]  # type: ignore[misc]  # an instance's: both kinds, by one rule
        super().__init__(spec, **common)
        if samples < 1:
            raise InputError(f"samples must be at least 1 action per observation, got {samples}")
        self._policy: tuple[TargetPolicy, ...] = ()  # in a tuple: if it is a module, it is not trained or saved here

    def of(self, policy: TargetPolicy) -> Self:
        """Set the policy to evaluate; it is not part of the checkpoint."""
        if policy.discrete != (self.action_kind == "discrete"):
            raise InputError(f"the policy's actions are not {self.action_kind}, as those of the data are")
        self._policy = (policy,)
        return self

    @property
    def policy_evaluated(self) -> TargetPolicy:
        """The policy given to `of`."""
        if not self._policy:
            raise InputError(f"{type(self).__name__} evaluates a policy: say which with .of(policy) before training")
        return self._policy[0]

    def prepare(self, block: TensorDictBase) -> TensorDictBase:
        """Add the policy's actions to a block ``[K, *lead, B]``, then normalize."""
        if block.get(("next", "policy_action"), None) is None:
            block = self.with_actions(block)
        return super().prepare(block)

    @torch.no_grad()
    def with_actions(self, block: TensorDictBase) -> TensorDictBase:
        """The block with the policy's actions at its next observations."""
        block = block.clone(recurse=False)
        observation, draws = block["next", "observation"], block.get(("next", "policy_draws"), None)
        mask = block.get(("next", "action_mask"), None)
        actions, weights = [], []
        lead = self.lead or (1,)
        for k in range(block.batch_size[0]):
            for head in range(lead[0]):
                at = observation[k, head] if self.lead else observation[k]
                words = (self.draws.seed + head, self.updates + k, _STREAM, self.draws.rank)
                generator = torch.Generator().manual_seed(mix(*words))
                if draws is None:
                    legal = None if mask is None else mask[k, head] if self.lead else mask[k]
                    action, weight = self.actions_at(at, generator, legal)
                else:
                    action, weight = self._picked(draws[k, head] if self.lead else draws[k], generator)
                actions.append(action)
                weights.append(weight)
        shape = (block.batch_size[0], *self.lead)
        nested = TensorDict(
            {
                "policy_action": torch.stack(actions).unflatten(0, shape),
                "policy_weight": torch.stack(weights).unflatten(0, shape),
            },
            batch_size=block.batch_size,
            device=block.device,
        )
        following = block["next"].clone(recurse=False)
        following = following.exclude("policy_draws").update(nested)
        block.set("next", following)
        return block

    def _picked(self, draws: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``samples`` of the actions ``[B, M, A]`` of each row, with equal weights."""
        count = self.hparams["samples"]
        which = torch.randint(draws.shape[1], (len(draws), count), generator=generator)
        action = draws.gather(1, which.unsqueeze(-1).expand(-1, -1, draws.shape[-1]))
        return action, torch.full(which.shape, 1.0 / count)

    def actions_at(
        self, observation: Any, generator: torch.Generator, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The policy's actions and weights at raw observations ``[B, ...]``, in float32, see `weighted_actions`."""
        samples = self.hparams["samples"]
        mask = None if mask is None else mask.cpu()
        action, weight = weighted_actions(self.policy_evaluated, observation.cpu(), samples, generator, mask)
        return action if self.action_kind == "discrete" else action.float(), weight.float()
