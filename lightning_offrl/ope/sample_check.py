"""Does a policy draw its actions from the density that it states?

Values and models are fitted with a policy's *samples*, weights with its ``log_prob``. Where the two disagree, one of
them is wrong, and no estimate can tell which. With p the stated density and q any other one, of which we draw,

    E_p[ q / (p + q) ] = E_q[ p / (p + q) ]          both sides are the integral of p q / (p + q), within [0, 1]
    P_p( p < e q ) <= e                              so one sample where p is a billionth of q is no chance

hold in every number of dimensions, for mixtures as for products, and every term is bounded (the mean of -log p, to set
beside an entropy, is not). Per state, q is half a normal fitted to some samples of the policy and half uniform on the
box, and other samples are tested. Found are samples from elsewhere, be they few, and spreads 2.5 times too small or 1.5
times too large in one dimension, 1.4 and 1.2 times in three; smaller differences pass.

Actions within a millionth of a face of the box are not judged where the density rises tenfold or more over the last
thousandth, or is the same all over it: there may be a tanh that rounds to 1, alone or mixed with uniform actions. Of
our own mixture with uniform actions the base is checked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.draws import mix
from lightning_offrl.ope.policies import UniformMixture

if TYPE_CHECKING:
    from lightning_offrl.ope.policies import TargetPolicy

STATES, FITTED, TESTED = 256, 8, 8
# Differences below this are not told apart from none: a rare hit of q on a narrow p may not have happened yet.
ALLOWED, ERRORS = 0.01, 5.0
IMPOSSIBLE = 1e-9
_MARGIN, _NEAR, _STEEP, _FLAT = 1e-6, 1e-3, math.log(10.0), 1e-9
_INSIDE = 1.0 - 1e-7


@dataclass(frozen=True)
class SampleCheck:
    """What a policy's samples say of its density.

    Attributes:
        difference: mean of the left side less the right side over states, expected 0.
        error: its standard error.
        impossible: share of samples whose stated density is below a billionth of q.
    """

    difference: float
    error: float
    impossible: float

    @property
    def agree(self) -> bool:
        """Whether chance explains what was found."""
        return self.impossible == 0.0 and abs(self.difference) <= ALLOWED + ERRORS * self.error

    def reason(self, whose: str = "the policy") -> str | None:
        """Why no estimate with this policy may be shown, or None."""
        if self.agree:
            return None
        found = f"the gap is {self.difference:+.3f} +- {self.error:.3f} on a scale from -1 to 1, expected 0"
        if self.impossible > 0.0:
            found = f"{self.impossible:.1%} of the samples are where log_prob puts practically no density"
        return f"{whose} does not sample from the density that it states ({found}): sample or log_prob is wrong"


def sample_reasons(policy: TargetPolicy, episodes: Episodes) -> list[str]:
    """The sentence of `check_samples` as a list, empty where nothing is wrong or can be checked."""
    found = check_samples(policy, episodes)
    reason = None if found is None else found.reason()
    return [] if reason is None else [reason]


@torch.no_grad()
def check_samples(policy: TargetPolicy, episodes: Episodes, seed: int = 0) -> SampleCheck | None:
    """Compare samples with the density at logged states; it has random numbers of its own.

    Args:
        policy: any.
        episodes: the log.
        seed: of states and draws.

    Returns:
        None where there is nothing to compare: a deterministic policy of continuous actions, one without density, or
        one over masked actions, which is asked for probabilities alone.
    """
    if isinstance(policy, UniformMixture):
        return check_samples(policy.base, episodes, seed)
    masked = "action_mask" in episodes.data.keys()
    if masked or (policy.is_deterministic and not policy.discrete):
        return None
    generator = torch.Generator().manual_seed(mix(seed, 0x5A3B1E))
    logged = episodes.data[torch.randint(len(episodes), (STATES,), generator=generator)]
    observation = logged["observation"]
    if not policy.discrete and policy.log_prob(observation, logged["action"]) is None:
        return None
    left, right, impossible = (_discrete if policy.discrete else _continuous)(policy, observation, generator)
    gap = left - right
    return SampleCheck(float(gap.mean()), float(gap.std() / math.sqrt(len(gap))), float(impossible.double().mean()))


def _discrete(policy: TargetPolicy, observation: Any, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Left and right sides by state ``[B]``, the right one exact with a uniform q; impossible samples ``[n, B]``."""
    p = policy.probabilities(observation)
    assert p is not None
    p = p.double()
    q = 1.0 / p.shape[-1]
    taken = p.gather(-1, policy.sample(observation, TESTED, generator).T).T
    return (q / (taken + q)).mean(0), (p * q / (p + q)).sum(-1), taken < IMPOSSIBLE * q


def _continuous(policy: TargetPolicy, observation: Any, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Left and right sides by state ``[B]``, and impossible samples ``[n, B]``."""
    drawn = policy.sample(observation, FITTED + TESTED, generator)
    kind, fit, tested = drawn.dtype, drawn[:FITTED].double(), drawn[FITTED:].double()
    centre, spread = fit.mean(0), fit.std(0)
    spread = torch.where(spread == 0.0, _NEAR, spread.clamp(min=_MARGIN))
    size = centre.shape[-1]

    def log_p(action: Tensor) -> Tensor:
        found = policy.log_prob(observation, action.clamp(-_INSIDE, _INSIDE).to(kind))
        assert found is not None
        return found.double().nan_to_num(nan=-math.inf)

    def log_ratio(action: Tensor) -> tuple[Tensor, Tensor]:
        """``log p - log q`` of ``[B, A]``, and whether the action is judged."""
        at_face = action.abs() > 1.0 - _MARGIN
        by = [log_p(torch.where(at_face, action.sign() * (1.0 - gap), action)) for gap in (_MARGIN, _NEAR)]
        inside = (action.abs() <= 1.0).all(-1)
        rise = by[0] - by[1]
        judged = inside & ~(at_face.any(-1) & ((rise > _STEEP) | (rise.abs() < _FLAT)))
        normal = torch.distributions.Normal(centre, spread).log_prob(action).sum(-1)
        uniform = torch.where(inside, -size * math.log(2.0), -math.inf)
        return log_p(action) - (torch.logaddexp(normal, uniform) - math.log(2.0)), judged

    own = [log_ratio(action) for action in tested]
    left = torch.stack([torch.where(judged, torch.sigmoid(-ratio), 0.0) for ratio, judged in own])
    impossible = torch.stack([judged & (ratio < math.log(IMPOSSIBLE)) for ratio, judged in own])
    others = []
    for _ in range(TESTED):
        normal = centre + spread * torch.randn(centre.shape, generator=generator, dtype=torch.float64)
        uniform = 2.0 * torch.rand(centre.shape, generator=generator, dtype=torch.float64) - 1.0
        first = torch.rand(len(centre), 1, generator=generator) < 0.5
        ratio, judged = log_ratio(torch.where(first, normal, uniform))
        others.append(torch.where(judged, torch.sigmoid(ratio), 0.0))
    return left.mean(0), torch.stack(others).mean(0), impossible
