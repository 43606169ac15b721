"""Action densities over [-1, 1]^A, written out: torch's classes are slow or inexact for what an algorithm needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_LOG_2 = math.log(2.0)


@dataclass
class Gaussian:
    """A diagonal normal that is *not* squashed; samples are clipped into the box by whoever acts.

    Its ``log_prob`` is the density before clipping. Clipping puts atoms on the faces of the box, so it is no density of
    the executed action there.

    Args:
        mean: ``[..., B, A]``.
        log_std: broadcastable to ``mean``.
    """

    mean: Tensor
    log_std: Tensor

    @property
    def mode(self) -> Tensor:
        """The mean, clipped to [-1, 1]."""
        return self.mean.clamp(-1.0, 1.0)

    def log_prob(self, action: Tensor) -> Tensor:
        """``sum_i log N(a_i; mean_i, std_i)``, ``[..., B]``."""
        z = (action - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * z.square() - self.log_std - _HALF_LOG_2PI).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """``mean + std * noise``, not clipped."""
        return self.mean + torch.exp(self.log_std) * noise


@dataclass
class SquashedGaussian:
    """``a = tanh(u)`` with ``u`` normal: a density on the open box (Haarnoja et al., 2018, appendix C).

    ``log pi(a) = sum_i [ log N(u_i) - 2 (log 2 - u_i - softplus(-2 u_i)) ]``, the last term being
    ``log(1 - tanh(u)^2)`` in a form that does not cancel.

    Args:
        mean: The mean of u, ``[..., B, A]``.
        log_std: The logarithm of the standard deviation of u, broadcastable to ``mean``.
    """

    mean: Tensor
    log_std: Tensor

    @property
    def mode(self) -> Tensor:
        """``tanh(mean)``, the action that is called greedy everywhere (the density's maximum lies further out)."""
        return torch.tanh(self.mean)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log density of actions from data, ``[..., B]``; they are clipped to +-(1 - 1e-6) to keep u finite."""
        return self.log_prob_of_u(torch.atanh(action.clamp(-1.0 + 1e-6, 1.0 - 1e-6)))

    def log_prob_of_u(self, u: Tensor) -> Tensor:
        """Log density of ``tanh(u)``, exact also where ``tanh(u)`` rounds to 1; ``[..., B]``."""
        z = (u - self.mean) * torch.exp(-self.log_std)
        normal = -0.5 * z.square() - self.log_std - _HALF_LOG_2PI
        return (normal - 2.0 * (_LOG_2 - u - F.softplus(-2.0 * u))).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """``tanh(mean + std * noise)``."""
        return torch.tanh(self.mean + torch.exp(self.log_std) * noise)

    def sample_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """A sample ``[..., B, A]`` and its log density ``[..., B]``, both differentiable."""
        u = self.mean + torch.exp(self.log_std) * noise
        return torch.tanh(u), self.log_prob_of_u(u)
