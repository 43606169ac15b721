"""Policies over [-1, 1]^A."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_offrl.networks.distributions import Gaussian, SquashedGaussian
from lightning_offrl.networks.encoders import Encoder
from lightning_offrl.networks.mlp import MLP
from lightning_offrl.rng import RandomStreams


class DeterministicPolicy(nn.Module):
    """``a = tanh(f(s))``.

    Args:
        encoder: gives the features of an observation.
        action_size: action dimensions A.
        hidden: widths of the hidden layers.
        dropout: rate after each hidden layer.
        draws: The random stream of the dropout masks.
    """

    def __init__(
        self,
        encoder: Encoder,
        action_size: int,
        hidden: Sequence[int],
        dropout: float = 0.0,
        draws: RandomStreams | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.mlp = MLP(encoder.size, hidden, action_size, dropout=dropout, draws=draws)

    def forward(self, observation: Tensor) -> Tensor:
        """Actions ``[*lead, B, A]``."""
        return torch.tanh(self.mlp(self.encoder(observation)))


class GaussianPolicy(nn.Module):
    """IQL's policy: tanh on the *mean* only, one learned log standard deviation per action dimension.

    Args:
        encoder: gives the features of an observation.
        action_size: action dimensions A.
        hidden: widths of the hidden layers.
        log_std_range: bounds of the log standard deviation (authors' code: -5, 2).
        dropout: rate after each hidden layer.
        draws: The random stream of the dropout masks.
    """

    def __init__(
        self,
        encoder: Encoder,
        action_size: int,
        hidden: Sequence[int],
        log_std_range: tuple[float, float] = (-5.0, 2.0),
        dropout: float = 0.0,
        draws: RandomStreams | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.log_std_range = encoder, log_std_range
        self.mlp = MLP(encoder.size, hidden, action_size, dropout=dropout, draws=draws)
        self.log_std = nn.Parameter(torch.zeros(action_size))

    def forward(self, observation: Tensor) -> Gaussian:
        """The density for each observation, ``[*lead, B, A]``."""
        log_std = self.log_std.clamp(*self.log_std_range).unsqueeze(-2)
        return Gaussian(torch.tanh(self.mlp(self.encoder(observation))), log_std)


class SquashedGaussianPolicy(nn.Module):
    """Mean and log standard deviation from the network, squashed by tanh: SAC's policy.

    Args:
        encoder: gives the features of an observation.
        action_size: action dimensions A.
        hidden: widths of the hidden layers.
        log_std_range: bounds of the log standard deviation (SAC: -20, 2).
        dropout: rate after each hidden layer.
        draws: The random stream of the dropout masks.
    """

    def __init__(
        self,
        encoder: Encoder,
        action_size: int,
        hidden: Sequence[int],
        log_std_range: tuple[float, float] = (-20.0, 2.0),
        dropout: float = 0.0,
        draws: RandomStreams | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.log_std_range = encoder, log_std_range
        self.mlp = MLP(encoder.size, hidden, 2 * action_size, dropout=dropout, draws=draws)

    def forward(self, observation: Tensor) -> SquashedGaussian:
        """The density for each observation, ``[*lead, B, A]``."""
        mean, log_std = self.mlp(self.encoder(observation)).chunk(2, dim=-1)
        return SquashedGaussian(mean, log_std.clamp(*self.log_std_range))
