"""Behavior cloning of discrete actions: maximum likelihood (Pomerleau, 1988).

    policy  min  E[ -log pi(a|s) + penalty mean_b logit_b(s)^2 ]

The penalty is that of discrete BCQ's imitation network, off here. Illegal actions (``action_mask``) have probability 0;
the penalty is over all logits. There is no authors' code; d3rlpy's DiscreteBC has the same loss with penalty 0.5.
"""

from __future__ import annotations

from typing import Any

from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.batch import IMITATION, Spec
from lightning_offrl.losses.discrete import legal
from lightning_offrl.networks.discrete import Categorical, CategoricalPolicy
from lightning_offrl.training.algorithm import OfflineAlgorithm


class DiscreteBC(OfflineAlgorithm):
    """Behavior cloning of discrete actions.

    Args:
        spec: the spaces, linked from the data; discrete actions.
        logit_penalty: weight of the mean squared logit (discrete BCQ: 1e-2; d3rlpy: 0.5).
        learning_rate: The learning rate of Adam.
        hidden: widths of the hidden layers.
        dropout: rate after each hidden layer.
        **common: see `OfflineAlgorithm`.
    """

    needs = IMITATION
    action_kind = "discrete"

    counterpart = "BC"

    def __init__(
        self,
        spec: Spec,
        *,
        logit_penalty: float = 0.0,
        learning_rate: float = 3e-4,
        hidden: tuple[int, ...] = (256, 256),
        dropout: float = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        self.policy = self.network(
            lambda: CategoricalPolicy(self.encoder(), spec["action_size"], hidden, dropout=dropout, draws=self.draws)
        )

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """One step on the cross entropy."""
        logits = self.policy.logits(batch["observation"])
        pi = Categorical(legal(logits, batch.get("action_mask", None)))
        cross_entropy = -pi.log_prob(batch["action"]).mean(-1)
        policy_loss = cross_entropy + self.hparams["logit_penalty"] * logits.square().mean((-2, -1))
        self.minimize(policy=policy_loss.sum())
        accuracy = (pi.mode == batch["action"]).to(logits.dtype).mean(-1)
        return {"policy_loss": policy_loss, "cross_entropy": cross_entropy, "accuracy": accuracy}

    def act(self, observation: Any, action_mask: Tensor | None = None) -> Tensor:
        """The most likely legal action."""
        return self.policy(self.normalizer(observation), action_mask).mode

    def configure_optimizers(self) -> Any:
        """One Adam."""
        return self.named_optimizers(policy=self.adam(self.policy, self.hparams["learning_rate"]))
