"""Mixtures of densities over the box [-1, 1]^A, for behaviors that are several policies at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_offrl.networks.distributions import SquashedGaussian
from lightning_offrl.networks.encoders import Encoder
from lightning_offrl.networks.mlp import MLP

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@dataclass
class TruncatedGaussian:
    """A diagonal normal restricted to the closed box and renormalized, each dimension on its own.

    Args:
        mean: The mean of the normal, ``[..., B, A]``; may lie outside the box.
        log_std: broadcastable to ``mean``.
    """

    mean: Tensor
    log_std: Tensor

    def log_prob(self, action: Tensor) -> Tensor:
        """``sum_i log N(a_i) - log(Phi(high_i) - Phi(low_i))``, ``[..., B]``, differentiable."""
        std = torch.exp(self.log_std)
        low, high = (-1.0 - self.mean) / std, (1.0 - self.mean) / std
        # both ends into the lower tail, where the logarithm of Phi keeps its digits
        flip = low + high > 0.0
        low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
        top = torch.special.log_ndtr(high)
        mass = top + torch.log1p(-torch.exp(torch.special.log_ndtr(low) - top))
        z = (action - self.mean) / std
        return (-0.5 * z.square() - self.log_std - _HALF_LOG_2PI - mass).sum(-1)


@dataclass
class BoxMixture:
    """M components over the box, each of independent dimensions.

    Args:
        logits: The logits of the components, ``[..., B, M]``.
        mean: ``[..., B, M, A]``, before squashing or truncation.
        log_std: The logarithm of the standard deviations, of the same shape.
        squashed: components are tanh of normals, else truncated normals.
    """

    logits: Tensor
    mean: Tensor
    log_std: Tensor
    squashed: bool

    def log_prob(self, action: Tensor) -> Tensor:
        """Log density of actions ``[..., B, A]``, ``[..., B]``."""
        kind = SquashedGaussian if self.squashed else TruncatedGaussian
        each = kind(self.mean, self.log_std).log_prob(action.unsqueeze(-2))
        return torch.logsumexp(torch.log_softmax(self.logits, -1) + each, -1)


class MixturePolicy(nn.Module):
    """Logits, means and log standard deviations of a `BoxMixture` from one network.

    Args:
        encoder: gives the features of an observation.
        action_size: action dimensions A.
        hidden: widths of the hidden layers.
        components: M.
        squashed: tanh of normals, else truncated normals.
        log_std_range: bounds of the log standard deviations.
    """

    def __init__(
        self,
        encoder: Encoder,
        action_size: int,
        hidden: Sequence[int],
        components: int = 1,
        squashed: bool = True,
        log_std_range: tuple[float, float] = (-5.0, 2.0),
    ) -> None:
        super().__init__()
        self.encoder, self.components, self.squashed, self.log_std_range = encoder, components, squashed, log_std_range
        self.mlp = MLP(encoder.size, hidden, components * (1 + 2 * action_size))

    def forward(self, observation: Tensor) -> BoxMixture:
        """The density for each observation, ``[*lead, B]``."""
        out = self.mlp(self.encoder(observation)).unflatten(-1, (self.components, -1))
        logits, numbers = out[..., 0], out[..., 1:]
        mean, log_std = numbers.chunk(2, dim=-1)
        return BoxMixture(logits, mean, log_std.clamp(*self.log_std_range), self.squashed)
