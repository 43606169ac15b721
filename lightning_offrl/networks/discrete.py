"""Networks over n discrete actions: an ensemble of Q functions, and a categorical policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_offrl.losses.discrete import legal, of_action
from lightning_offrl.networks.encoders import Encoder
from lightning_offrl.networks.mlp import MLP, full_precision
from lightning_offrl.rng import RandomStreams


class DiscreteCritics(nn.Module):
    """N independent Q functions, each giving the values of all n actions at once.

    Args:
        encoder: gives the features of an observation.
        actions: number of actions n.
        hidden: widths of the hidden layers.
        count: members N.
        layer_norm: normalize hidden layers.
    """

    def __init__(
        self, encoder: Encoder, actions: int, hidden: Sequence[int], count: int = 2, layer_norm: bool = False
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.mlp = MLP(encoder.size, hidden, actions, lead=(count,), layer_norm=layer_norm)

    def forward(self, observation: Tensor) -> Tensor:
        """Q values ``[*lead, N, B, n]``."""
        return self.mlp(full_precision(self.encoder(observation)).unsqueeze(-3))


@dataclass
class Categorical:
    """Probabilities of n actions.

    Args:
        logits: ``[..., B, n]``, -inf for illegal actions.
    """

    logits: Tensor

    @property
    def mode(self) -> Tensor:
        """The most likely action, ``[..., B]`` int64; the first of equals."""
        return self.logits.argmax(-1)

    @property
    def log_probs(self) -> Tensor:
        """The log-probabilities of all actions, ``[..., B, n]``."""
        return torch.log_softmax(self.logits, dim=-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """The log-probability of each action (``[..., B]`` int64), ``[..., B]``."""
        return of_action(self.log_probs, action)

    def sample(self, uniform: Tensor) -> Tensor:
        """An action ``[..., B]`` from uniform numbers in [0, 1) of the logits' shape, by the Gumbel-max rule."""
        gumbel = -torch.log(-torch.log(uniform.clamp(min=torch.finfo(uniform.dtype).tiny)))
        return (self.logits + gumbel).argmax(-1)


class CategoricalPolicy(nn.Module):
    """A policy over n actions.

    Args:
        encoder: gives the features of an observation.
        actions: number of actions n.
        hidden: widths of the hidden layers.
        dropout: rate after each hidden layer.
        draws: The random stream of the dropout masks.
    """

    def __init__(
        self,
        encoder: Encoder,
        actions: int,
        hidden: Sequence[int],
        dropout: float = 0.0,
        draws: RandomStreams | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.mlp = MLP(encoder.size, hidden, actions, dropout=dropout, draws=draws)

    def logits(self, observation: Tensor) -> Tensor:
        """The values of all actions, illegal or not, ``[*lead, B, n]``."""
        return self.mlp(self.encoder(observation))

    def forward(self, observation: Tensor, action_mask: Tensor | None = None) -> Categorical:
        """The distribution over legal actions; ``action_mask`` is bool ``[*lead, B, n]``, True for legal."""
        return Categorical(legal(self.logits(observation), action_mask))
