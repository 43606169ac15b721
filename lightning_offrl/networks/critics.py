"""Value networks: an ensemble of Q functions, and V."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_offrl.networks.encoders import Encoder
from lightning_offrl.networks.mlp import MLP, full_precision


class Critics(nn.Module):
    """N independent Q functions of observation and continuous action, computed in one batched product.

    Args:
        encoder: gives the features of an observation.
        action_size: action dimensions A.
        hidden: widths of the hidden layers.
        count: members N.
        layer_norm: normalize hidden layers.
    """

    def __init__(
        self, encoder: Encoder, action_size: int, hidden: Sequence[int], count: int = 2, layer_norm: bool = False
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.mlp = MLP(encoder.size + action_size, hidden, 1, lead=(count,), layer_norm=layer_norm)

    def forward(self, observation: Tensor, action: Tensor, members: int | None = None) -> Tensor:
        """Q values ``[*lead, N, B]`` of actions ``[*lead, B, A]``, or of each member's own ``[*lead, N, B, A]``.

        ``members`` computes the first so many only.
        """
        features = full_precision(self.encoder(observation))
        if action.ndim > features.ndim:
            features = features.unsqueeze(-3).expand(*action.shape[:-1], features.shape[-1])
            x = torch.cat([features, action], dim=-1)
        else:
            x = torch.cat([features, action], dim=-1).unsqueeze(-3)
        return self.mlp(x, members).squeeze(-1)

    def of_samples(self, observation: Tensor, actions: Tensor) -> Tensor:
        """Q values ``[*lead, N, B, M]`` of M actions per observation, ``[*lead, B, M, A]``."""
        *lead, batch, samples, size = actions.shape
        repeated = observation.repeat_interleave(samples, dim=len(lead))  # each state M times in a row, not in turns
        return self(repeated, actions.reshape(*lead, batch * samples, size)).unflatten(-1, (batch, samples))


class Value(nn.Module):
    """A state-value function V.

    Args:
        encoder: gives the features of an observation.
        hidden: widths of the hidden layers.
    """

    def __init__(self, encoder: Encoder, hidden: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.mlp = MLP(encoder.size, hidden, 1)

    def forward(self, observation: Tensor) -> Tensor:
        """Values ``[*lead, B]``."""
        return self.mlp(self.encoder(observation)).squeeze(-1)
