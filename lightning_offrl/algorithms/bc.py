"""Behavior cloning: imitate the data's actions (Pomerleau, 1988); the baseline of every offline paper.

    deterministic  min  E[ mean_i (pi(s)_i - a_i)^2 ]
    gaussian       min  E[ -log pi(a|s) ],  pi = tanh of a normal

%BC (Chen et al., 2021, https://arxiv.org/abs/2106.01345, section 5.1) is the same on the best share of the episodes:
``top_fraction`` of the data module's filter, ``--data.filter.top_fraction 0.1`` (`configs/bc_top10.yaml`).

Reference for the defaults: CORL's ``any_percent_bc.py`` (observations standardized, Adam 3e-4, 256 x 256).
Differences from it: none for the deterministic policy; the Gaussian one is ours.
"""

from __future__ import annotations

from typing import Any, Literal

from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.batch import IMITATION, Spec
from lightning_offrl.networks.policies import DeterministicPolicy, SquashedGaussianPolicy
from lightning_offrl.training.algorithm import OfflineAlgorithm


class BC(OfflineAlgorithm):
    """Behavior cloning of continuous actions.

    Args:
        spec: the spaces, linked from the data.
        policy: "deterministic" (mean squared error) or "gaussian" (likelihood of a squashed normal).
        learning_rate: The learning rate of Adam (CORL: 3e-4; d3rlpy: 1e-3).
        hidden: widths of the hidden layers.
        dropout: rate after each hidden layer of the policy.
        normalize_observations: standardize observations (CORL: yes).
        **common: see `OfflineAlgorithm`.
    """

    needs = IMITATION

    counterpart = "DiscreteBC"

    def __init__(
        self,
        spec: Spec,
        *,
        policy: Literal["deterministic", "gaussian"] = "deterministic",
        learning_rate: float = 3e-4,
        hidden: tuple[int, ...] = (256, 256),
        dropout: float = 0.0,
        normalize_observations: bool = True,
        **common: Any,
    ) -> None:
        super().__init__(spec, normalize_observations=normalize_observations, **common)
        kind = DeterministicPolicy if policy == "deterministic" else SquashedGaussianPolicy
        self.policy = self.network(
            lambda: kind(self.encoder(), spec["action_size"], hidden, dropout=dropout, draws=self.draws)
        )

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """One step on the imitation loss."""
        output = self.policy(batch["observation"])
        if self.hparams["policy"] == "deterministic":
            loss = (output - batch["action"]).square().mean(-1).mean(-1)
        else:
            loss = -output.log_prob(batch["action"]).mean(-1)
        self.minimize(policy=loss.sum())
        return {"policy_loss": loss}

    def act(self, observation: Any) -> Tensor:
        """The deterministic action, or the Gaussian's ``tanh(mean)``."""
        output = self.policy(self.normalizer(observation))
        return output if self.hparams["policy"] == "deterministic" else output.mode

    def configure_optimizers(self) -> Any:
        """One Adam."""
        return self.named_optimizers(policy=self.adam(self.policy, self.hparams["learning_rate"]))
