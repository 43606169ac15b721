"""Implicit Q-Learning (Kostrikov, Nair and Levine, 2021).

https://arxiv.org/abs/2110.06169

    V       min  E[ L_tau(Q'(s, a) - V(s)) ],  L_tau(u) = |tau - 1[u < 0]| u^2        eq. 5
    policy  max  E[ exp(beta (Q'(s, a) - V(s))) log pi(a|s) ]                          eq. 7
    Q       min  sum_i E[ (r + gamma (1 - terminated) V(s') - Q_i(s, a))^2 ]           eq. 6

Q' is the smaller of two target critics. One update runs V, then the policy (with the new V), then Q (with the new V),
as the authors' code does; then the targets move. The policy is a normal whose mean alone passes through tanh; it acts
by that mean. Actions of the data are clipped to +-(1 - 1e-5).

Checked against ikostrikov/implicit_q_learning (learner.py, critic.py, policy.py). Differences: uniform instead of
orthogonal initial weights; the cosine of the policy's learning rate spans the run (theirs 1,000,000 updates, however
long the run). Their reward scaling for locomotion (x 1000 / return range) is the data module's
``reward: iql-locomotion``.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.batch import Spec
from lightning_offrl.losses.policies import advantage_weighted
from lightning_offrl.losses.values import expectile, td_target
from lightning_offrl.networks.critics import Critics, Value
from lightning_offrl.networks.policies import GaussianPolicy
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.target_update import SoftTargetUpdate


class IQL(OfflineAlgorithm):
    """Implicit Q-Learning of continuous actions.

    Args:
        spec: the spaces, linked from the data.
        expectile: tau of eq. 5 (paper: 0.7, AntMaze 0.9).
        inverse_temperature: beta of eq. 7 (paper: 3, AntMaze 10, Adroit and Kitchen 0.5).
        max_weight: bound of the exponential weights (authors' code: 100).
        learning_rate: The learning rate of all three Adams (authors' code: 3e-4).
        policy_schedule: The policy's learning rate; "cosine" decays it to 0 over ``max_steps`` (authors' code).
        hidden: widths of the hidden layers.
        dropout: rate in the policy's hidden layers (authors' code: 0.1 for Adroit and Kitchen).
        **common: see `OfflineAlgorithm`; the authors do not normalize observations.
    """

    counterpart = "DiscreteIQL"
    remedy = "lower model.inverse_temperature"

    def __init__(
        self,
        spec: Spec,
        *,
        expectile: float = 0.7,
        inverse_temperature: float = 3.0,
        max_weight: float = 100.0,
        learning_rate: float = 3e-4,
        policy_schedule: Literal["cosine", "constant"] = "cosine",
        hidden: tuple[int, ...] = (256, 256),
        dropout: float = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        actions = spec["action_size"]
        self.q = self.network(lambda: Critics(self.encoder(), actions, hidden))
        self.q_target = self.target_of("q")
        self.v = self.network(lambda: Value(self.encoder(), hidden))
        self.policy = self.network(
            lambda: GaussianPolicy(self.encoder(), actions, hidden, dropout=dropout, draws=self.draws)
        )

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """V, policy, Q."""
        hp = self.hparams
        obs, action = batch["observation"], batch["action"].clamp(-1.0 + 1e-5, 1.0 - 1e-5)

        with torch.no_grad():
            q_min = self.q_target(obs, action).amin(-2)  # [N, B] -> [B]
        v_loss = expectile(q_min - self.v(obs), hp["expectile"]).mean(-1)
        self.minimize(v=v_loss.sum())

        with torch.no_grad():
            advantage = q_min - self.v(obs)
        log_prob = self.policy(obs).log_prob(action)
        policy_loss = advantage_weighted(log_prob, advantage, hp["inverse_temperature"], hp["max_weight"]).mean(-1)
        self.minimize(policy=policy_loss.sum())

        with torch.no_grad():
            next_v = self.v(batch["next", "observation"])
        target = td_target(batch["next", "reward"], batch["next", "terminated"], next_v, batch["discount"])
        q_loss = (self.q(obs, action) - target.unsqueeze(-2)).square().mean(-1).sum(-1)
        self.minimize(q=q_loss.sum())

        return {
            "v_loss": v_loss,
            "policy_loss": policy_loss,
            "q_loss": q_loss,
            "advantage": advantage.mean(-1),
            "q": q_min.mean(-1),
        }

    def act(self, observation: Any) -> Tensor:
        """The mean of the policy."""
        return self.policy(self.normalizer(observation)).mode

    def configure_optimizers(self) -> Any:
        """One Adam per network."""
        rate = self.hparams["learning_rate"]
        schedules = {"policy": self.cosine} if self.hparams["policy_schedule"] == "cosine" else {}
        return self.named_optimizers(
            schedules, v=self.adam(self.v, rate), policy=self.adam(self.policy, rate), q=self.adam(self.q, rate)
        )

    def configure_callbacks(self) -> Any:
        """Polyak averaging as in the authors' code."""
        return self.default_callbacks(SoftTargetUpdate(tau=0.005))
