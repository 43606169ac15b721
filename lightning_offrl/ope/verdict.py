"""The verdict on a policy: do independent estimates agree, what is safe to claim, is it better than the data.

Estimates of one family share their mistakes, so agreement is judged between families, by the interval of the *paired*
difference: both estimates in the same resamples of episodes. They agree if that interval holds 0, or if the difference
is below 5 % of the middle nine tenths of the log's returns.

The conservative value is the smallest *lower bound* among eligible estimates. Each bound fails with at most its own
probability, and the smallest of several fails no more often than any single one, so nothing is corrected. The smallest
*point* estimate would be no bound of anything: unnormalized weighting falls towards 0 where few weights count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from lightning_offrl.ope.estimate import Row
from lightning_offrl.ope.weighting.intervals import Interval, Resamples, difference, from_refits, resampled_interval
from lightning_offrl.training.old_code import attributes_of

__getattr__ = attributes_of(__name__)
Word = Literal["ABSTAIN", "SINGLE", "AGREE", "DISAGREE"]
REPRESENTATIVES = {
    "weights": ("cwpdis", "wis", "pdis", "is"),
    "hybrid": ("wdr", "magic", "dr"),
    "values": ("fqe", "lstd"),
    "model": ("mb",),
    "ratios": ("dice",),
}
"""For each family, the estimates that can represent it; the first one that is eligible does."""
ASSUMED = (
    "that nothing the log lacks moved both the actions and what followed (no unmeasured confounding); estimates can "
    "agree where it is wrong"
)
ROUNDING = 1e-9
"""Estimates closer than this share of the returns' spread are one calculation written twice."""
SMALL = 0.05
"""A difference below this share of the spread of returns counts as agreement."""


@dataclass(frozen=True)
class Comparison:
    """The difference of two estimates, and whether they agree.

    Attributes:
        first: The name of the first estimate.
        second: The name of the second.
        difference: ``first - second``.
        interval: The interval of the difference; None where one of them has no resamples.
        paired: Whether both were computed in the same resamples.
        agree: Whether they agree; None where nothing can be said.
    """

    first: str
    second: str
    difference: float
    interval: Interval | None
    paired: bool
    agree: bool | None


@dataclass
class OPEVerdict:
    """What all estimates of one policy say together.

    Attributes:
        word: ABSTAIN, SINGLE, AGREE or DISAGREE.
        sentence: What the word means here.
        conservative: The smallest lower bound among eligible estimates, or None.
        conservative_of: The name of the estimate with that bound.
        against_data: Whether the policy is shown better or worse than the log's behavior.
        comparisons: The differences between families.
        assumption: What eligible estimates assume and the log cannot show; empty if they assume nothing.
    """

    word: Word
    sentence: str
    conservative: float | None = None
    conservative_of: str | None = None
    against_data: str = ""
    comparisons: list[Comparison] = field(default_factory=list)
    assumption: str = ""

    @property
    def exit_code(self) -> int:
        """0, 3 if nothing is eligible, 4 if eligible estimates disagree."""
        return {"ABSTAIN": 3, "DISAGREE": 4}.get(self.word, 0)


def conclude(rows: Sequence[Row], shared: Resamples, spread: float, level: float) -> OPEVerdict:
    """Compare the representatives of the families and put the result into words.

    Args:
        rows: All estimates.
        shared: The resamples of the estimates from weights.
        spread: The 95 % minus the 5 % quantile of the log's returns.
        level: The level of the intervals of differences.
    """
    eligible = [row for row in rows if row.status == "eligible"]
    if not eligible:
        why = next((row.reasons[0] for row in rows if row.reasons), "no estimator was asked for")
        return OPEVerdict("ABSTAIN", f"no estimate can be relied on: {why}")
    bounded = [row for row in eligible if row.bounded]
    lowest = min(bounded, key=lambda row: row.interval.low if row.interval else math.inf, default=None)
    found, twins = _distinct(_representatives(eligible), spread)
    comparisons = [compare(a, b, shared, spread, level) for i, a in enumerate(found) for b in found[i + 1 :]]
    out = OPEVerdict("SINGLE", "", comparisons=comparisons)
    if lowest is not None and lowest.interval is not None:
        out.conservative, out.conservative_of = lowest.interval.low, lowest.name
    out.against_data = _against_data(eligible, rows, shared, level)
    names = ", ".join(row.name for row in found)
    apart = [c for c in comparisons if c.agree is False]
    if len(found) == 1:
        out.sentence = f"no independent estimate confirms {names}"
    elif apart:
        worst = max(apart, key=lambda c: abs(c.difference))
        out.word = "DISAGREE"
        out.sentence = (
            f"{worst.first} and {worst.second} differ by {worst.difference:+.4g}"
            + (f" [{worst.interval.low:.4g}, {worst.interval.high:.4g}]" if worst.interval else "")
            + "; at least one of them is wrong, so rely on the conservative value at most"
        )
    elif any(c.agree is None for c in comparisons):
        few = shared.too_few_clusters
        missing = "there are too few clusters" if few else "give refits to those without an interval"
        out.sentence = f"{names} cannot be compared: {missing}"
    else:
        out.word, out.sentence = "AGREE", f"{names} agree"
    if twins:
        out.sentence += f" ({'; '.join(twins)})"
    return out


def _representatives(eligible: Sequence[Row]) -> list[Row]:
    """One estimate for each family; another one of the family where none of `REPRESENTATIVES` is eligible."""
    out = []
    for family, names in REPRESENTATIVES.items():
        of_family = {row.name: row for row in eligible if row.family == family}
        if of_family:
            out.append(next((of_family[name] for name in names if name in of_family), next(iter(of_family.values()))))
    return out


def _distinct(representatives: Sequence[Row], spread: float) -> tuple[list[Row], list[str]]:
    """Without those that give another's number to rounding: on a table, lstd and a model are one calculation."""
    found: list[Row] = []
    twins = []
    for row in representatives:
        twin = next((other for other in found if abs(row.value - other.value) <= ROUNDING * spread), None)
        if twin is None:
            found.append(row)
        else:
            twins.append(f"{row.name} gives {twin.name}'s number to rounding, so it confirms nothing")
    return found, twins


def assumption(rows: Sequence[Row], estimated: bool) -> str:
    """The assumption of no unmeasured confounding, and which eligible estimates make it; empty if none does.

    Args:
        rows: all estimates.
        estimated: the behavior in the weights was fitted to the log. The log's own probabilities do without.
    """
    needing = ("values", "model", "ratios") + (("weights", "hybrid") if estimated else ())
    names = [row.name for row in rows if row.status == "eligible" and row.family in needing]
    return f"{', '.join(names)} assume{'s' if len(names) == 1 else ''} {ASSUMED}" if names else ""


def compare(a: Row, b: Row, shared: Resamples, spread: float, level: float) -> Comparison:
    """The difference of two estimates, paired where their resamples are known."""
    gap = a.value - b.value
    small = abs(gap) < SMALL * spread
    found, paired = _difference_interval(a, b, shared, level)
    agree = None if found is None else found.contains(0.0) or small
    return Comparison(a.name, b.name, gap, found, paired, True if small else agree)


def _difference_interval(a: Row, b: Row, shared: Resamples, level: float) -> tuple[Interval | None, bool]:
    gap = a.value - b.value
    if a.terms is not None and b.terms is not None:
        return resampled_interval(difference(a.terms, b.terms), shared, level)[0], True
    if a.resampled is None or b.resampled is None:
        return None, False
    if a.terms is None and b.terms is None:
        same = a.counts is not None and b.counts is not None and a.counts.equal(b.counts)
        if same:
            return from_refits(gap, a.resampled - b.resampled, level=level), True
        return _unpaired(gap, a.resampled, b.resampled, level), False
    fitted, weighted, sign = (a, b, 1.0) if a.terms is None else (b, a, -1.0)
    assert weighted.terms is not None and fitted.resampled is not None and weighted.resampled is not None
    if fitted.counts is not None and fitted.counts.shape[-1] == weighted.terms.n:
        other = weighted.terms.resampled(fitted.counts.double())
        return from_refits(gap, sign * (fitted.resampled - other), level=level), True
    return _unpaired(gap, fitted.resampled, weighted.resampled, level), False


def _unpaired(gap: float, first: Tensor, second: Tensor, level: float) -> Interval:
    """As if independent: too wide where they move together, so it finds fewer disagreements."""
    fewer = first if len(first) <= len(second) else second
    scale = math.sqrt(float(first.var() + second.var()))
    spread = float(fewer.std())
    standard = (fewer - fewer.mean()) / spread * scale if spread > 0.0 else fewer * 0.0
    return from_refits(gap, gap + standard, level=level)


def _against_data(eligible: Sequence[Row], rows: Sequence[Row], shared: Resamples, level: float) -> str:
    """A claim only where the paired differences of *all* eligible estimates to the log support it."""
    log = next((row for row in rows if row.status == "baseline"), None)
    if log is None:
        return ""
    gaps = {row.name: _difference_interval(row, log, shared, level)[0] for row in eligible}
    known = {name: gap for name, gap in gaps.items() if gap is not None and gap.usable}
    if not known:
        return "no interval of the difference to the data, so no claim"
    low, high = min(known.items(), key=lambda kv: kv[1].low), max(known.items(), key=lambda kv: kv[1].high)
    if low[1].low > 0.0:
        return f"shown better than the data: by {low[1].low:.4g} at least ({low[0]})"
    if high[1].high < 0.0:
        return f"shown worse than the data: by {-high[1].high:.4g} at least ({high[0]})"
    ends = f"{low[1].low:.4g} ({low[0]}) or {high[1].high:.4g} ({high[0]})"
    return f"not shown better than the data: the difference may be {ends}"
