"""Which of several policies is better, and by how many standard errors: sentences made from numbers.

Every standard error here is over episodes. It says how well a trained policy's mean return is known, not how much the
next training run would differ: for that, train several seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_offrl.reports.plots import standard_error

CLEAR = 3.0
"""Standard errors from which a difference is called clear; a nan or smaller one is not."""


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
class Verdict:
    """What may be said.

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


def judge(data: Sequence[float], imitation: EvaluatedPolicy, learners: Sequence[EvaluatedPolicy]) -> Verdict:
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
    sentences = []
    if clear:
        headline = f"{best.name} clearly beats the data it learned from"
        sentences.append(
            f"{best.name} returns {number(best.mean)} per episode: {number(over_data.mean)} more than the average "
            f"episode of the data ({errors(over_data)}) and {number(over_imitation.mean)} more than {imitation.name}, "
            f"which imitates that data ({errors(over_imitation)})."
        )
        for other in ranked:
            if other not in (best, imitation):
                sentences.append(_beside(best, other))
    else:
        short = [
            f"{'the data' if which is over_data else imitation.name} by {number(which.mean)} ({errors(which)})"
            for which in (over_data, over_imitation)
        ]
        headline = "No algorithm clearly beats both its data and its imitation"
        sentences.append(
            f"The best of them, {best.name}, returns {number(best.mean)} per episode and differs from {short[0]} and "
            f"from {short[1]}; clear would be {CLEAR:g} standard errors above both."
        )
    return Verdict(best.name, clear, headline, sentences)


def _beside(best: EvaluatedPolicy, other: EvaluatedPolicy) -> str:
    apart = difference(best.returns, other.returns, paired=True)
    if apart.clear:
        return f"{other.name} comes next with {number(other.mean)}, {errors(apart)} behind."
    return (
        f"{other.name} reaches {number(other.mean)}: {number(apart.mean)} less, which at {errors(apart)} is too little "
        "to call one of them better."
    )


def number(value: float) -> str:
    """A return as a reader wants it: no decimals from 10 on, a true minus sign.

    >>> number(-1234.5), number(0.123)
    ('\N{MINUS SIGN}1,234', '0.12')
    """
    size = abs(value)
    text = f"{value:,.0f}" if size >= 10 else f"{value:.2f}"
    return text.replace("-", "\N{MINUS SIGN}")


def with_error(value: float, error: float) -> str:
    """Mean and standard error with the same number of decimals.

    >>> with_error(-70.26, 14.9), with_error(70.26, 0.5), with_error(1.5, float("nan"))
    ('\N{MINUS SIGN}70 ± 15', '70.26 ± 0.50', '1.50')
    """
    if math.isnan(error):
        return number(value)
    decimals = 0 if error >= 10 else 1 if error >= 1 else 2
    return f"{value:,.{decimals}f} ± {error:,.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def errors(apart: Difference) -> str:
    """A difference in standard errors, in words.

    >>> errors(Difference(10.0, 2.5))
    '4.0 standard errors'
    """
    if math.isinf(apart.z):
        return "every episode by the same amount"
    return f"{abs(apart.z):.{0 if abs(apart.z) >= 10 else 1}f} standard errors"
