"""A diagnosis: numbers, a sentence that says what they mean, and a remedy to try.

Lines drawn for Gaussian policies of equal variance, where everything has a closed form (z the distance of the means in
standard deviations, Phi the normal distribution function):

    KL = z^2 / (2 ln 2) bits     TV = 2 Phi(z / 2) - 1     AUC = Phi(z / sqrt 2)     ESS / n = 2^(-2 KL)

So 1 bit is TV .44, AUC .80 and a quarter of the sample size, and 5 bits are TV .81, AUC .97 and a thousandth. Weights
of whole episodes multiply: for importance sampling it is the *sum* of the divergences along an episode that counts,
and n episodes leave 30 effective ones up to ``0.5 log2(n / 30)`` bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["ok", "caution", "alarm", "unknown"]

CAUTION_BITS, ALARM_BITS = 1.0, 5.0
CAUTION_AUC, ALARM_AUC = 0.80, 0.97
CAUTION_TV, ALARM_TV = 0.44, 0.81
RATIO_LIMIT_BITS = 2.0
"""Above it no effective sample size is derived from a *learned* density ratio: it would be off by orders."""
LEAST_EPISODES = 30.0
"""Effective episodes below which importance sampling abstains."""

CLOSER = "pull the policy to the data (see the algorithm's weight of conservatism or imitation)"
"""The remedy where the algorithm names none of its own."""


@dataclass(frozen=True)
class Diagnosis:
    """One property of a policy or its values, measured and judged.

    Attributes:
        name: The name of the main number, which is the metric's name and never changes.
        value: The main number; nan where it could not be found.
        level: "ok", "caution", "alarm", or "unknown".
        reading: One sentence that says what the number means.
        remedy: What to try.
        numbers: Further numbers by their metrics' names.
        curves: Numbers by step of the episode, ``[H]`` each, for plots.
    """

    name: str
    value: float
    level: Level
    reading: str
    remedy: str
    numbers: dict[str, float] = field(default_factory=dict)
    curves: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def metrics(self, prefix: str = "shift/") -> dict[str, float]:
        """All numbers by name; those that are nan are left out."""
        every = {self.name: self.value, **self.numbers}
        return {prefix + name: float(value) for name, value in every.items() if not math.isnan(value)}


def as_text(found: Iterable[Diagnosis]) -> str:
    """One line for each diagnosis, the number first; below them the remedies of cautions and alarms."""
    lines, remedies = [], dict[str, list[str]]()
    for one in found:
        number = "-" if math.isnan(one.value) else f"{one.value:.3g}"
        lines.append(f"{one.name:<16}{number:>9}  {one.level:<8}{one.reading}")
        if one.level in ("caution", "alarm"):
            remedies.setdefault(one.remedy, []).append(one.name)
    lines += [f"try ({', '.join(names)}): {remedy}" for remedy, names in remedies.items()]
    return "\n".join(lines)


def limit_bits(episodes: int) -> float:
    """Largest total divergence at which that many episodes leave 30 effective ones, ``0.5 log2(n / 30)``, at least 0.

    >>> [round(limit_bits(n), 2) for n in (100, 1_000, 10_000)]
    [0.87, 2.53, 4.19]
    """
    return max(0.5 * math.log2(episodes / LEAST_EPISODES), 0.0) if episodes > 0 else 0.0


def level_of(value: float, caution: float, alarm: float) -> Level:
    """Level of a number of which more is worse: "unknown" for nan.

    >>> [level_of(x, 1.0, 5.0) for x in (0.5, 1.5, float("inf"), float("nan"))]
    ['ok', 'caution', 'alarm', 'unknown']
    """
    if math.isnan(value):
        return "unknown"
    return "alarm" if value > alarm else "caution" if value > caution else "ok"
