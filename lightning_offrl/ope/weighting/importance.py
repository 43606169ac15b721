"""Importance sampling on padded episodes: naive, IS, WIS, PDIS and CWPDIS as one form.

With w_t the product of ratios up to step t and G the discounted return of an episode:

    naive    mean G                                            value of the behavior, not of the policy
    is       mean w_H G                                        Precup, Sutton and Singh, 2000, section 2
    wis      mean w_H G / mean w_H                             the same, self-normalized
    pdis     sum_t mean gamma^t w_t r_t                        Precup et al., 2000, section 3
    cwpdis   sum_t mean gamma^t w_t r_t / mean w_t             Thomas, 2015, section 3.10

Each is a sum of ratios of means over episodes (`PerEpisodeTerms`), which gives its value, its terms per episode, its
delta-method error and its bootstrap by one formula each. ``is`` and ``pdis`` are unbiased where the data have support;
``wis`` and ``cwpdis`` are consistent, and of a single episode they are exactly the behavior's return.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_offrl.data.clusters import Clusters
from lightning_offrl.errors import InputError
from lightning_offrl.ope.weighting.trajectories import Trajectories
from lightning_offrl.training.old_code import takes_old_keywords

WeightRule = Callable[[Tensor], Tensor]
"""Log weights to modified ones, elementwise: clipping, switching, shrinkage (`ope.weighting.bandits`)."""


@dataclass(frozen=True)
class PerEpisodeTerms:
    """An estimate ``sum_k mean_i numerator[i, k] / mean_i denominator[i, k]`` over episodes i.

    Attributes:
        numerator: ``[E, K]`` float64.
        denominator: ``[E, K]`` or broadcastable; constant over episodes where nothing is normalized.
    """

    numerator: Tensor
    denominator: Tensor

    @property
    def n(self) -> int:
        """Number of episodes E."""
        return self.numerator.shape[0]

    @property
    def normalized(self) -> bool:
        """Whether the denominator differs between episodes."""
        return self.denominator.shape[0] > 1

    @property
    def value(self) -> float:
        """The estimate; NaN where a normalizer is 0, because no logged episode has any weight."""
        return float(self._ratios(self.numerator.mean(0), self.denominator.mean(0)).sum())

    @property
    def per_episode(self) -> Tensor:
        """``[E]``, what each episode contributes; its mean is `value`."""
        return self._ratios(self.numerator, self.denominator.mean(0)).sum(-1)

    @property
    def influence(self) -> Tensor:
        """``[E]``, how the estimate moves with the weight of each episode (delta method); its mean is 0."""
        top, bottom = self.numerator.mean(0), self.denominator.mean(0)
        ratio = self._ratios(top, bottom)
        return self._ratios(self.numerator - ratio * self.denominator, bottom).sum(-1)

    @property
    def standard_error(self) -> float:
        """Delta-method standard error, with n - 1; NaN for one episode."""
        if self.n < 2:
            return float("nan")
        return float((self.influence.square().sum() / (self.n - 1) / self.n).sqrt())

    @property
    def left_out(self) -> Tensor:
        """``[E]``, the estimate without each episode (jackknife), two or more episodes."""
        top = (self.numerator.sum(0) - self.numerator) / (self.n - 1)
        rest = (self.denominator.sum(0) - self.denominator) / (self.n - 1) if self.normalized else self.denominator
        return self._ratios(top, rest).sum(-1)

    def resampled(self, counts: Tensor) -> Tensor:
        """The estimate in bootstrap samples, each with its own normalizer, ``[R]``.

        Args:
            counts: ``[R, E]`` float64, how often each episode was drawn; rows may add up to other numbers than E.
        """
        return self._resampled_ratios(counts)[0].sum(-1)

    def resampled_errors(self, counts: Tensor) -> Tensor:
        """The standard error in each bootstrap sample, ``[R]``; arguments as of `resampled`."""
        ratio, bottom = self._resampled_ratios(counts)
        inverse = torch.where(bottom == 0.0, torch.nan, 1.0 / bottom).expand_as(ratio)
        # influence of episode i in sample r is  sum_k (num_ik - ratio_rk den_ik) / bottom_rk
        influence = inverse @ self.numerator.T - (inverse * ratio) @ self.denominator.expand_as(self.numerator).T
        return ((counts * influence.square()).sum(-1) / max(self.n - 1, 1) / self.n).sqrt()

    def _resampled_ratios(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        drawn = counts.sum(-1, keepdim=True)
        top = counts @ self.numerator / drawn
        bottom = counts @ self.denominator / drawn if self.normalized else self.denominator.expand_as(top[:1])
        return self._ratios(top, bottom), bottom

    def clustered(self, clusters: Clusters | None) -> PerEpisodeTerms:
        """The same estimate with a row for each cluster: sums over its episodes, a mean divided by their number.

        Its errors are those of clusters that are independent, whatever holds within: `standard_error` is the sandwich
        of Liang and Zeger, 1986, https://doi.org/10.1093/biomet/73.1.13, times C / (C - 1), and `left_out` leaves out
        clusters. None: itself.
        """
        if clusters is None:
            return self
        return PerEpisodeTerms(clusters.sums(self.numerator), clusters.sums(self.denominator.expand_as(self.numerator)))

    def select(self, rows: Tensor) -> PerEpisodeTerms:
        """The same estimate from some episodes."""
        return PerEpisodeTerms(self.numerator[rows], self.denominator[rows] if self.normalized else self.denominator)

    def combined(self, other: PerEpisodeTerms) -> PerEpisodeTerms:
        """The sum of two estimates from the same episodes."""
        left, right = (t.denominator.expand_as(t.numerator) for t in (self, other))
        return PerEpisodeTerms(torch.cat([self.numerator, other.numerator], -1), torch.cat([left, right], -1))

    def scaled(self, factor: float) -> PerEpisodeTerms:
        """The estimate times a number."""
        return PerEpisodeTerms(factor * self.numerator, self.denominator)

    @staticmethod
    def _ratios(top: Tensor, bottom: Tensor) -> Tensor:
        return torch.where(bottom == 0.0, torch.nan, top / bottom)


def plain(values: Tensor) -> PerEpisodeTerms:
    """A mean of ``[E]`` numbers as `PerEpisodeTerms`."""
    return PerEpisodeTerms(values.unsqueeze(-1), torch.ones(1, 1, dtype=values.dtype))


def naive(data: Trajectories) -> PerEpisodeTerms:
    """Mean return of the log: the value of the behavior, shown beside every estimate."""
    return plain(data.returns)


@takes_old_keywords
def importance_sampling(
    data: Trajectories, *, normalized: bool = False, rule: WeightRule | None = None
) -> PerEpisodeTerms:
    """``is``, or ``wis`` if normalized: whole returns times the weight of the whole episode.

    Args:
        data: with weights.
        normalized: divide by the mean weight instead of by 1.
        rule: changes the log weights.

    Raises:
        InputError: there are no weights.
    """
    log_weight = _ruled(data.log_weights[:, -1:], rule)
    return weighted(log_weight, data.returns.unsqueeze(-1), normalized)


@takes_old_keywords
def per_decision(data: Trajectories, *, normalized: bool = False, rule: WeightRule | None = None) -> PerEpisodeTerms:
    """``pdis``, or ``cwpdis`` if normalized: each reward times the weight up to its own step.

    Args:
        data: with weights.
        normalized: divide by the mean weight of each step, ended episodes included at their last weight.
        rule: changes the log weights.

    Raises:
        InputError: there are no weights.
    """
    return weighted(_ruled(data.log_weights, rule), data.factors * data.reward, normalized)


def weighted(log_weight: Tensor, value: Tensor, normalized: bool) -> PerEpisodeTerms:
    """``exp(log_weight) * value`` per episode and column, normalized by the mean weight of the column or not.

    The largest log weight of each column is taken out before exp (where nothing is normalized only if it is positive,
    and put back as the denominator), so that long products neither overflow nor all vanish.

    Args:
        log_weight: ``[E, K]``, may hold -inf.
        value: ``[E, K]``.
        normalized: divide by mean weights.
    """
    top = log_weight.amax(0, keepdim=True)
    shift = torch.where(top.isfinite(), top, 0.0)
    if not normalized:
        shift = shift.clamp(min=0.0)
    weight = torch.exp(log_weight - shift)
    return PerEpisodeTerms(weight * value, weight if normalized else torch.exp(-shift))


def kernel_bandwidth(action: Tensor, n: int) -> float:
    """Scott's rule ``sd * n ** (-1 / (A + 4))`` for the kernel of `lightning_offrl.ope.policies.target.smoothed`.

    Args:
        action: ``[T, A]`` logged actions, scaled.
        n: number of episodes.

    Raises:
        InputError: discrete actions.
    """
    if action.ndim != 2:
        raise InputError("a kernel over actions needs continuous actions [T, A]; discrete ones have probabilities")
    spread = float(action.double().std(0, correction=0).square().mean().sqrt())
    return spread * n ** (-1.0 / (action.shape[1] + 4))


def _ruled(log_weight: Tensor, rule: WeightRule | None) -> Tensor:
    return log_weight if rule is None else rule(log_weight)
