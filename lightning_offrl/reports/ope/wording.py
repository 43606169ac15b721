"""Words that the reports on off-policy evaluation share."""

from __future__ import annotations

from lightning_offrl.data.clusters import Clusters
from lightning_offrl.ope.result import OPEResult
from lightning_offrl.ope.selection.ranking import representative_estimate
from lightning_offrl.ope.weighting.intervals import FEW_CLUSTERS, FEWEST_CLUSTERS, Interval
from lightning_offrl.ope.weighting.registry import ESTIMATORS
from lightning_offrl.reports.formatting import four_digits

_INTERVALS = {
    "percentile": "quantiles of the estimate over bootstrap samples of whole episodes, each with its own normalizer",
    "percentile-t": "quantiles, over such samples, of the estimate's deviation divided by its own standard error; for "
    "few episodes (Efron, 1981)",
    "bca": "percentile at levels corrected for bias and skewness (Efron, 1987)",
    "delta": "value ± normal quantile times the standard error",
    "refits": "the spread of models fitted again to bootstrap samples of the episodes",
    "hoeffding": "holds at every sample size if the range given is right (Hoeffding, 1963)",
    "bernstein": "holds at every sample size if the range given is right (Maurer and Pontil, 2009)",
}


def headline(result: OPEResult) -> str:
    """The verdict in one line."""
    row = representative_estimate(result)
    if row is None:
        return f"This log cannot say what {result.policy} would earn"
    if result.verdict.word == "DISAGREE":
        return f"The estimates of {result.policy} contradict each other"
    against = result.verdict.against_data
    than = (
        "better than the log"
        if against.startswith("shown better")
        else ("worse than the log" if against.startswith("shown worse") else "not shown better than the log")
    )
    return f"{result.policy} would earn about {four_digits(row.value)}, {than}"


def estimand(result: OPEResult) -> str:
    """What is estimated, in a sentence."""
    if result.steps is not None and len(result.steps.ess) == 1:
        return "the reward of one decision, in situations as in the log"
    per = "unit of time" if "discounted by time" in result.notes else "step"
    steps = "whole episodes" if result.horizon is None else f"the first {result.horizon} steps of an episode"
    what = (
        "the undiscounted return"
        if result.discount == 1.0
        else f"the return, discounted by {result.discount:g} a {per}"
    )
    return f"{what} over {steps}, from first states as in the log"


def between(interval: Interval | None) -> str:
    """``low to high``, or a dash."""
    if interval is None or not interval.usable:
        return "\N{EN DASH}"
    return f"{four_digits(interval.low)} to {four_digits(interval.high)}"


def resampled(clusters: Clusters) -> str:
    """What intervals are of, in words."""
    if clusters.alone:
        return "each has its own, so intervals resample episodes"
    if clusters.effective < FEWEST_CLUSTERS:
        return f"they vary like {clusters.effective:.1f} of equal size, too few for any interval"
    few = f", though these vary like {clusters.effective:.1f} of equal size, and with so few may be too narrow"
    return f"intervals resample whole clusters{few if clusters.effective < FEW_CLUSTERS else ''}"


def interval_methods(result: OPEResult) -> dict[str, str]:
    """Definitions of the kinds of intervals that the evaluation holds."""
    used = {i.method for row in result.rows for i in (row.interval, row.guaranteed) if i is not None}
    found = {method: _INTERVALS[method] for method in sorted(used & set(_INTERVALS))}
    if result.clusters is None or result.clusters.alone:
        return found
    for kind in ("whole", "few", "of the"):
        found = {method: said.replace(f"{kind} episodes", f"{kind} clusters") for method, said in found.items()}
    return found


def capital(text: str) -> str:
    """With a capital at the beginning, unless that is the name of an estimator."""
    text = text.replace(" +- ", " ± ")
    return text if not text or text.split(",")[0].split()[0] in ESTIMATORS else f"{text[0].upper()}{text[1:]}"


def sentence(text: str) -> str:
    """As a sentence, with a capital and a period."""
    return f"{capital(text).removesuffix('.')}."
