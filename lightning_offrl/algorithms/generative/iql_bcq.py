"""IQL's values with BCQ's VAE: of several actions that the data supports, the one that IQL values most.

Kostrikov, Nair and Levine, 2021, https://arxiv.org/abs/2110.06169;
Fujimoto, Meger and Precup, 2019, https://arxiv.org/abs/1812.02900

    V    min  E[ L_tau(Q'(s, a) - V(s)) ],  L_tau(u) = |tau - 1[u < 0]| u^2                    IQL, eq. 5
    VAE  min  E[ mean_i (a^_i - a_i)^2 + 1/2 mean_l KL(q(z_l | s, a) || N(0, 1)) ]             BCQ, section 5.1
    Q    min  sum_i E[ (r + gamma (1 - terminated) V(s') - Q_i(s, a))^2 ]                      IQL, eq. 6
    acts by the largest min_i Q_i(s, a_k) among M samples a_k of the VAE

Q' is the smaller of two target critics. One update runs V, the VAE, Q (with the new V), then the targets move: IQL's
losses as on its page, with the VAE in the place of the policy. There is no perturbation and no policy to train, so no
loss evaluates an action that is not in the data. Latents are clipped to [-0.5, 0.5] when sampling.

A hybrid of this package: there is no authors' code. The latents of acting are fixed, as in BCQ's page.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.batch import Spec
from lightning_offrl.losses.values import expectile, td_target
from lightning_offrl.networks.critics import Critics, Value
from lightning_offrl.networks.generative import VAE, best_of, fixed_noise
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.target_update import SoftTargetUpdate


class IQLBCQ(OfflineAlgorithm):
    """IQL that acts through BCQ's VAE.

    Args:
        spec: the spaces, linked from the data.
        expectile: tau of IQL's eq. 5 (IQL: 0.7, AntMaze 0.9).
        act_samples: M, actions to choose from when acting; 1 imitates (BCQ: 100).
        learning_rate: The learning rate of V and Q (IQL: 3e-4).
        vae_learning_rate: The learning rate of the VAE (BCQ: 1e-3).
        hidden: widths of the hidden layers of V and Q (IQL: two of 256).
        vae_hidden: widths of the hidden layers of the VAE's encoder and decoder (BCQ: two of 750).
        **common: see `OfflineAlgorithm`.
    """

    acting = ("normalizer", "vae", "q")

    counterpart = "DiscreteBCQIQL"
    remedy = "lower model.act_samples, or model.expectile"

    def __init__(
        self,
        spec: Spec,
        *,
        expectile: float = 0.7,
        act_samples: int = 100,
        learning_rate: float = 3e-4,
        vae_learning_rate: float = 1e-3,
        hidden: tuple[int, ...] = (256, 256),
        vae_hidden: tuple[int, ...] = (750, 750),
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        actions = spec["action_size"]
        self.q = self.network(lambda: Critics(self.encoder(), actions, hidden))
        self.q_target = self.target_of("q")
        self.v = self.network(lambda: Value(self.encoder(), hidden))
        self.vae = self.network(lambda: VAE(self.encoder(), actions, vae_hidden))

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """V, VAE, Q."""
        obs, action = batch["observation"], batch["action"].clamp(-1.0 + 1e-5, 1.0 - 1e-5)

        with torch.no_grad():
            q_min = self.q_target(obs, action).amin(-2)  # [N, B] -> [B]
        v_loss = expectile(q_min - self.v(obs), self.hparams["expectile"]).mean(-1)
        self.minimize(v=v_loss.sum())

        noise = self.draws.normal((*action.shape[:-1], self.vae.latent), action)
        reconstruction, kl = self.vae.losses(obs, action, noise)
        vae_loss = (reconstruction + 0.5 * kl).mean(-1)
        self.minimize(vae=vae_loss.sum())

        with torch.no_grad():
            next_v = self.v(batch["next", "observation"])
        target = td_target(batch["next", "reward"], batch["next", "terminated"], next_v, batch["discount"])
        q_loss = (self.q(obs, action) - target.unsqueeze(-2)).square().mean(-1).sum(-1)
        self.minimize(q=q_loss.sum())
        return {
            "v_loss": v_loss,
            "vae_loss": vae_loss,
            "reconstruction": reconstruction.mean(-1),
            "q_loss": q_loss,
            "q": q_min.mean(-1),
        }

    def act(self, observation: Any) -> Tensor:
        """The VAE's sample with the largest min-Q, of ``act_samples`` with fixed latents."""
        obs = self.normalizer(observation)
        noise = fixed_noise(self.hparams["act_samples"], self.vae.latent, next(self.vae.parameters()))
        actions = self.vae.sample(obs, noise)
        return best_of(actions, self.q.of_samples(obs, actions).amin(-3))

    def configure_optimizers(self) -> Any:
        """One Adam per network."""
        rate = self.hparams["learning_rate"]
        return self.named_optimizers(
            v=self.adam(self.v, rate),
            vae=self.adam(self.vae, self.hparams["vae_learning_rate"]),
            q=self.adam(self.q, rate),
        )

    def configure_callbacks(self) -> Any:
        """Polyak averaging after every update."""
        return self.default_callbacks(SoftTargetUpdate(tau=0.005))
