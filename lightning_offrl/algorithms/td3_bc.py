"""TD3+BC (Fujimoto and Gu, 2021).

https://arxiv.org/abs/2106.06860

    Q       min  sum_i E[ (r + gamma (1 - terminated) min_j Q'_j(s', a') - Q_i(s, a))^2 ]
            a' = clip(pi'(s') + clip(sigma noise, -c, c), -1, 1)                            TD3, section 5.3
    policy  max  E[ lambda Q_1(s, pi(s)) - mean_i (pi(s)_i - a_i)^2 ]                       eq. 3
            lambda = alpha / mean |Q_1(s, pi(s))|, without gradient                         eq. 5

One update runs Q; every second one also the policy, and only then all targets move. Observations are standardized with
epsilon 1e-3 (section 5). Under DDP the mean |Q_1| is that of the joint batch.

Checked against sfujim/TD3_BC. Differences: none known but the random streams.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.batch import Spec
from lightning_offrl.losses.values import td_target
from lightning_offrl.networks.critics import Critics
from lightning_offrl.networks.policies import DeterministicPolicy
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.target_update import SoftTargetUpdate


class TD3BC(OfflineAlgorithm):
    """TD3 with a behavior-cloning term.

    Args:
        spec: the spaces, linked from the data.
        alpha: weight of Q against imitation (paper: 2.5).
        policy_noise: standard deviation of the target policy's noise, for actions in [-1, 1] (paper: 0.2).
        noise_clip: bound of that noise (paper: 0.5).
        policy_period: gradient updates per update of policy and targets (paper: 2).
        learning_rate: The learning rate of both Adams (paper: 3e-4).
        hidden: widths of the hidden layers.
        normalize_observations: standardize observations (paper: yes).
        **common: see `OfflineAlgorithm`.
    """

    remedy = "lower model.alpha"

    def __init__(
        self,
        spec: Spec,
        *,
        alpha: float = 2.5,
        policy_noise: float = 0.2,
        noise_clip: float = 0.5,
        policy_period: int = 2,
        learning_rate: float = 3e-4,
        hidden: tuple[int, ...] = (256, 256),
        normalize_observations: bool = True,
        **common: Any,
    ) -> None:
        super().__init__(spec, normalize_observations=normalize_observations, **common)
        actions = spec["action_size"]
        self.q = self.network(lambda: Critics(self.encoder(), actions, hidden))
        self.q_target = self.target_of("q")
        self.policy = self.network(lambda: DeterministicPolicy(self.encoder(), actions, hidden))
        self.policy_target = self.target_of("policy")

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Q, and every ``policy_period``-th time the policy."""
        hp = self.hparams
        obs, action, next_obs = batch["observation"], batch["action"], batch["next", "observation"]

        with torch.no_grad():
            noise = hp["policy_noise"] * self.draws.normal(action.shape, action)
            noise = noise.clamp(-hp["noise_clip"], hp["noise_clip"])
            next_action = (self.policy_target(next_obs) + noise).clamp(-1.0, 1.0)
            next_q = self.q_target(next_obs, next_action).amin(-2)  # [N, B] -> [B]
        target = td_target(batch["next", "reward"], batch["next", "terminated"], next_q, batch["discount"])
        q = self.q(obs, action)
        q_loss = (q - target.unsqueeze(-2)).square().mean(-1).sum(-1)
        self.minimize(q=q_loss.sum())
        metrics = {"q_loss": q_loss, "q": q.detach().mean((-2, -1))}

        if self.due(hp["policy_period"]):
            policy_action = self.policy(obs)
            q_policy = self.q(obs, policy_action, members=1).squeeze(-2)
            weight = hp["alpha"] / self.global_mean(q_policy.abs())
            bc_loss = (policy_action - action).square().mean(-1).mean(-1)
            policy_loss = bc_loss - weight * q_policy.mean(-1)
            self.minimize(policy=policy_loss.sum())
            metrics |= {"policy_loss": policy_loss, "bc_loss": bc_loss, "q_policy": q_policy.mean(-1)}
        return metrics

    def act(self, observation: Any) -> Tensor:
        """The policy's action, without noise."""
        return self.policy(self.normalizer(observation))

    def configure_optimizers(self) -> Any:
        """One Adam per network."""
        rate = self.hparams["learning_rate"]
        return self.named_optimizers(q=self.adam(self.q, rate), policy=self.adam(self.policy, rate))

    def configure_callbacks(self) -> Any:
        """Targets move with the policy."""
        return self.default_callbacks(SoftTargetUpdate(tau=0.005, period=self.hparams["policy_period"]))
