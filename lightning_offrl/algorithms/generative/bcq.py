"""Batch-Constrained Q-Learning (Fujimoto, Meger and Precup, 2019).

https://arxiv.org/abs/1812.02900, Algorithm 1

    VAE     min  E[ mean_i (a^_i - a_i)^2 + 1/2 mean_l KL(q(z_l | s, a) || N(0, 1)) ],  a^ decoded from z ~ q
    Q       min  sum_i E[ (y - Q_i(s, a))^2 ]
            y = r + gamma (1 - terminated) max_k [ lambda min_i Q'_i(s', b_k) + (1 - lambda) max_i Q'_i(s', b_k) ]
            b_k = xi'(s', a_k),  a_1..a_10 from the VAE
    policy  max  E[ Q_1(s, xi(s, a)) ],  a from the VAE;  xi(s, a) = clip(a + Phi tanh(f(s, a)), -1, 1)
    acts by the largest Q_1 among 100 samples xi(s, a)

One update runs the VAE, then Q (with the new VAE and the target of xi), then xi (with the new Q), then the targets
move; the VAE has no target. The critics are mixed for each sampled action, and then the maximum is taken. The latent is
clipped to [-0.5, 0.5] where actions are sampled, not where the VAE learns.

Checked against sfujim/BCQ (continuous_BCQ/BCQ.py). Difference: the 100 latents of acting are drawn once, with a fixed
seed, and used for every observation, so that the policy is deterministic (theirs draws anew at every step).
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.batch import Spec
from lightning_offrl.losses.values import soft_minimum, td_target
from lightning_offrl.networks.critics import Critics
from lightning_offrl.networks.generative import VAE, Perturbation, best_of, fixed_noise
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.target_update import SoftTargetUpdate


class BCQ(OfflineAlgorithm):
    """BCQ of continuous actions.

    Args:
        spec: the spaces, linked from the data.
        limit: Phi, the largest correction of a sampled action, for actions in [-1, 1] (authors: 0.05).
        minimum_weight: lambda, weight of the smaller critic (authors: 0.75).
        target_samples: actions per next observation (authors: 10).
        act_samples: actions to choose from when acting (authors: 100).
        learning_rate: The learning rate of all three Adams (authors: 1e-3).
        hidden: widths of the hidden layers of critics and perturbation (authors: 400, 300).
        vae_hidden: widths of the hidden layers of the VAE's encoder and decoder (authors: two of 750).
        **common: see `OfflineAlgorithm`; the authors do not normalize observations.
    """

    acting = ("normalizer", "vae", "policy", "q")

    counterpart = "DiscreteBCQ"
    remedy = "lower model.limit, or model.act_samples"

    def __init__(
        self,
        spec: Spec,
        *,
        limit: float = 0.05,
        minimum_weight: float = 0.75,
        target_samples: int = 10,
        act_samples: int = 100,
        learning_rate: float = 1e-3,
        hidden: tuple[int, ...] = (400, 300),
        vae_hidden: tuple[int, ...] = (750, 750),
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        actions = spec["action_size"]
        self.vae = self.network(lambda: VAE(self.encoder(), actions, vae_hidden))
        self.q = self.network(lambda: Critics(self.encoder(), actions, hidden))
        self.q_target = self.target_of("q")
        self.policy = self.network(lambda: Perturbation(self.encoder(), actions, hidden, limit))
        self.policy_target = self.target_of("policy")

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """VAE, Q, perturbation."""
        hp = self.hparams
        obs, action, next_obs = batch["observation"], batch["action"], batch["next", "observation"]
        rows, latent = action.shape[:-1], self.vae.latent

        reconstruction, kl = self.vae.losses(obs, action, self.draws.normal((*rows, latent), action))
        vae_loss = (reconstruction + 0.5 * kl).mean(-1)
        self.minimize(vae=vae_loss.sum())

        with torch.no_grad():
            noise = self.draws.normal((*rows, hp["target_samples"], latent), action, batch_dim=-3)
            next_actions = self.policy_target(next_obs, self.vae.sample(next_obs, noise))  # [*lead, B, M, A]
            next_q = soft_minimum(self.q_target.of_samples(next_obs, next_actions), hp["minimum_weight"]).amax(-1)
        target = td_target(batch["next", "reward"], batch["next", "terminated"], next_q, batch["discount"])
        q = self.q(obs, action)
        q_loss = (q - target.unsqueeze(-2)).square().mean(-1).sum(-1)
        self.minimize(q=q_loss.sum())

        with torch.no_grad():
            proposed = self.vae.sample(obs, self.draws.normal((*rows, 1, latent), action, batch_dim=-3))
        corrected = self.policy(obs, proposed).squeeze(-2)
        policy_loss = -self.q(obs, corrected, members=1).squeeze(-2).mean(-1)
        self.minimize(policy=policy_loss.sum())
        return {
            "vae_loss": vae_loss,
            "reconstruction": reconstruction.mean(-1),
            "kl": kl.mean(-1),
            "q_loss": q_loss,
            "policy_loss": policy_loss,
            "q": q.mean((-2, -1)),
        }

    def act(self, observation: Any) -> Tensor:
        """The sample with the largest Q_1, of ``act_samples`` with fixed latents."""
        obs = self.normalizer(observation)
        noise = fixed_noise(self.hparams["act_samples"], self.vae.latent, next(self.vae.parameters()))
        actions = self.policy(obs, self.vae.sample(obs, noise))
        return best_of(actions, self.q.of_samples(obs, actions).select(-3, 0))

    def configure_optimizers(self) -> Any:
        """One Adam per network."""
        rate = self.hparams["learning_rate"]
        return self.named_optimizers(
            vae=self.adam(self.vae, rate), q=self.adam(self.q, rate), policy=self.adam(self.policy, rate)
        )

    def configure_callbacks(self) -> Any:
        """Targets of critics and perturbation follow after every update."""
        return self.default_callbacks(SoftTargetUpdate(tau=0.005))
