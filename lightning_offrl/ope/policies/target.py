"""Policies to evaluate: they sample actions and, where they have a density, give that of an action.

Importance sampling needs a density ratio. A deterministic continuous policy has none, and neither has a Gaussian that
is clipped into the box: clipping puts atoms on its faces. Such policies return None as ``log_prob`` and carry a
sentence (``no_density``) that says what does apply. `ClippedNormal.truncated` and `smoothed` make proper ones of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_offrl.envs.action_masks import takes_mask
from lightning_offrl.errors import InputError

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_LOG_2 = math.log(2.0)
# The largest float32 below 1 is 1 - 2^-24: a logged tanh that rounded to 1 is taken to be there.
_OPEN_BOX = 1.0 - 2.0**-24
# Not far below, the normal distribution function underflows in float64.
_UNDERFLOW = -35.0

Parameters = Callable[[Any], tuple[Tensor, Tensor]]
"""Observations to mean and standard deviation, ``[B, A]`` each."""

DETERMINISTIC = (
    "the policy is deterministic, so its actions have no density and no importance weight; fitted Q evaluation (fqe) "
    "and model rollouts (mb) apply, or kernel importance sampling (kis), which evaluates a smoothed policy"
)
CLIPPED = (
    "the policy's Gaussian is clipped into the box, which puts atoms on the faces, so it has no density ratio; "
    "fitted Q evaluation (fqe) and model rollouts (mb) apply as it is, or evaluate its truncated normal instead"
)


@runtime_checkable
class TargetPolicy(Protocol):
    """A policy to evaluate, or the behavior that made the data. Actions are the scaled ones of `Episodes`.

    Attributes:
        is_deterministic: one action per observation.
        discrete: actions are int64 numbers.
    """

    is_deterministic: bool
    discrete: bool

    def sample(self, observation: Any, n: int, generator: torch.Generator) -> Tensor:
        """``[n, B, A]``, discrete ``[n, B]``; a deterministic policy gives its action n times."""

    def log_prob(self, observation: Any, action: Tensor) -> Tensor | None:
        """``[B]`` float64; None where there is no density."""

    def probabilities(self, observation: Any) -> Tensor | None:
        """``[B, n_actions]`` float64 of a discrete policy, else None.

        With an optional argument ``action_mask`` it is told which actions are legal, see `ope.policies.masked`.
        """


def without_density(policy: TargetPolicy) -> str:
    """The sentence that says why a policy has no density and what applies to it instead."""
    sentence = getattr(policy, "no_density", None)
    if sentence is not None:
        return str(sentence)
    return DETERMINISTIC if policy.is_deterministic else "the policy gives no density of its actions; fqe and mb apply"


class Deterministic:
    """Any function from observations to actions.

    Args:
        act: ``[B, ...]`` observations to scaled actions ``[B, A]``, or ``[B]`` int64; one of discrete actions may take
            ``action_mask``.
        n_actions: number of actions, for discrete ones; None: continuous. A discrete deterministic policy has
            probabilities (0 and 1), and so importance weights.
    """

    is_deterministic = True
    no_density = DETERMINISTIC

    def __init__(self, act: Callable[[Any], Tensor], n_actions: int | None = None) -> None:
        self.act, self.n_actions, self.discrete = act, n_actions, n_actions is not None

    @torch.no_grad()
    def sample(self, observation: Any, n: int, generator: torch.Generator) -> Tensor:
        """The action n times; the generator is not used."""
        action = self.act(observation)
        return action.unsqueeze(0).expand(n, *action.shape)

    @torch.no_grad()
    def log_prob(self, observation: Any, action: Tensor) -> Tensor | None:
        """0 for the policy's action and -inf for others if discrete, else None."""
        if not self.discrete:
            return None
        same = self.act(observation) == action
        return torch.where(same, 0.0, -torch.inf).double()

    @torch.no_grad()
    def probabilities(self, observation: Any, action_mask: Tensor | None = None) -> Tensor | None:
        """One-hot if discrete, else None."""
        if self.n_actions is None:
            return None
        return F.one_hot(_with_mask(self.act, observation, action_mask), self.n_actions).double()


class Discrete:
    """A policy over n actions.

    Args:
        table: observations to probabilities ``[B, n]``; may take ``action_mask``.
        is_deterministic: only a mark; the probabilities decide.
    """

    discrete = True

    def __init__(self, table: Callable[[Any], Tensor], is_deterministic: bool = False) -> None:
        self.table, self.is_deterministic = table, is_deterministic

    @torch.no_grad()
    def probabilities(self, observation: Any, action_mask: Tensor | None = None) -> Tensor:
        """``[B, n]`` float64."""
        p = _with_mask(self.table, observation, action_mask).double()
        if p.ndim != 2 or bool((p < 0.0).any()) or bool(((p.sum(-1) - 1.0).abs() > 1e-4).any()):
            raise InputError(
                f"the policy's probabilities must be [B, n], >= 0, and add up to one for each observation, got shape "
                f"{list(p.shape)} and sums from {float(p.sum(-1).min()):.6g} to {float(p.sum(-1).max()):.6g}"
            )
        return p

    def sample(self, observation: Any, n: int, generator: torch.Generator) -> Tensor:
        """``[n, B]`` int64."""
        drawn = torch.multinomial(self.probabilities(observation), n, replacement=True, generator=generator)
        return drawn.T.contiguous()

    def log_prob(self, observation: Any, action: Tensor) -> Tensor:
        """``[B]``; -inf for an action of probability 0."""
        return self.probabilities(observation).gather(-1, action.unsqueeze(-1)).squeeze(-1).log()


class Tabular(Discrete):
    """A policy of a finite process.

    Args:
        policy: ``[S, n]``, the probability of each action in each state. Observations are one-hot ``[B, S]`` or the
            numbers of states ``[B]``.
    """

    def __init__(self, policy: Any) -> None:
        self.policy = torch.as_tensor(policy, dtype=torch.float64)
        peaked = bool((self.policy.amax(-1) == 1.0).all())
        super().__init__(self._rows, is_deterministic=peaked)

    def _rows(self, observation: Tensor) -> Tensor:
        state = observation.argmax(-1) if observation.ndim > 1 else observation.long()
        return self.policy[state]


@dataclass(frozen=True)
class SquashedNormal:
    """``a = tanh(u)``, u normal: SAC's policy (Haarnoja et al., 2018, appendix C).

    Args:
        parameters: mean and standard deviation of u.
    """

    parameters: Parameters
    is_deterministic = False
    discrete = False

    @torch.no_grad()
    def sample(self, observation: Any, n: int, generator: torch.Generator) -> Tensor:
        """``[n, B, A]`` float64."""
        mean, std = _double(self.parameters(observation))
        return torch.tanh(mean + std * _draw(torch.randn, n, mean, generator))

    @torch.no_grad()
    def log_prob(self, observation: Any, action: Tensor) -> Tensor:
        """``[B]``; actions that rounded to +-1 in float32 are taken at +-(1 - 2^-24)."""
        mean, std = _double(self.parameters(observation))
        u = torch.atanh(action.double().clamp(-_OPEN_BOX, _OPEN_BOX))
        normal = -0.5 * ((u - mean) / std).square() - std.log() - _HALF_LOG_2PI
        return (normal - 2.0 * (_LOG_2 - u - F.softplus(-2.0 * u))).sum(-1)

    def probabilities(self, observation: Any) -> None:
        """None."""


@dataclass(frozen=True)
class TruncatedNormal:
    """``N(mean, std^2)`` restricted to [-1, 1] and renormalized, each dimension on its own: a density on the box.

    Args:
        parameters: mean (may lie outside the box) and standard deviation.
    """

    parameters: Parameters
    is_deterministic = False
    discrete = False

    @torch.no_grad()
    def sample(self, observation: Any, n: int, generator: torch.Generator) -> Tensor:
        """``[n, B, A]`` float64, by inversion of the distribution function, whose digits hold in the lower tail."""
        mean, std = _double(self.parameters(observation))
        low, high, sign = _lower_tail(mean, std)
        uniform = _draw(torch.rand, n, mean, generator).clamp(2.0**-53, 1.0 - 2.0**-53)
        # Not `ndtr`, which loses its digits below -6 and is exactly 0 below -8.3; `log_ndtr` keeps them everywhere.
        left, right = torch.special.log_ndtr(low).exp(), torch.special.log_ndtr(high).exp()
        near = torch.special.ndtri((left + uniform * (right - left)).clamp(1e-300, 1.0 - 2.0**-53))
        z = torch.where(high > _UNDERFLOW, near, _far_tail(uniform, low, high))
        z = torch.maximum(torch.minimum(z, high), low)
        return (mean + std * sign * z).clamp(-1.0, 1.0)

    @torch.no_grad()
    def log_prob(self, observation: Any, action: Tensor) -> Tensor:
        """``[B]``."""
        mean, std = _double(self.parameters(observation))
        low, high, _ = _lower_tail(mean, std)
        top = torch.special.log_ndtr(high)
        mass = top + torch.log1p(-torch.exp(torch.special.log_ndtr(low) - top))
        z = (action.double() - mean) / std
        return (-0.5 * z.square() - std.log() - _HALF_LOG_2PI - mass).sum(-1)

    def probabilities(self, observation: Any) -> None:
        """None."""


@dataclass(frozen=True)
class ClippedNormal:
    """A normal whose samples are clipped into the box, as IQL and AWAC act when they sample; it has no density.

    Args:
        parameters: mean and standard deviation before clipping.
    """

    parameters: Parameters
    is_deterministic = False
    discrete = False
    no_density = CLIPPED

    @torch.no_grad()
    def sample(self, observation: Any, n: int, generator: torch.Generator) -> Tensor:
        """``[n, B, A]`` float64."""
        mean, std = _double(self.parameters(observation))
        return (mean + std * _draw(torch.randn, n, mean, generator)).clamp(-1.0, 1.0)

    def log_prob(self, observation: Any, action: Tensor) -> None:
        """None: the faces of the box have probability, which no density expresses."""

    def probabilities(self, observation: Any) -> None:
        """None."""

    def truncated(self) -> TruncatedNormal:
        """The proper policy nearest in kind: samples outside the box are drawn again, not clipped."""
        return TruncatedNormal(self.parameters)


@dataclass(frozen=True)
class UniformMixture:
    """With probability ``epsilon`` a uniform action of the box, else the base policy's.

    Args:
        base: a continuous policy.
        epsilon: in [0, 1].
        action_size: A.
    """

    base: TargetPolicy
    epsilon: float
    action_size: int
    is_deterministic = False
    discrete = False

    @property
    def no_density(self) -> str:
        """The base's sentence: its atoms remain."""
        return without_density(self.base)

    @torch.no_grad()
    def sample(self, observation: Any, n: int, generator: torch.Generator) -> Tensor:
        """``[n, B, A]`` float64."""
        action = self.base.sample(observation, n, generator).double()
        other = 2.0 * torch.rand(action.shape, generator=generator, dtype=action.dtype) - 1.0
        chosen = torch.rand(action.shape[:-1], generator=generator) < self.epsilon
        return torch.where(chosen.unsqueeze(-1), other, action)

    @torch.no_grad()
    def log_prob(self, observation: Any, action: Tensor) -> Tensor | None:
        """``[B]``: log of the mixture's density, not of the component that happened."""
        base = self.base.log_prob(observation, action)
        if base is None or self.epsilon == 0.0:
            return base
        uniform = torch.full_like(base, math.log(self.epsilon) - self.action_size * _LOG_2)
        return torch.logaddexp(base + math.log1p(-self.epsilon), uniform) if self.epsilon < 1.0 else uniform

    def probabilities(self, observation: Any) -> None:
        """None."""


@dataclass(frozen=True)
class Smoothed(TruncatedNormal):
    """A deterministic continuous policy blurred by a Gaussian kernel; see `smoothed`."""

    bandwidth: float = 0.1


def smoothed(policy: TargetPolicy, bandwidth: float) -> Smoothed:
    """Kernel importance sampling: the policy with a Gaussian kernel of this width around its action.

    ``K_h(pi(s) - a) / pi_b(a|s)`` (Kallus and Zhou, 2018, eq. 4) is the importance weight of the policy
    ``a ~ N(pi(s), h^2 I)``, restricted to the box: the kernel integrates to one in every number of dimensions and at
    the box's faces. What is estimated is the value of *that* policy; it differs from the deterministic one's by O(h^2),
    and the variance per step grows as h^-A.

    Args:
        policy: deterministic and continuous.
        bandwidth: h, in units of the scaled action.

    Raises:
        InputError: another kind of policy, or a width that is not positive.
    """
    if policy.discrete or not policy.is_deterministic:
        raise InputError("kernel smoothing is for deterministic continuous policies; this one has a density of its own")
    if not bandwidth > 0.0:
        raise InputError(f"the kernel's bandwidth must be positive, got {bandwidth}")
    unused = torch.Generator()

    def parameters(observation: Any) -> tuple[Tensor, Tensor]:
        mean = policy.sample(observation, 1, unused)[0].double()
        return mean, torch.full_like(mean, bandwidth)

    return Smoothed(parameters, bandwidth)


def _with_mask(function: Callable[..., Tensor], observation: Any, mask: Tensor | None) -> Tensor:
    """The function's value, with the mask of legal actions where there is one and the function takes it."""
    return (
        function(observation) if mask is None or not takes_mask(function) else function(observation, action_mask=mask)
    )


def _double(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    mean, std = pair
    return mean.double(), std.double().expand_as(mean)


def _draw(kind: Callable[..., Tensor], n: int, like: Tensor, generator: torch.Generator) -> Tensor:
    return kind((n, *like.shape), generator=generator, dtype=torch.float64).to(like.device)


def _far_tail(uniform: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Standard normals between ``low`` and ``high``, both below -35, by inversion of Mills' expansion.

    ``log Phi(high - y) - log Phi(high) = -t - (t + t^2 / 2) / high^2 + O(high^-4)`` with ``t = |high| y`` (Abramowitz
    and Stegun, 26.2.12), which is solved for t to the same order.
    """
    far = high.clamp(max=_UNDERFLOW).abs()
    width = far * (high - low)
    log_ratio = width + (width + 0.5 * width.square()) / far.square()  # log Phi(high) - log Phi(low)
    exponent = -torch.log(uniform + (1.0 - uniform) * torch.exp(-log_ratio))
    return high - (exponent - (exponent + 0.5 * exponent.square()) / far.square()) / far


def _lower_tail(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The box's ends in standard deviations, mirrored (sign -1) so that the interval leans to the lower tail.

    There the normal distribution function is small, not one minus something small, and nothing cancels.
    """
    low, high = (-1.0 - mean) / std, (1.0 - mean) / std
    flip = low + high > 0.0
    sign = torch.where(flip, -1.0, 1.0).to(mean)
    return torch.where(flip, -high, low), torch.where(flip, -low, high), sign
