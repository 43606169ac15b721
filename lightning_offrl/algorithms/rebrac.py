"""ReBRAC (Tarasov, Kurenkov, Nikulin and Kolesnikov, 2023): TD3+BC with penalties on both sides.

https://arxiv.org/abs/2305.09836

    Q       min  sum_i E[ (r + gamma (1 - terminated) (min_j Q'_j(s', b) - beta_2 |b - a'|^2) - Q_i(s, a))^2 ]
            b = clip(pi'(s') + clip(sigma noise, -c, c), -1, 1);  a' the data's next action
    policy  min  E[ beta_1 |pi(s) - a|^2 - lambda min_j Q_j(s, pi(s)) ],  lambda = 1 / mean |min_j Q_j(s, pi(s))|

Squares are summed over the action's dimensions (TD3+BC takes their mean). Critics are layer-normalized, the policy is
not; both have three hidden layers. One update runs Q; every second one the policy, and then the targets move.

Checked against tinkoff-ai/ReBRAC (rebrac.py). Differences: theirs moves the target policy towards the weights from
*before* the policy's step; initial weights are uniform throughout; at an episode's last step, where there is no next
action, this page compares with the action itself (theirs with the first action of the next episode in the file).
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.batch import TRANSITION, Spec
from lightning_offrl.losses.values import td_target
from lightning_offrl.networks.critics import Critics
from lightning_offrl.networks.policies import DeterministicPolicy
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.target_update import SoftTargetUpdate


class ReBRAC(OfflineAlgorithm):
    """TD3+BC with penalties in actor and critic.

    Args:
        spec: the spaces, linked from the data.
        policy_penalty: beta_1 (authors: 0.0005 to 1, by dataset).
        critic_penalty: beta_2 (authors: 0 to 1, by dataset).
        policy_noise: standard deviation of the target policy's noise (authors: 0.2).
        noise_clip: bound of that noise (authors: 0.5).
        policy_period: gradient updates per update of policy and targets (authors: 2).
        learning_rate: The learning rate of both Adams (authors: 1e-3 for locomotion with batches of 1,024), except for
        policy_learning_rate: The learning rate of the policy; None takes ``learning_rate`` (authors' AntMaze: 3e-4).
        q_learning_rate: The learning rate of the critics; None takes ``learning_rate`` (authors' AntMaze: 5e-5).
        hidden: widths of the hidden layers (authors: three of 256).
        **common: see `OfflineAlgorithm`; the authors do not normalize observations.
    """

    needs = (*TRANSITION, ("next", "action"))
    remedy = "raise model.policy_penalty and model.critic_penalty"

    def __init__(
        self,
        spec: Spec,
        *,
        policy_penalty: float = 0.01,
        critic_penalty: float = 0.01,
        policy_noise: float = 0.2,
        noise_clip: float = 0.5,
        policy_period: int = 2,
        learning_rate: float = 1e-3,
        policy_learning_rate: float | None = None,
        q_learning_rate: float | None = None,
        hidden: tuple[int, ...] = (256, 256, 256),
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        actions = spec["action_size"]
        self.q = self.network(lambda: Critics(self.encoder(), actions, hidden, layer_norm=True))
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
            penalty = (next_action - batch["next", "action"]).square().sum(-1)
            next_q = self.q_target(next_obs, next_action).amin(-2) - hp["critic_penalty"] * penalty
        target = td_target(batch["next", "reward"], batch["next", "terminated"], next_q, batch["discount"])
        q = self.q(obs, action)
        q_loss = (q - target.unsqueeze(-2)).square().mean(-1).sum(-1)
        self.minimize(q=q_loss.sum())
        metrics = {"q_loss": q_loss, "q": q.detach().mean((-2, -1)), "critic_penalty": penalty.mean(-1)}

        if self.due(hp["policy_period"]):
            policy_action = self.policy(obs)
            q_policy = self.q(obs, policy_action).amin(-2)
            distance = (policy_action - action).square().sum(-1).mean(-1)
            policy_loss = hp["policy_penalty"] * distance - q_policy.mean(-1) / self.global_mean(q_policy.abs())
            self.minimize(policy=policy_loss.sum())
            metrics |= {"policy_loss": policy_loss, "policy_penalty": distance, "q_policy": q_policy.mean(-1)}
        return metrics

    def act(self, observation: Any) -> Tensor:
        """The policy's action, without noise."""
        return self.policy(self.normalizer(observation))

    def configure_optimizers(self) -> Any:
        """One Adam per network."""
        hp = self.hparams
        q_rate, policy_rate = (
            hp["learning_rate"] if given is None else given
            for given in (hp["q_learning_rate"], hp["policy_learning_rate"])
        )
        return self.named_optimizers(q=self.adam(self.q, q_rate), policy=self.adam(self.policy, policy_rate))

    def configure_callbacks(self) -> Any:
        """Targets move with the policy."""
        return self.default_callbacks(SoftTargetUpdate(tau=0.005, period=self.hparams["policy_period"]))
