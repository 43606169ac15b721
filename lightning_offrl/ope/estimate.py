"""One estimate of a policy's value: a row of the table that an evaluation prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lightning_offrl.ope.weighting.importance import PerEpisodeTerms
from lightning_offrl.ope.weighting.intervals import Interval
from lightning_offrl.ope.weighting.registry import Family

Status = Literal["baseline", "eligible", "abstains"]


@dataclass
class Row:
    """One estimate.

    Attributes:
        name: The name of the estimator.
        family: What the estimate rests on; estimates of one family share their mistakes.
        value: The estimate; where it abstains, it is kept only for completeness.
        status: "baseline" is the log itself; the others are eligible or abstain.
        interval: The interval, or None where there is none.
        ess: The effective sample size, where weights are used.
        reasons: Why the estimate abstains.
        notes: What to keep in mind about it.
        guaranteed: An interval that holds at every sample size, where a range was given.
        resampled: ``[R]`` values in the resamples ``counts``, for paired differences.
        counts: ``[R, E]`` how often each episode is in these resamples; None: those of the whole evaluation.
        terms: The terms per episode, where there are some.
    """

    name: str
    family: Family
    value: float
    status: Status
    interval: Interval | None = None
    ess: float | None = None
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    guaranteed: Interval | None = None
    resampled: Tensor | None = field(default=None, repr=False)
    counts: Tensor | None = field(default=None, repr=False)
    terms: PerEpisodeTerms | None = field(default=None, repr=False)

    @property
    def bounded(self) -> bool:
        """Whether there is an interval with finite bounds."""
        return self.interval is not None and self.interval.usable

    @property
    def standard_error(self) -> float:
        """The standard deviation over the resamples; without these, what the width of the interval implies."""
        if self.resampled is not None and len(self.resampled) > 1:
            return float(self.resampled.std())
        assert self.interval is not None
        z = float(torch.special.ndtri(torch.tensor(0.5 + 0.5 * self.interval.level, dtype=torch.float64)))
        return self.interval.width / 2.0 / z

    @property
    def degrees(self) -> int:
        """The degrees of freedom of `standard_error`."""
        return len(self.resampled) - 1 if self.resampled is not None and len(self.resampled) > 1 else 1000
