"""CQL that pushes down most where the data would not act: CQL plus a weight inside the log-sum-exp.

    push-down  T log sum_k w(a_k|s) exp(Q(s, a_k) / T) / p(a_k),   w = (1 - b) / (1 + b)
    b          beta(a|s) / max_a beta(a|s), in [0, 1]: a density alone exceeds one and would make a bonus of it
    beta       max  E[ log beta(a|s) ] on the data: a normal with a tanh mean and one scale per dimension

A likely action has b near 1 and weight near 0, an unlikely one weight 1. One update fits beta, then runs CQL's.
Not from a paper; everything else is CQL.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.algorithms.conservative.cql import CQL
from lightning_offrl.batch import Spec
from lightning_offrl.networks.policies import GaussianPolicy


class BehaviorWeightedCQL(CQL):
    """CQL whose push-down term spares the actions of a fitted behavior policy.

    Args:
        spec: the spaces, linked from the data.
        behavior_learning_rate: The learning rate of the behavior policy.
        **common: see `CQL` and `OfflineAlgorithm`.
    """

    def __init__(self, spec: Spec, *, behavior_learning_rate: float = 3e-4, **common: Any) -> None:
        super().__init__(spec, **common)
        hidden = self.hparams.get("hidden", (256, 256, 256))
        self.behavior = self.network(lambda: GaussianPolicy(self.encoder(), spec["action_size"], hidden))

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """The behavior policy, then CQL."""
        loss = -self.behavior(batch["observation"]).log_prob(batch["action"]).mean(-1)
        self.minimize(behavior=loss.sum())
        return {**super().update(batch), "behavior_loss": loss}

    def values_of(self, batch: TensorDictBase, actions: Tensor, calibrated: int) -> Tensor:
        """Q with ``T log w`` added, which is w inside the log-sum-exp; ``[*lead, N, B, M]``."""
        with torch.no_grad():
            beta = self.behavior(batch["observation"])
            z = (actions - beta.mean.unsqueeze(-2)) * torch.exp(-beta.log_std).unsqueeze(-2)
            b = torch.exp(-0.5 * z.square().sum(-1)).clamp(max=1.0 - 1e-6)  # the density over its value at the mean
            log_weight = torch.log1p(-b) - torch.log1p(b)
        return super().values_of(batch, actions, calibrated) + self.hparams["temperature"] * log_weight.unsqueeze(-3)

    def named_optimizers(self, *args: Any, **optimizers: Any) -> Any:
        """CQL's, and the behavior policy's Adam."""
        mine = self.adam(self.behavior, self.hparams["behavior_learning_rate"])
        return super().named_optimizers(*args, behavior=mine, **optimizers)
