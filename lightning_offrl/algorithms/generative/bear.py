"""BEAR: bootstrapping error accumulation reduction (Kumar, Fu, Tucker and Levine, 2019).

https://arxiv.org/abs/1906.00949, Algorithm 1

    VAE         min  E[ mean_i (a^_i - a_i)^2 + 1/2 mean_l KL(q(z_l | s, a) || N(0, 1)) ],  a^ decoded from z ~ q
    Q           min  sum_i E[ (y - Q_i(s, a))^2 ]
                y = r + gamma (1 - terminated) max_k [ 0.75 min_i Q'_i(s', b_k) + 0.25 max_i Q'_i(s', b_k) ]
                b_1..b_10 ~ pi'(s')
    policy      max  E[ min_i mean_k Q_i(s, a_k) - multiplier MMD(s) ],  a_k ~ pi(s)
                MMD(s) = sqrt(MMD^2 + 1e-6) between samples of the policy and of the VAE
    multiplier  max  E[ multiplier (MMD(s) - threshold) ],  log multiplier kept in [-5, 10]
    acts by the largest Q_1 among 100 samples of the policy

One update runs the VAE, then Q, then policy and multiplier (both differentiated at the same values), then the targets
of critics and policy move. For the first ``warm_up`` updates the policy's loss is the MMD alone. The MMD compares
actions *before* tanh, of both: after it the gradient vanishes where they saturate. The policy's noise in its own loss
is clipped to [-0.5, 0.5], as are the VAE's latents.

Checked against aviralkumar2907/BEAR (algos.py, class BEAR). Differences: the multiplier starts at 1 (theirs at the
exponential of a random normal); the policy's log standard deviation is clamped to [-20, 2]; no penalty on the critics'
spread, which their main.py leaves out by default; a warm-up in updates (theirs 20 calls of ``train``); 100 samples to
act, with fixed noise (theirs 10, fresh). Learning rates are those of the D4RL evaluation.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.batch import Spec
from lightning_offrl.losses.divergences import squared_mmd
from lightning_offrl.losses.values import soft_minimum, td_target
from lightning_offrl.networks.critics import Critics
from lightning_offrl.networks.distributions import SquashedGaussian
from lightning_offrl.networks.generative import VAE, best_of, fixed_noise
from lightning_offrl.networks.policies import SquashedGaussianPolicy
from lightning_offrl.networks.scalars import PositiveScalar
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.target_update import SoftTargetUpdate


class BEAR(OfflineAlgorithm):
    """BEAR with a learned multiplier.

    Args:
        spec: the spaces, linked from the data.
        kernel: The kernel of the MMD (D4RL evaluation: laplacian for hopper and walker2d, gaussian for halfcheetah).
        bandwidth: sigma of the kernel, not squared (authors: 20).
        threshold: epsilon, the MMD aimed at (authors: 0.05).
        mmd_samples: actions of policy and of VAE in the MMD, and of the policy in its value (authors: 4 to 10).
        warm_up: gradient updates in which the policy only follows the MMD (D4RL evaluation: 40,000).
        target_samples: actions per next observation (authors: 10).
        act_samples: actions to choose from when acting (D4RL evaluation: 100).
        policy_learning_rate: D4RL evaluation: 1e-4.
        q_learning_rate: D4RL evaluation: 3e-4.
        vae_learning_rate: D4RL evaluation: 3e-4.
        multiplier_learning_rate: authors: 1e-3.
        hidden: widths of the hidden layers of critics and policy (authors: 400, 300).
        vae_hidden: widths of the hidden layers of the VAE's encoder and decoder (authors: two of 750).
        **common: see `OfflineAlgorithm`; the authors do not normalize observations.
    """

    acting = ("normalizer", "policy", "q")
    remedy = "lower model.threshold"

    def __init__(
        self,
        spec: Spec,
        *,
        kernel: Literal["laplacian", "gaussian"] = "laplacian",
        bandwidth: float = 20.0,
        threshold: float = 0.05,
        mmd_samples: int = 10,
        warm_up: int = 40_000,
        target_samples: int = 10,
        act_samples: int = 100,
        policy_learning_rate: float = 1e-4,
        q_learning_rate: float = 3e-4,
        vae_learning_rate: float = 3e-4,
        multiplier_learning_rate: float = 1e-3,
        hidden: tuple[int, ...] = (400, 300),
        vae_hidden: tuple[int, ...] = (750, 750),
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        actions = spec["action_size"]
        self.vae = self.network(lambda: VAE(self.encoder(), actions, vae_hidden))
        self.q = self.network(lambda: Critics(self.encoder(), actions, hidden))
        self.q_target = self.target_of("q")
        self.policy = self.network(lambda: SquashedGaussianPolicy(self.encoder(), actions, hidden))
        self.policy_target = self.target_of("policy")
        self.multiplier = self.network(PositiveScalar)

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """VAE, Q, then policy and multiplier."""
        hp = self.hparams
        obs, action, next_obs = batch["observation"], batch["action"], batch["next", "observation"]
        *rows, size = action.shape
        latent, count = self.vae.latent, hp["mmd_samples"]

        reconstruction, kl = self.vae.losses(obs, action, self.draws.normal((*rows, latent), action))
        vae_loss = (reconstruction + 0.5 * kl).mean(-1)
        self.minimize(vae=vae_loss.sum())

        with torch.no_grad():
            noise = self.draws.normal((*rows, hp["target_samples"], size), action, batch_dim=-3)
            next_actions = torch.tanh(before_tanh(self.policy_target(next_obs), noise))
            next_q = soft_minimum(self.q_target.of_samples(next_obs, next_actions), 0.75).amax(-1)
        target = td_target(batch["next", "reward"], batch["next", "terminated"], next_q, batch["discount"])
        q = self.q(obs, action)
        q_loss = (q - target.unsqueeze(-2)).square().mean(-1).sum(-1)
        self.minimize(q=q_loss.sum())

        with torch.no_grad():
            latents = self.draws.normal((*rows, count, latent), action, batch_dim=-3)
            behavior = self.vae.sample(obs, latents, squash=False)
        noise = self.draws.normal((*rows, count, size), action, batch_dim=-3).clamp(-0.5, 0.5)
        own = before_tanh(self.policy(obs), noise)  # [*lead, B, M, A]
        mmd = (squared_mmd(own, behavior, hp["bandwidth"], hp["kernel"]) + 1e-6).sqrt().mean(-1)
        multiplier = self.multiplier()
        policy_loss = multiplier.detach() * mmd
        q_policy = self.q.of_samples(obs, torch.tanh(own)).mean(-1).amin(-2).mean(-1)
        if self.updates >= hp["warm_up"]:
            policy_loss = policy_loss - q_policy
        multiplier_loss = -multiplier * (mmd.detach() - hp["threshold"])
        self.minimize(policy=policy_loss.sum(), multiplier=multiplier_loss.sum())
        with torch.no_grad():
            self.multiplier.log_value.clamp_(-5.0, 10.0)
        return {
            "vae_loss": vae_loss,
            "q_loss": q_loss,
            "policy_loss": policy_loss,
            "mmd": mmd,
            "multiplier": multiplier,
            "q": q.mean((-2, -1)),
            "q_policy": q_policy,
        }

    def act(self, observation: Any) -> Tensor:
        """The sample with the largest Q_1, of ``act_samples`` with fixed noise."""
        obs = self.normalizer(observation)
        pi = self.policy(obs)
        noise = fixed_noise(self.hparams["act_samples"], pi.mean.shape[-1], pi.mean)
        actions = torch.tanh(before_tanh(pi, noise))
        return best_of(actions, self.q.of_samples(obs, actions).select(-3, 0))

    def configure_optimizers(self) -> Any:
        """One Adam per network."""
        hp = self.hparams
        return self.named_optimizers(
            vae=self.adam(self.vae, hp["vae_learning_rate"]),
            q=self.adam(self.q, hp["q_learning_rate"]),
            policy=self.adam(self.policy, hp["policy_learning_rate"]),
            multiplier=self.adam(self.multiplier, hp["multiplier_learning_rate"]),
        )

    def configure_callbacks(self) -> Any:
        """Targets of critics and policy follow after every update."""
        return self.default_callbacks(SoftTargetUpdate(tau=0.005))


def before_tanh(pi: SquashedGaussian, noise: Tensor) -> Tensor:
    """Samples of u, ``[*lead, B, M, A]``, from noise of that shape, or ``[M, A]`` shared by all observations."""
    return pi.mean.unsqueeze(-2) + torch.exp(pi.log_std).unsqueeze(-2) * noise
