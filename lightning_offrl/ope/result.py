"""What an evaluation found: one row for each estimate, and all that was said about one policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from lightning_offrl.data.clusters import Clusters
from lightning_offrl.ope.checks.support import Support
from lightning_offrl.ope.checks.weight_diagnostics import WeightCheck, WeightSteps
from lightning_offrl.ope.verdict import Comparison, Verdict
from lightning_offrl.ope.weighting.importance import PerEpisodeTerms
from lightning_offrl.ope.weighting.intervals import Interval
from lightning_offrl.ope.weighting.registry import Family
from lightning_offrl.ope.weighting.return_distribution import Tail

Status = Literal["baseline", "eligible", "abstains"]


@dataclass
class Row:
    """One estimate.

    Attributes:
        name: of the estimator.
        family: what it rests on.
        value: the estimate; of one that abstains only for completeness.
        status: baseline (the log itself), eligible or abstains.
        interval: None where there is none.
        ess: effective sample size, where weights are used.
        reasons: why it abstains.
        notes: what to mind.
        guaranteed: interval that holds at every sample size, where a range was given.
        resampled: ``[R]`` values in the resamples ``counts``, for paired differences.
        counts: ``[R, E]`` how often each episode is in these resamples; None: those of the whole evaluation.
        terms: per episode, where there are.
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


@dataclass
class Evaluation:
    """Everything that was estimated about one policy.

    Attributes:
        policy: its name.
        data: name of the log.
        n: episodes.
        discount: gamma.
        horizon: steps that count; None: whole episodes.
        behavior: where the weights' denominators come from.
        rows: the estimates, the log itself first.
        verdict: agreement, the conservative value, and words.
        returns: p5, mean, p95 and largest return of the log.
        weights: what the weights say, or None.
        support: what the two detectors found, by name.
        notes: what was assumed.
        groups: column to label to the evaluation of that group.
        level: of the intervals.
        bounds: where the value lies whatever the log lacks; with a range of rewards and true probabilities only.
        steps: what the weights say up to each step, or None.
        log_weights: ``[E]``, of whole episodes, or None.
        provenance: what was evaluated on what, by which versions: words by name, in the order to show.
        tails: the worst episodes of the log and, by its weights, of the policy; where asked for.
        clusters: what episodes belong to, where it was said: the unit of every interval.
    """

    policy: str
    data: str
    n: int
    discount: float
    horizon: int | None
    behavior: str
    rows: list[Row]
    verdict: Verdict
    returns: tuple[float, float, float, float]
    weights: WeightCheck | None = None
    support: dict[str, Support] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    groups: dict[str, dict[str, Evaluation]] = field(default_factory=dict)
    level: float = 0.95
    bounds: Interval | None = None
    steps: WeightSteps | None = None
    log_weights: Tensor | None = field(default=None, repr=False)
    provenance: dict[str, str] = field(default_factory=dict)
    tails: tuple[Tail, ...] = ()
    clusters: Clusters | None = field(default=None, repr=False)

    @property
    def conservative(self) -> float | None:
        """Smallest lower bound among eligible estimates; None if there is none."""
        return self.verdict.conservative

    @property
    def comparisons(self) -> list[Comparison]:
        """Pairs of families, compared."""
        return self.verdict.comparisons

    def row(self, name: str) -> Row:
        """The row of an estimator.

        Raises:
            KeyError: it was not asked for.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    @property
    def unit(self) -> str:
        """What was sampled: ``1,200 episodes``, or ``1,200 episodes of 310 clusters (column subject)``."""
        return f"{self.n:,} episodes" + ("" if self.clusters is None else f" of {self.clusters.words}")

    def table(self) -> str:
        """One page of text."""
        from lightning_offrl.ope.text import page

        return page(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN and infinity as None."""
        from lightning_offrl.ope.text import as_dict

        return as_dict(self)
