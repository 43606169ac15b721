"""The result of an evaluation: everything that was found about one policy, as text and as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

from torch import Tensor

from lightning_offrl.data.clusters import Clusters
from lightning_offrl.data.text_table import aligned
from lightning_offrl.ope.checks.support import Support
from lightning_offrl.ope.checks.weight_diagnostics import WeightCheck, WeightSteps
from lightning_offrl.ope.estimate import Row
from lightning_offrl.ope.tails import Tail
from lightning_offrl.ope.text import (
    bounds,
    comparison_lines,
    estimate_lines,
    number,
    plain_values,
    support_lines,
    tail_lines,
    verdict_lines,
    wrapped,
)
from lightning_offrl.ope.verdict import Comparison, OPEVerdict
from lightning_offrl.ope.weighting.intervals import Interval
from lightning_offrl.ope.weighting.registry import ESTIMATORS


@dataclass
class OPEResult:
    """Everything that was estimated about one policy.

    Attributes:
        policy: The name of the policy.
        data: The name of the log.
        n: The number of episodes.
        discount: The discount factor.
        horizon: How many first steps count; None: whole episodes.
        behavior: Where the denominators of the weights come from.
        rows: The estimates, the log itself first.
        verdict: Whether estimates agree, and what is safe to claim.
        returns: The 5 % quantile, the mean, the 95 % quantile and the largest of the log's returns.
        weights: What the checks of the weights found, or None.
        support: What the two checks of support found, by name.
        notes: What was assumed.
        groups: For each column, the result of each of its labels.
        level: The level of the intervals.
        bounds: Where the value lies whatever the log lacks; with a range of rewards and true probabilities only.
        steps: What the weights up to each step say, or None.
        log_weights: ``[E]``, the log weights of whole episodes, or None.
        provenance: What was evaluated on what, by which versions: words by name, in the order to show.
        tails: The worst episodes of the log and, by its weights, of the policy; where asked for.
        clusters: The clusters of the episodes, where they were given: the unit of every interval.
    """

    policy: str
    data: str
    n: int
    discount: float
    horizon: int | None
    behavior: str
    rows: list[Row]
    verdict: OPEVerdict
    returns: tuple[float, float, float, float]
    weights: WeightCheck | None = None
    support: dict[str, Support] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    groups: dict[str, dict[str, OPEResult]] = field(default_factory=dict)
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
        """The estimand, the data, every estimate with its status, the verdict and the definitions, as text."""
        per = "elapsed time" if "discounted by time" in self.notes else "step"
        discount = f"discount {self.discount:g} per {per}"
        steps = "whole episodes" if self.horizon is None else f"the first {self.horizon} steps"
        p5, mean, p95, top = self.returns
        lines = [
            f"Policy    {self.policy}",
            f"Estimand  sum of discount^t reward, {discount}, {steps}, first states of the log",
            f"Data      {self.data}: {self.unit}; return mean {number(mean)} (5 %: {number(p5)}, 95 %: "
            f"{number(p95)}, largest {number(top)})",
            *support_lines(self.behavior, self.weights, self.support),
            "",
            *estimate_lines(self.rows, self.level),
            *tail_lines(self.tails),
            *comparison_lines(self.comparisons),
            *verdict_lines(self.verdict, self.bounds),
        ]
        for column, groups in self.groups.items():
            lines += ["", *_group_lines(column, groups)]
        lines += ["", "Definitions"]
        lines += [f"  {row.name}: {ESTIMATORS[row.name].definition}" for row in self.rows if row.name in ESTIMATORS]
        for note in self.notes:
            lines += wrapped(f"  note: {note}", indent="        ")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything but tensors, as plain values for JSON; NaN and infinity are None."""
        verdict, clusters = self.verdict, self.clusters
        shown = ("name", "family", "value", "status", "interval", "guaranteed", "ess", "reasons", "notes")
        out: dict[str, Any] = {
            "policy": self.policy,
            "data": self.data,
            "episodes": self.n,
            "clusters": None
            if clusters is None
            else {
                "column": clusters.column or None,
                "number": clusters.n,
                "effective": clusters.effective,
                "largest": int(clusters.size.max()),
            },
            "discount": self.discount,
            "horizon": self.horizon,
            "behavior": self.behavior,
            "level": self.level,
            "returns": dict(zip(("p5", "mean", "p95", "max"), self.returns, strict=True)),
            "estimates": [
                {name: _values(getattr(row, name)) for name in shown}
                | {"definition": ESTIMATORS[row.name].definition if row.name in ESTIMATORS else None}
                for row in self.rows
            ],
            "weights": _values(self.weights),
            "weights_by_step": _values(self.steps),
            "support": {name: asdict(found) for name, found in self.support.items()},
            "comparisons": [asdict(c) for c in verdict.comparisons],
            "verdict": verdict.word,
            "sentence": verdict.sentence,
            "conservative": verdict.conservative,
            "conservative_of": verdict.conservative_of,
            "against_data": verdict.against_data,
            "assumption": verdict.assumption,
            "bounds": _values(self.bounds),
            "tails": [asdict(found) for found in self.tails],
            "notes": self.notes,
            "provenance": self.provenance,
            "groups": {
                column: {label: group.to_dict() for label, group in groups.items()}
                for column, groups in self.groups.items()
            },
        }
        plain: dict[str, Any] = plain_values(out)
        return plain


def _values(found: Any) -> Any:
    """The fields of a dataclass by name; any other value as it is."""
    return asdict(found) if is_dataclass(found) and not isinstance(found, type) else found


def _group_lines(column: str, groups: dict[str, OPEResult]) -> list[str]:
    first = next(iter(groups.values()))
    names = [row.name for row in first.rows]
    cells = [[column, "episodes", *(["clusters"] if first.clusters is not None else []), *names, "verdict"]]
    for label, group in groups.items():
        entries = []
        for row in group.rows:
            shown = "ABSTAIN" if row.status == "abstains" else f"{number(row.value)} {bounds(row.interval)}"
            entries.append(shown)
        counted = [f"{group.n:,}", *([] if group.clusters is None else [f"{group.clusters.n:,}"])]
        cells.append([label, *counted, *entries, group.verdict.word])
    title = f"By {column}, intervals at {first.level:.4g} so that all {len(groups)} groups are covered together"
    return [title, *("  " + line for line in aligned(cells))]
