"""Conservative Q-Learning on SAC (Kumar, Zhou, Tucker and Levine, 2020).

https://arxiv.org/abs/2006.04779

    Q       min  sum_i E[ (y - Q_i(s, a))^2 ] + weight E[ T log sum_k exp(Q_i(s, a_k) / T) / p(a_k) - Q_i(s, a) ]  eq. 4
            a_k: N actions uniform, N from pi(s), N from pi(s'), all valued at s; p their densities
            y = r + gamma (1 - terminated) min_j Q'_j(s', a'),  a' ~ pi(s')
    policy  max  E[ min_j Q_j(s, b) - alpha log pi(b|s) ],  b ~ pi(s)
    alpha   min  E[ -log(alpha) (log pi(b|s) - A) ]
    multiplier (if ``lagrange_gap`` is given)  max  multiplier (weight difference - gap),  at most 1e6  eq. 30

One update runs alpha; then the policy (with the new alpha), Q and the multiplier, all three differentiated at the same
values; then the targets move. That is the order of the authors' code. ``regularizer`` chooses the push-down term:

    "h"        CQL(H), as above
    "rho"      CQL(rho) with rho = the current policy: T log of the mean of exp(Q / T) over N actions from pi(s)
    "authors2" their ``min_q_version 2``: the three groups and the data's action, without densities

Not the authors': ``imitation`` adds - log pi(a|s) to the policy's loss, with Q scaled by its mean size as in TD3+BC.

Checked against aviralkumar2907/CQL (d4rl/rlkit/torch/sac/cql.py). Differences: for T other than 1 only Q is divided by
T, not the log densities; the gap is compared with the term as it stands, log 3N included, as there; no BC warm-up.
d3rlpy takes the policy's mean action in the target, which on Hopper learns sooner (benchmarks/README.md); to have that,
return ``self.q_target(next_obs, next_pi.mode).amin(-2)`` from ``next_value``.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.batch import Spec
from lightning_offrl.losses.conservative import soft_maximum, uniform_log_density
from lightning_offrl.losses.values import td_target
from lightning_offrl.networks.critics import Critics
from lightning_offrl.networks.distributions import SquashedGaussian
from lightning_offrl.networks.policies import SquashedGaussianPolicy
from lightning_offrl.networks.scalars import PositiveScalar
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.target_update import SoftTargetUpdate


class CQL(OfflineAlgorithm):
    """Conservative Q-Learning of continuous actions.

    Args:
        spec: the spaces, linked from the data.
        weight: The weight of the conservative term (authors: 5 or 10; CORL: 10, Adroit 1).
        regularizer: "h", "rho" or "authors2", see the module's first lines.
        lagrange_gap: tau of eq. 30, in the authors' units (``weight * difference``); None: fixed weight.
        samples: N actions per group and state (authors: 10).
        temperature: T (authors: 1).
        max_target: take the maximum over N sampled next actions, then the smaller critic (authors: AntMaze).
        backup_entropy: subtract alpha log pi(a'|s') in the target (authors: no).
        min_difference: lower bound of each sample's difference before the mean (CORL's AntMaze: -200).
        imitation: lambda of - log pi(a|s) in the policy's loss; 0: off, and Q is not scaled.
        policy_learning_rate: The learning rate of policy and temperature (authors: 1e-4; CORL: 3e-5).
        q_learning_rate: The learning rate of critics and multiplier (authors: 3e-4).
        hidden: widths of the hidden layers (authors: three of 256).
        **common: see `OfflineAlgorithm`; the authors do not normalize observations, CORL does for locomotion.
    """

    counterpart = "DiscreteCQL"
    remedy = "raise model.weight"

    def __init__(
        self,
        spec: Spec,
        *,
        weight: float = 10.0,
        regularizer: Literal["h", "rho", "authors2"] = "h",
        lagrange_gap: float | None = None,
        samples: int = 10,
        temperature: float = 1.0,
        max_target: bool = False,
        backup_entropy: bool = False,
        min_difference: float | None = None,
        imitation: float = 0.0,
        policy_learning_rate: float = 1e-4,
        q_learning_rate: float = 3e-4,
        hidden: tuple[int, ...] = (256, 256, 256),
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        actions = spec["action_size"]
        self.q = self.network(lambda: Critics(self.encoder(), actions, hidden))
        self.q_target = self.target_of("q")
        self.policy = self.network(lambda: SquashedGaussianPolicy(self.encoder(), actions, hidden))
        self.alpha = self.network(PositiveScalar)
        self.multiplier = None if lagrange_gap is None else self.network(PositiveScalar)

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Temperature; then policy, Q and multiplier together."""
        hp = self.hparams
        obs, action, next_obs = batch["observation"], batch["action"], batch["next", "observation"]
        pi, next_pi = self.policy(obs), self.policy(next_obs)

        new_action, log_prob = pi.sample_with_log_prob(self.draws.normal(action.shape, action))
        alpha_loss = -self.alpha.log_value * (log_prob.detach().mean(-1) - action.shape[-1])
        self.minimize(alpha=alpha_loss.sum())
        alpha = self.alpha().detach().unsqueeze(-1)

        q_policy = self.q(obs, new_action).amin(-2)
        policy_loss = (alpha * log_prob - q_policy).mean(-1)
        if hp["imitation"] > 0.0:
            scaled = q_policy.mean(-1) / self.global_mean(q_policy.abs())
            policy_loss = (alpha * log_prob).mean(-1) - scaled - hp["imitation"] * pi.log_prob(action).mean(-1)

        target = td_target(
            batch["next", "reward"],
            batch["next", "terminated"],
            self.next_value(next_obs, next_pi, alpha),
            batch["discount"],
        )
        q = self.q(obs, action)
        td_loss = (q - target.unsqueeze(-2)).square().mean(-1).sum(-1)
        difference = self.push_down(batch, q, pi, next_pi) - self.push_up(batch, q)  # [*lead, N, B]
        if hp["min_difference"] is not None:
            difference = difference.clamp(min=hp["min_difference"])
        difference = hp["weight"] * difference.mean(-1)  # [*lead, N]
        losses = {"policy": policy_loss.sum()}
        conservative, metrics = difference.sum(-1), {}
        if self.multiplier is not None:
            multiplier = self.multiplier().clamp(max=1e6)
            excess = difference - hp["lagrange_gap"]
            losses["multiplier"] = -0.5 * (multiplier * excess.detach().sum(-1)).sum()
            conservative = multiplier.detach() * excess.sum(-1)
            metrics["multiplier"] = multiplier
        self.minimize(**losses, q=(td_loss + conservative).sum())
        return {
            "td_loss": td_loss,
            "difference": difference.mean(-1) / hp["weight"] if hp["weight"] else difference.mean(-1),
            "policy_loss": policy_loss,
            "alpha": alpha.squeeze(-1),
            "entropy": -log_prob.mean(-1),
            "q": q.mean((-2, -1)),
            "q_policy": q_policy.mean(-1),
            **metrics,
        }

    @torch.no_grad()
    def next_value(self, next_obs: Tensor, next_pi: SquashedGaussian, alpha: Tensor) -> Tensor:
        """The values that the target bootstraps from, ``[*lead, B]``."""
        if self.hparams["max_target"]:
            actions, _ = self.sample(next_pi)
            return self.q_target.of_samples(next_obs, actions).amax(-1).amin(-2)  # the best action of each critic first
        next_action, log_prob = next_pi.sample_with_log_prob(self.draws.normal(next_pi.mean.shape, next_pi.mean))
        value = self.q_target(next_obs, next_action).amin(-2)
        return value - alpha * log_prob if self.hparams["backup_entropy"] else value

    def push_down(self, batch: TensorDictBase, q: Tensor, pi: SquashedGaussian, next_pi: SquashedGaussian) -> Tensor:
        """The soft maximum of each critic over sampled actions, ``[*lead, N, B]``."""
        hp = self.hparams
        own, own_density = self.sample(pi)
        if hp["regularizer"] == "rho":
            values = self.values_of(batch, own, calibrated=hp["samples"])
            return soft_maximum(values, None, hp["temperature"]) - hp["temperature"] * math.log(hp["samples"])
        after, after_density = self.sample(next_pi)
        anywhere = 2.0 * self.draws.uniform(own.shape, own, batch_dim=-3) - 1.0
        values = self.values_of(batch, torch.cat([own, after, anywhere], dim=-2), calibrated=2 * hp["samples"])
        if hp["regularizer"] == "authors2":
            return soft_maximum(torch.cat([values, q.unsqueeze(-1)], dim=-1), None, hp["temperature"])
        uniform = torch.full_like(own_density, uniform_log_density(own.shape[-1]))
        return soft_maximum(values, torch.cat([own_density, after_density, uniform], dim=-1), hp["temperature"])

    def push_up(self, batch: TensorDictBase, q: Tensor) -> Tensor:
        """The values that are raised: Q of the data's actions, ``[*lead, N, B]``."""
        return q

    def values_of(self, batch: TensorDictBase, actions: Tensor, calibrated: int) -> Tensor:
        """Q of sampled actions ``[*lead, B, M, A]`` at s, ``[*lead, N, B, M]``; Cal-QL bounds the first of them."""
        return self.q.of_samples(batch["observation"], actions)

    @torch.no_grad()
    def sample(self, pi: SquashedGaussian) -> tuple[Tensor, Tensor]:
        """N actions per state ``[*lead, B, N, A]`` and their log densities ``[*lead, B, N]``."""
        each = SquashedGaussian(pi.mean.unsqueeze(-2), pi.log_std.unsqueeze(-2))
        *lead, size = pi.mean.shape
        noise = self.draws.normal((*lead, self.hparams["samples"], size), pi.mean, batch_dim=-3)
        return each.sample_with_log_prob(noise)

    def act(self, observation: Any) -> Tensor:
        """``tanh(mean)`` of the policy."""
        return self.policy(self.normalizer(observation)).mode

    def configure_optimizers(self) -> Any:
        """One Adam per network."""
        slow, fast = self.hparams["policy_learning_rate"], self.hparams["q_learning_rate"]
        optimizers = {"alpha": self.adam(self.alpha, slow), "policy": self.adam(self.policy, slow)}
        if self.multiplier is not None:
            optimizers["multiplier"] = self.adam(self.multiplier, fast)
        return self.named_optimizers(None, **optimizers, q=self.adam(self.q, fast))

    def configure_callbacks(self) -> Any:
        """Polyak averaging after every update."""
        return self.default_callbacks(SoftTargetUpdate(tau=0.005))
