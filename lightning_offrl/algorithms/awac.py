"""Advantage-weighted actor-critic, AWAC (Nair, Gupta, Dalal and Levine, 2020).

https://arxiv.org/abs/2006.09359

    Q       min  sum_i E[ (r + gamma (1 - terminated) min_j Q'_j(s', a') - Q_i(s, a))^2 ],  a' ~ pi(s')     eq. 9
    policy  max  E[ exp(A(s, a) / lambda) log pi(a|s) ]                                                    eq. 13
            A = min_j Q_j(s, a) - min_j Q_j(s, b),  b ~ pi(s)

One update runs Q, then the policy with the new Q, then moves the targets. Weights exp(A / lambda) are bounded by 100,
not normalized over the batch. The policy is a normal whose mean alone passes through tanh; samples are clipped to
+-(1 - 1e-5), as are the data's actions.

Compared with CORL's awac.py, whose locomotion settings are the defaults. Differences: log standard deviations do not
depend on the state there either, but start at 0 and stay in [-20, 2]; theirs updates the policy first.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.batch import Spec
from lightning_offrl.losses.policies import advantage_weighted
from lightning_offrl.losses.values import td_target
from lightning_offrl.networks.critics import Critics
from lightning_offrl.networks.policies import GaussianPolicy
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.target_update import SoftTargetUpdate

EDGE = 1.0 - 1e-5


class AWAC(OfflineAlgorithm):
    """Advantage-weighted actor-critic.

    Args:
        spec: the spaces, linked from the data.
        temperature: lambda of eq. 13; small is greedier (CORL: 1/3 for locomotion, 0.1 elsewhere).
        max_weight: bound of the exponential weights (CORL: 100).
        learning_rate: The learning rate of both Adams (CORL: 3e-4).
        hidden: widths of the hidden layers (CORL: three of 256).
        normalize_observations: standardize observations (CORL: yes).
        **common: see `OfflineAlgorithm`.
    """

    remedy = "raise model.temperature"

    def __init__(
        self,
        spec: Spec,
        *,
        temperature: float = 1.0 / 3.0,
        max_weight: float = 100.0,
        learning_rate: float = 3e-4,
        hidden: tuple[int, ...] = (256, 256, 256),
        normalize_observations: bool = True,
        **common: Any,
    ) -> None:
        super().__init__(spec, normalize_observations=normalize_observations, **common)
        actions = spec["action_size"]
        self.q = self.network(lambda: Critics(self.encoder(), actions, hidden))
        self.q_target = self.target_of("q")
        self.policy = self.network(lambda: GaussianPolicy(self.encoder(), actions, hidden, log_std_range=(-20.0, 2.0)))

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Q, then the policy."""
        hp = self.hparams
        obs, next_obs, action = batch["observation"], batch["next", "observation"], batch["action"].clamp(-EDGE, EDGE)

        with torch.no_grad():
            next_action = self.policy(next_obs).sample(self.draws.normal(action.shape, action)).clamp(-EDGE, EDGE)
            next_q = self.q_target(next_obs, next_action).amin(-2)
        target = td_target(batch["next", "reward"], batch["next", "terminated"], next_q, batch["discount"])
        q_loss = (self.q(obs, action) - target.unsqueeze(-2)).square().mean(-1).sum(-1)
        self.minimize(q=q_loss.sum())

        density = self.policy(obs)
        with torch.no_grad():
            own = density.sample(self.draws.normal(action.shape, action)).clamp(-EDGE, EDGE)
            q_data = self.q(obs, action).amin(-2)
            advantage = q_data - self.q(obs, own).amin(-2)
        log_prob = density.log_prob(action)
        policy_loss = advantage_weighted(log_prob, advantage, 1.0 / hp["temperature"], hp["max_weight"]).mean(-1)
        self.minimize(policy=policy_loss.sum())
        return {
            "q_loss": q_loss,
            "policy_loss": policy_loss,
            "advantage": advantage.mean(-1),
            "q": q_data.mean(-1),
        }

    def act(self, observation: Any) -> Tensor:
        """The mean of the policy."""
        return self.policy(self.normalizer(observation)).mode

    def configure_optimizers(self) -> Any:
        """One Adam per network."""
        rate = self.hparams["learning_rate"]
        return self.named_optimizers(q=self.adam(self.q, rate), policy=self.adam(self.policy, rate))

    def configure_callbacks(self) -> Any:
        """Polyak averaging after every update."""
        return self.default_callbacks(SoftTargetUpdate(tau=0.005))
