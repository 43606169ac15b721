"""Implicit Q-Learning of discrete actions (Kostrikov, Nair and Levine, 2021).

https://arxiv.org/abs/2110.06169

    V       min  E[ L_tau(Q'(s, a) - V(s)) ],  L_tau(u) = |tau - 1[u < 0]| u^2        eq. 5
    policy  max  E[ exp(beta (Q'(s, a) - V(s))) log pi(a|s) ],  pi categorical         eq. 7
    Q       min  sum_i E[ (r + gamma (1 - terminated) V(s') - Q_i(s, a))^2 ]           eq. 6

Q' is the smaller of two target critics. One update runs V, the policy (with the new V), Q (with the new V), then the
targets move: the order of the authors' continuous code. No loss evaluates an action that is not in the data, so only
the policy needs ``action_mask``. It acts by its most likely action.

The authors have no discrete code. Difference from the page IQL: a constant learning rate of the policy.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.batch import Spec
from lightning_offrl.losses.discrete import of_action
from lightning_offrl.losses.policies import advantage_weighted
from lightning_offrl.losses.values import expectile, td_target
from lightning_offrl.networks.critics import Value
from lightning_offrl.networks.discrete import CategoricalPolicy, DiscreteCritics
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.target_update import SoftTargetUpdate


class DiscreteIQL(OfflineAlgorithm):
    """Implicit Q-Learning of discrete actions.

    Args:
        spec: the spaces, linked from the data; discrete actions.
        expectile: tau of eq. 5.
        inverse_temperature: beta of eq. 7.
        max_weight: bound of the exponential weights.
        learning_rate: The learning rate of all three Adams.
        hidden: widths of the hidden layers.
        **common: see `OfflineAlgorithm`.
    """

    action_kind = "discrete"

    counterpart = "IQL"
    remedy = "lower model.inverse_temperature"

    def __init__(
        self,
        spec: Spec,
        *,
        expectile: float = 0.7,
        inverse_temperature: float = 3.0,
        max_weight: float = 100.0,
        learning_rate: float = 3e-4,
        hidden: tuple[int, ...] = (256, 256),
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        actions = spec["action_size"]
        self.q = self.network(lambda: DiscreteCritics(self.encoder(), actions, hidden))
        self.q_target = self.target_of("q")
        self.v = self.network(lambda: Value(self.encoder(), hidden))
        self.policy = self.network(lambda: CategoricalPolicy(self.encoder(), actions, hidden))

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """V, policy, Q."""
        hp = self.hparams
        obs, action = batch["observation"], batch["action"]

        with torch.no_grad():
            q_min = of_action(self.q_target(obs), action).amin(-2)  # [N, B] -> [B]
        v_loss = expectile(q_min - self.v(obs), hp["expectile"]).mean(-1)
        self.minimize(v=v_loss.sum())

        with torch.no_grad():
            advantage = q_min - self.v(obs)
        log_prob = self.policy(obs, batch.get("action_mask", None)).log_prob(action)
        policy_loss = advantage_weighted(log_prob, advantage, hp["inverse_temperature"], hp["max_weight"]).mean(-1)
        self.minimize(policy=policy_loss.sum())

        with torch.no_grad():
            next_v = self.v(batch["next", "observation"])
        target = td_target(batch["next", "reward"], batch["next", "terminated"], next_v, batch["discount"])
        q_loss = (of_action(self.q(obs), action) - target.unsqueeze(-2)).square().mean(-1).sum(-1)
        self.minimize(q=q_loss.sum())
        return {
            "v_loss": v_loss,
            "policy_loss": policy_loss,
            "q_loss": q_loss,
            "advantage": advantage.mean(-1),
            "q": q_min.mean(-1),
        }

    def act(self, observation: Any, action_mask: Tensor | None = None) -> Tensor:
        """The most likely legal action."""
        return self.policy(self.normalizer(observation), action_mask).mode

    def configure_optimizers(self) -> Any:
        """One Adam per network."""
        rate = self.hparams["learning_rate"]
        return self.named_optimizers(
            v=self.adam(self.v, rate), policy=self.adam(self.policy, rate), q=self.adam(self.q, rate)
        )

    def configure_callbacks(self) -> Any:
        """Polyak averaging after every update."""
        return self.default_callbacks(SoftTargetUpdate(tau=0.005))
