"""SAC-N (An, Moon, Kim and Song, 2021): soft actor-critic with the minimum of N critics.

https://arxiv.org/abs/2110.01548

    Q       min  sum_i E[ (y - Q_i(s, a))^2 ]
            y = r + gamma (1 - terminated) (min_j Q'_j(s', a') - alpha log pi(a'|s')),  a' ~ pi(s')       eq. 2
    policy  max  E[ min_j Q_j(s, b) - alpha log pi(b|s) ],  b ~ pi(s)
    alpha   min  E[ -log(alpha) (log pi(b|s) - A) ],  target entropy -A

All three losses are differentiated at the same values and stepped together, as in the authors' code: the policy does
not see the new critics, nor the target the new policy. Then the targets move.

Checked against snu-mllab/EDAC (trainers/q_learning/sac.py). Differences: uniform initial weights throughout (theirs
draws the heads closer to zero); no warm-up with behavior cloning, which is off there by default.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.batch import Spec
from lightning_offrl.losses.values import td_target
from lightning_offrl.networks.critics import Critics
from lightning_offrl.networks.policies import SquashedGaussianPolicy
from lightning_offrl.networks.scalars import PositiveScalar
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.target_update import SoftTargetUpdate


class SACN(OfflineAlgorithm):
    """SAC with N critics.

    Args:
        spec: the spaces, linked from the data.
        critics: N (paper: halfcheetah 10, walker2d 20, hopper 200 to 500; for EDAC 10, 10, 50).
        learning_rate: The learning rate of all Adams (paper: 3e-4).
        target_entropy: None is minus the number of action dimensions.
        hidden: widths of the hidden layers (paper: three of 256).
        **common: see `OfflineAlgorithm`; the authors do not normalize observations.
    """

    remedy = "raise model.critics"

    def __init__(
        self,
        spec: Spec,
        *,
        critics: int = 10,
        learning_rate: float = 3e-4,
        target_entropy: float | None = None,
        hidden: tuple[int, ...] = (256, 256, 256),
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        actions = spec["action_size"]
        self.q = self.network(lambda: Critics(self.encoder(), actions, hidden, count=critics))
        self.q_target = self.target_of("q")
        self.policy = self.network(lambda: SquashedGaussianPolicy(self.encoder(), actions, hidden))
        self.alpha = self.network(PositiveScalar)
        self.target_entropy = -float(actions) if target_entropy is None else target_entropy

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Temperature, policy and Q, together."""
        obs, action, next_obs = batch["observation"], batch["action"], batch["next", "observation"]
        alpha = self.alpha().detach().unsqueeze(-1)  # [*lead, 1]

        new_action, log_prob = self.policy(obs).sample_with_log_prob(self.draws.normal(action.shape, action))
        alpha_loss = -(self.alpha.log_value * (log_prob.detach().mean(-1) + self.target_entropy))
        policy_loss = (alpha * log_prob - self.q(obs, new_action).amin(-2)).mean(-1)

        with torch.no_grad():
            next_action, next_log_prob = self.policy(next_obs).sample_with_log_prob(
                self.draws.normal(action.shape, action)
            )
            next_value = self.q_target(next_obs, next_action).amin(-2) - alpha * next_log_prob
        target = td_target(batch["next", "reward"], batch["next", "terminated"], next_value, batch["discount"])
        q_loss, metrics = self.q_loss(obs, action, target)
        self.minimize(alpha=alpha_loss.sum(), policy=policy_loss.sum(), q=q_loss.sum())
        return {
            "q_loss": q_loss,
            "policy_loss": policy_loss,
            "alpha": alpha.squeeze(-1),
            "entropy": -log_prob.mean(-1),
            **metrics,
        }

    def q_loss(self, obs: Tensor, action: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over the batch, sum over critics, ``[*lead]``, and metrics."""
        q = self.q(obs, action)
        loss = (q - target.unsqueeze(-2)).square().mean(-1).sum(-1)
        return loss, {"q": q.mean((-2, -1)), "q_spread": q.std(-2).mean(-1)}

    def act(self, observation: Any) -> Tensor:
        """``tanh(mean)`` of the policy."""
        return self.policy(self.normalizer(observation)).mode

    def configure_optimizers(self) -> Any:
        """One Adam per network."""
        rate = self.hparams["learning_rate"]
        return self.named_optimizers(
            alpha=self.adam(self.alpha, rate), policy=self.adam(self.policy, rate), q=self.adam(self.q, rate)
        )

    def configure_callbacks(self) -> Any:
        """Polyak averaging after every update."""
        return self.default_callbacks(SoftTargetUpdate(tau=0.005))
