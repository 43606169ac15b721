"""Q functions of several actions per observation, with one or more outputs per action, for either kind of action."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_offrl.batch import Spec
from lightning_offrl.networks.encoders import Encoder
from lightning_offrl.networks.mlp import MLP, full_precision


class ActionValue(nn.Module):
    """N independent functions of observation and continuous action.

    Args:
        encoder: gives the features of an observation.
        action_size: action dimensions A.
        hidden: widths of the hidden layers; none: linear.
        count: members N.
        outputs: m numbers per action.
        layer_norm: normalize hidden layers.
    """

    def __init__(
        self,
        encoder: Encoder,
        action_size: int,
        hidden: Sequence[int],
        count: int = 1,
        outputs: int = 1,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.mlp = MLP(encoder.size + action_size, hidden, outputs, lead=(count,), layer_norm=layer_norm)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """``[*lead, N, B, P, m]`` of P actions per observation, ``[*lead, B, P, A]``."""
        features = full_precision(self.encoder(observation)).unsqueeze(-2)
        features = features.expand(*action.shape[:-1], features.shape[-1])
        x = torch.cat([features, action.to(features.dtype)], dim=-1)
        return self.mlp(x.flatten(-3, -2).unsqueeze(-3)).unflatten(-2, action.shape[-3:-1])


class DiscreteActionValue(nn.Module):
    """N independent functions of observation and one of n actions.

    Args:
        encoder: gives the features of an observation.
        actions: number of actions n.
        hidden: widths of the hidden layers; none: linear, and tabular in one-hot observations.
        count: members N.
        outputs: m numbers per action.
        layer_norm: normalize hidden layers.
    """

    def __init__(
        self,
        encoder: Encoder,
        actions: int,
        hidden: Sequence[int],
        count: int = 1,
        outputs: int = 1,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.actions = encoder, actions
        self.mlp = MLP(encoder.size, hidden, actions * outputs, lead=(count,), layer_norm=layer_norm)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """``[*lead, N, B, P, m]`` of P actions per observation, ``[*lead, B, P]`` int64."""
        every = self.mlp(full_precision(self.encoder(observation)).unsqueeze(-3)).unflatten(-1, (self.actions, -1))
        index = action.unsqueeze(-3).unsqueeze(-1)
        return every.gather(-2, index.expand(*every.shape[:-2], action.shape[-1], every.shape[-1]))


def action_value(
    spec: Spec,
    encoder: Encoder,
    hidden: Sequence[int],
    *,
    count: int = 1,
    outputs: int = 1,
    layer_norm: bool = False,
) -> ActionValue | DiscreteActionValue:
    """The one that fits the actions of ``spec``."""
    kind = ActionValue if spec["action_kind"] == "box" else DiscreteActionValue
    return kind(encoder, spec["action_size"], hidden, count, outputs, layer_norm)
