"""Double reinforcement learning: density ratios correct values. Experimental, as `lightning_offrl.ope.direct.dice` is.

Kallus and Uehara, 2022, "Efficiently breaking the curse of horizon in off-policy evaluation with double reinforcement
learning", https://arxiv.org/abs/1909.05850, the estimator of the discounted value of a process in its stationary form:

    V = E_{s0}[ V(s0) ] + E_D[ zeta (r + gamma (1 - terminated) V(s') - Q(s, a)) ] / (1 - gamma)

With V = E_pi Q it is right where *either* zeta = d_pi / d_D or Q is, and its first-order error is the product of both
errors. Both are fitted to other episodes than those that they are averaged over, so that the fits' noise is not
correlated with what they are applied to (cross-fitting); then resampling episodes alone gives valid intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lightning_offrl.data.clusters import ClusterLabels, numbered
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.errors import InputError
from lightning_offrl.ope.direct.dice import RatioEstimate, dice
from lightning_offrl.ope.direct.estimate import DirectEstimate, check_estimand, first_masks, first_observations
from lightning_offrl.ope.direct.fqe import FQESettings, fqe
from lightning_offrl.ope.weighting.importance import PerEpisodeTerms
from lightning_offrl.ope.weighting.intervals import Resamples
from lightning_offrl.rng import mix

if TYPE_CHECKING:
    from lightning_offrl.ope.policies.target import TargetPolicy

KEPT = 20_000_000
"""Largest table of resamples, in numbers, that is kept for paired differences."""


class CorrectedEstimate(DirectEstimate):
    """A `DirectEstimate` of one number: ``q``, ``v`` and ``per_initial_state`` differ by fold and are not kept."""

    has_values: ClassVar[bool] = False


def corrected_terms(
    episodes: Episodes,
    ratio: Tensor,
    q: Tensor,
    next_v: Tensor,
    first_v: Tensor,
    *,
    discount: float,
    normalized: bool = True,
) -> PerEpisodeTerms:
    """The estimate as a sum of two ratios of means over episodes, the value and its correction.

    Args:
        episodes: logged, with raw rewards; T rows, E episodes.
        ratio: ``[T]``, zeta of every logged pair.
        q: ``[T]``, Q of every logged pair.
        next_v: ``[T]``, V at every next observation; not used where the step ended the episode.
        first_v: ``[E]``, V at the first observation of every episode.
        discount: gamma, below 1.
        normalized: divide the correction by the mass of the ratios, ``E_D[zeta c]`` with
            ``c = 1 + terminated gamma / (1 - gamma)``, which is 1 where they are right.

    Raises:
        InputError: a discount of 1.
    """
    if not 0.0 <= discount < 1.0:
        raise InputError(f"density ratios need a discount in [0, 1), got {discount}")
    ended = episodes.data["next", "terminated"]
    ahead = torch.where(ended, 0.0, discount * next_v.double())
    error = episodes.data["next", "reward"].double() + ahead - q.double()
    weight = ratio.double() * (1.0 + ended * discount / (1.0 - discount)) if normalized else torch.ones_like(error)
    row = episodes.episode_index()

    def total(x: Tensor) -> Tensor:
        return torch.zeros(episodes.n_episodes, dtype=torch.float64).index_add_(0, row, x)

    top, bottom = total(ratio.double() * error) / (1.0 - discount), total(weight)
    return PerEpisodeTerms(torch.stack([first_v.double(), top], -1), torch.stack([torch.ones_like(bottom), bottom], -1))


def drl(
    policy: TargetPolicy,
    episodes: Episodes,
    *,
    discount: float,
    folds: int = 2,
    updates: int = 20_000,
    values: Callable[[Episodes], DirectEstimate] | None = None,
    ratios: Callable[[Episodes], RatioEstimate] | None = None,
    n_boot: int = 1000,
    clusters: ClusterLabels | None = None,
    seed: int = 0,
) -> CorrectedEstimate:
    """The value of a policy by values and density ratios, each fitted to the other folds of the episodes.

    Args:
        policy: The policy to evaluate.
        episodes: The data, with raw rewards.
        discount: gamma, below 1.
        folds: The number of parts of the episodes; each part is left out of its own fits.
        updates: The number of gradient updates of each fit.
        values: A function from episodes to a fit with ``q`` and ``v``; None: `fqe` with LayerNorm.
        ratios: A function from episodes to a fit with ``ratio``; None: `dice`.
        n_boot: The number of resamples of episodes, with the fits held fixed.
        clusters: ``[E]`` labels of the cluster of each episode: whole clusters are resampled, and each is in one fold.
        seed: The seed of all random numbers.

    Returns:
        The estimate with the flags of all fits: either kind of fit may be wrong without harm, but nothing says which
        one is right.

    Raises:
        InputError: a discount of 1, fewer than two folds, or fewer episodes than folds.
    """
    if discount >= 1.0:
        raise InputError(f"density ratios need a discount below 1, got {discount}")
    check_estimand(policy, episodes, discount)
    together = numbered(clusters, episodes.n_episodes)
    units = episodes.n_episodes if together is None else together.n
    if not 2 <= folds <= units:
        unit = "episode" if together is None else "cluster"
        raise InputError(
            f"cross-fitting needs at least 2 folds and {'an' if together is None else 'a'} {unit} in each, got {folds} "
            f"folds of {units} {unit}s"
        )
    how: dict[str, Any] = {"discount": discount, "updates": updates, "seed": seed}
    values = values or (lambda train: fqe(policy, train, settings=FQESettings(layer_norm=True), **how))
    ratios = ratios or (lambda train: dice(policy, train, **how))
    order = torch.randperm(units, generator=torch.Generator().manual_seed(mix(seed, 0xF01D)))
    of_unit = torch.empty_like(order)
    of_unit[order] = torch.arange(len(order)) % folds
    of_episode = of_unit if together is None else together.spread(of_unit)
    of_row = of_episode[episodes.episode_index()]
    ratio, q, next_v = torch.zeros(3, len(episodes), dtype=torch.float64).unbind(0)
    first_v, flags = torch.zeros(episodes.n_episodes, dtype=torch.float64), list[str]()
    for fold in range(folds):
        train = episodes.select((of_episode != fold).nonzero().squeeze(-1))
        test = episodes.select((of_episode == fold).nonzero().squeeze(-1))
        value, weight = values(train), ratios(train)
        ratio[of_row == fold] = weight.ratio(test).double()
        q[of_row == fold] = value.q(test).double()
        masked = "action_mask" in test.data.keys()
        after, before = (test.data["next", "action_mask"], first_masks(test)) if masked else (None, None)
        next_v[of_row == fold] = _values(value, test.data["next", "observation"], after)
        first_v[of_episode == fold] = _values(value, first_observations(test), before)
        flags += [f"{fit.method} without fold {fold + 1}: {flag}" for fit in (value, weight) for flag in fit.flags]
    terms = corrected_terms(episodes, ratio, q, next_v, first_v, discount=discount)
    share = 1.0 + episodes.data["next", "terminated"].double() * discount / (1.0 - discount)
    mass = float((ratio * share).mean())
    if not 0.9 <= mass <= 1.1:
        flags.append(f"on episodes that they have not seen the ratios add up to {mass:.3g} where 1 is right")
    resamples = Resamples(episodes.n_episodes, n_boot, mix(seed, 0xD81) % 2**31, together)
    small = n_boot * episodes.n_episodes <= KEPT

    def none(*_: Any) -> Tensor:
        raise InputError("drl estimates a value, not values of states; take q and v from fqe or lstd")

    return CorrectedEstimate(
        method="drl",
        value=terms.value,
        per_initial_state=torch.full((episodes.n_episodes,), torch.nan, dtype=torch.float64),
        q=none,
        v=none,
        replicates=resamples.values(terms),
        counts=torch.cat(list(resamples.counts())) if small else None,
        diagnostics={
            "uncorrected": float(first_v.mean()),
            "correction": terms.value - float(first_v.mean()),
            "mass": mass,
            "largest_ratio": float(ratio.max()),
            "folds": float(folds),
        },
        flags=flags,
        clusters=None if together is None else together.index,
    )


def _values(fit: DirectEstimate, observation: Any, mask: Tensor | None) -> Tensor:
    """V of the observations, ``[B]`` float64; the fit is given the legal actions where the log has them."""
    return (fit.v(observation) if mask is None else fit.v(observation, mask)).double()
