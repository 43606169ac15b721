"""Which of several policies is better, and by how many standard errors: sentences made from numbers.

Every standard error here is over episodes. It says how well a trained policy's mean return is known, not how much the
next training run would differ: for that, train several seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_offrl.reports.formatting import short_number

CLEAR = 3.0
"""Standard errors from which a difference is called clear; a nan or smaller one is not."""


def standard_error(values: Sequence[float] | np.ndarray) -> float:
    """Standard error of the mean, ``std / sqrt(n)`` with the unbiased std; nan for fewer than two values.

    >>> round(standard_error([1.0, 2.0, 3.0]), 4)
    0.5774
    """
    array = np.asarray(values, dtype=np.float64)
    return float(array.std(ddof=1) / np.sqrt(len(array))) if len(array) > 1 else float("nan")


@dataclass(frozen=True)
class Difference:
    """A difference of mean returns.

    Attributes:
        mean: first minus second.
        error: its standard error.
    """

    mean: float
    error: float

    @property
    def z(self) -> float:
        """The difference in standard errors; 0 where the error is not known."""
        if math.isnan(self.error):
            return 0.0
        return self.mean / self.error if self.error > 0 else math.copysign(math.inf, self.mean) if self.mean else 0.0

    @property
    def clear(self) -> bool:
        """Whether the first is better by at least `CLEAR` standard errors."""
        return self.z >= CLEAR

    @property
    def in_words(self) -> str:
        """The difference in standard errors.

        >>> Difference(10.0, 2.5).in_words
        '4.0 standard errors'
        """
        if math.isinf(self.z):
            return "every episode by the same amount"
        return f"{abs(self.z):.{0 if abs(self.z) >= 10 else 1}f} standard errors"


def difference(first: Sequence[float], second: Sequence[float], *, paired: bool) -> Difference:
    """Mean of ``first`` minus mean of ``second`` with its standard error.

    Args:
        first: returns ``[E]``.
        second: returns ``[E']``.
        paired: episode i of both began in the same state (the same seed), so the error is that of the E differences;
            otherwise ``sqrt(se_1^2 + se_2^2)``.

    Raises:
        ValueError: paired samples of different sizes.

    >>> difference([2.0, 4.0, 6.0], [1.0, 3.0, 5.0], paired=True).error
    0.0
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if not paired:
        return Difference(float(a.mean() - b.mean()), math.hypot(standard_error(first), standard_error(second)))
    if a.shape != b.shape:
        raise ValueError(f"paired samples need one value per episode in both, got {len(a)} and {len(b)}")
    return Difference(float((a - b).mean()), standard_error((a - b).tolist()))


@dataclass(frozen=True)
class EvaluatedPolicy:
    """A trained policy and the return of each evaluation episode ``[E]``."""

    name: str
    returns: Sequence[float]

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))


@dataclass(frozen=True)
class ReturnComparison:
    """What may be said of trained policies beside their data.

    Attributes:
        best: name of the policy with the highest mean return.
        clear: whether it beats the data and the imitation clearly.
        headline: one line.
        sentences: the numbers behind it.
    """

    best: str
    clear: bool
    headline: str
    sentences: list[str]


def compare_returns(
    data: Sequence[float], imitation: EvaluatedPolicy, learners: Sequence[EvaluatedPolicy]
) -> ReturnComparison:
    """Compare learners with the data they learned from, with its imitation, and with each other.

    Args:
        data: returns of the dataset's episodes.
        imitation: behavior cloning, evaluated on the same episodes as the learners.
        learners: at least one.
    """
    ranked = sorted([imitation, *learners], key=lambda one: -one.mean)
    best = max(learners, key=lambda one: one.mean)
    over_data = difference(best.returns, data, paired=False)
    over_imitation = difference(best.returns, imitation.returns, paired=True)
    clear = over_data.clear and over_imitation.clear
    earned = short_number(best.mean)
    more, more_than_imitation = short_number(over_data.mean), short_number(over_imitation.mean)
    if clear:
        headline = f"{best.name} clearly beats the data it learned from"
        sentences = [
            f"{best.name} returns {earned} per episode: {more} more than the average episode of the data "
            f"({over_data.in_words}) and {more_than_imitation} more than {imitation.name}, which imitates that data "
            f"({over_imitation.in_words}).",
            *(_beside(best, other) for other in ranked if other not in (best, imitation)),
        ]
    else:
        headline = "No algorithm clearly beats both its data and its imitation"
        sentences = [
            f"The best of them, {best.name}, returns {earned} per episode and differs from the data by {more} "
            f"({over_data.in_words}) and from {imitation.name} by {more_than_imitation} ({over_imitation.in_words}); "
            f"clear would be {CLEAR:g} standard errors above both."
        ]
    return ReturnComparison(best.name, clear, headline, sentences)


def _beside(best: EvaluatedPolicy, other: EvaluatedPolicy) -> str:
    apart = difference(best.returns, other.returns, paired=True)
    if apart.clear:
        return f"{other.name} comes next with {short_number(other.mean)}, {apart.in_words} behind."
    return (
        f"{other.name} reaches {short_number(other.mean)}: {short_number(apart.mean)} less, which at "
        f"{apart.in_words} is too little to call one of them better."
    )
