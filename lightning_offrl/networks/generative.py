"""Models of the behavior's actions: a conditional VAE, and small corrections of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn

from lightning_offrl.losses.divergences import kl_to_standard_normal
from lightning_offrl.networks.encoders import Encoder
from lightning_offrl.networks.mlp import MLP, full_precision


def _rows(features: Tensor, vectors: Tensor) -> Tensor:
    """Features ``[*lead, B, F]`` beside M vectors each, ``[*lead, B, M, L]``, as rows ``[*lead, B * M, F + L]``.

    Each state M times in a row, not in turns: row ``b * M + m`` is vector m of state b.
    """
    repeated = features.unsqueeze(-2).expand(*vectors.shape[:-1], features.shape[-1])
    return torch.cat([repeated, vectors], dim=-1).flatten(-3, -2)


class VAE(nn.Module):
    """A conditional variational auto-encoder of actions (Fujimoto, Meger and Precup, 2019, section 5.1).

    Encoder and decoder each see the observation; the decoder ends in tanh. The encoder's log standard deviation is
    clamped to [-4, 15].

    Args:
        encoder: gives the features of an observation.
        action_size: action dimensions A; the latent has 2 A.
        hidden: widths of the hidden layers (authors: two of 750).
    """

    def __init__(self, encoder: Encoder, action_size: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.latent = 2 * action_size
        self.posterior = MLP(encoder.size + action_size, hidden, 2 * self.latent)
        self.decoder = MLP(encoder.size + self.latent, hidden, action_size)

    def losses(self, observation: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The two parts of the negative evidence bound, as in BCQ's code.

        Args:
            observation: The observations of the data.
            action: The actions of the data, ``[*lead, B, A]``.
            noise: standard normal, ``[*lead, B, latent]``; the latent is *not* clipped here.

        Returns:
            Squared error of the reconstruction and KL divergence, each the mean over its dimensions, ``[*lead, B]``.
        """
        features = full_precision(self.encoder(observation))
        mean, log_std = self.posterior(torch.cat([features, action], dim=-1)).chunk(2, dim=-1)
        log_std = log_std.clamp(-4.0, 15.0)
        latent = mean + torch.exp(log_std) * noise
        reconstruction = torch.tanh(self.decoder(torch.cat([features, latent], dim=-1)))
        return (reconstruction - action).square().mean(-1), kl_to_standard_normal(mean, log_std) / self.latent

    def sample(self, observation: Tensor, noise: Tensor, squash: bool = True) -> Tensor:
        """Actions from the prior, its latent clipped to [-0.5, 0.5].

        Args:
            observation: ``[*lead, B, ...]``.
            noise: standard normal, ``[*lead, B, M, latent]``, or ``[M, latent]`` shared by all observations.
            squash: False gives what tanh is applied to.

        Returns:
            ``[*lead, B, M, A]``.
        """
        features = full_precision(self.encoder(observation))
        latent = noise.clamp(-0.5, 0.5).expand(*features.shape[:-1], *noise.shape[-2:])
        out = self.decoder(_rows(features, latent)).unflatten(-2, latent.shape[-3:-1])
        return torch.tanh(out) if squash else out


class Perturbation(nn.Module):
    """A correction of a proposed action within +-limit: ``clip(a + limit tanh(f(s, a)), -1, 1)`` (BCQ, section 5.1).

    Args:
        encoder: gives the features of an observation.
        action_size: action dimensions A.
        hidden: widths of the hidden layers.
        limit: Phi (authors' code: 0.05); 0 changes nothing.
    """

    def __init__(self, encoder: Encoder, action_size: int, hidden: Sequence[int], limit: float = 0.05) -> None:
        super().__init__()
        self.encoder, self.limit = encoder, limit
        self.mlp = MLP(encoder.size + action_size, hidden, action_size)

    def forward(self, observation: Tensor, actions: Tensor) -> Tensor:
        """Corrected actions, ``[*lead, B, M, A]`` like the proposed ones."""
        features = full_precision(self.encoder(observation))
        correction = self.mlp(_rows(features, actions)).unflatten(-2, actions.shape[-3:-1])
        return (actions + self.limit * torch.tanh(correction)).clamp(-1.0, 1.0)


def best_of(actions: Tensor, values: Tensor) -> Tensor:
    """The action with the largest of ``values``, ``[*lead, B, M]``, out of M per state, ``[*lead, B, M, A]``."""
    index = values.argmax(-1)[..., None, None].expand(*actions.shape[:-2], 1, actions.shape[-1])
    return actions.gather(-2, index).squeeze(-2)


@cache
def _noise(count: int, size: int) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(0))


def fixed_noise(count: int, size: int, like: Tensor) -> Tensor:
    """Standard normal numbers ``[count, size]`` that are the same in every call and process.

    A policy that takes the best of several samples acts with these: its action is a function of the observation alone,
    so evaluations and exported policies repeat exactly.
    """
    return _noise(count, size).to(device=like.device, dtype=like.dtype)
