"""What an off-policy evaluation takes for granted, and what its words mean."""

from __future__ import annotations

from lightning_offrl.data.clusters import Clusters
from lightning_offrl.ope.checks.weight_diagnostics import Limits
from lightning_offrl.ope.result import OPEResult
from lightning_offrl.ope.weighting.intervals import FEW_CLUSTERS, FEWEST_CLUSTERS
from lightning_offrl.ope.weighting.registry import ESTIMATORS
from lightning_offrl.reports import html
from lightning_offrl.reports.html import Markup

_FAMILY = {
    "baseline": "the log",
    "weights": "weights",
    "hybrid": "weights and values",
    "values": "fitted values",
    "model": "fitted model",
    "ratios": "fitted ratios",
}
_INTERVALS = {
    "percentile": "quantiles of the estimate over bootstrap samples of whole episodes, each with its own normalizer",
    "percentile-t": "the same of the estimate's deviation over its own error, for few episodes (Efron, 1981)",
    "bca": "percentile at levels corrected for bias and skewness (Efron, 1987)",
    "delta": "value ± normal quantile times the standard error",
    "refits": "the spread of models fitted again to bootstrap samples of the episodes",
    "hoeffding": "holds at every sample size if the range given is right (Hoeffding, 1963)",
    "bernstein": "holds at every sample size if the range given is right (Maurer and Pontil, 2009)",
}


def rests_on(family: str) -> str:
    """In words, what the estimates of a family rest on."""
    return _FAMILY.get(family, family)


def resampled(clusters: Clusters) -> str:
    """What intervals are of, in words."""
    if clusters.alone:
        return "each has its own, so intervals resample episodes"
    if clusters.effective < FEWEST_CLUSTERS:
        return f"they vary like {clusters.effective:.1f} of equal size, too few for any interval"
    few = f", though these vary like {clusters.effective:.1f} of equal size, and with so few may be too narrow"
    return f"intervals resample whole clusters{few if clusters.effective < FEW_CLUSTERS else ''}"


def assumptions(result: OPEResult) -> Markup:
    """What no number on the page can check, for the kinds of estimates that are there."""
    used = {row.family for row in result.rows if row.status == "eligible"} or {row.family for row in result.rows}
    lines = [
        "The world stays as it was when the log was made, and new episodes begin as the logged ones did.",
        _independence(result.clusters),
        "The reward is what matters. It is taken at its word.",
    ]
    if result.verdict.assumption:
        lines.insert(0, _sentence(result.verdict.assumption))
    if used & {"weights", "hybrid"}:
        lines.append(
            "Overlap: whatever the policy does has some probability in the log. What is never logged counts as if it "
            "were worth what the rest is; the checks above find it only where it is frequent."
        )
        how = {
            "logged": "The logged probabilities are those with which the actions were drawn. Then weights are right "
            "even if whoever acted saw more than the observation.",
            "estimated": "The behavior is estimated: its model must be able to express who acted.",
        }.get(result.behavior, f"The behavior is {result.behavior}, and it made the whole log.")
        lines.append(how)
    if used & {"values", "hybrid", "model", "ratios"}:
        lines.append(
            "The observation is a state: given it and the action, the past does not matter. Weights need no such "
            "thing; fitted values and models do."
        )
        lines.append(
            "The fitted functions are rich enough, and trained long enough. Their intervals come from refits: they "
            "hold chance, not the bias of a function that cannot express the truth."
        )
    if any("cut from outside" in note for note in result.notes):
        lines.append("Episodes that were cut from outside would have earned nothing more within the horizon.")
    return Markup('<ul class="plain">' + "".join(f"<li>{html.text(line)}</li>" for line in lines) + "</ul>")


def _independence(clusters: Clusters | None) -> str:
    if clusters is None:
        return (
            "Episodes are independent of each other. If several belong to one person, site or day, intervals are too "
            "narrow: say which with --cluster."
        )
    return (
        f"The {clusters.words} are independent of each other; episodes of one may depend on each other in any way. "
        "Where clusters share a site or a teacher, intervals are still too narrow."
    )


def definitions(result: OPEResult) -> Markup:
    """Every word of the page in a sentence or two."""
    limits = Limits()
    terms = {row.name: _sentence(ESTIMATORS[row.name].definition) for row in result.rows if row.name in ESTIMATORS}
    for note in result.notes:
        if note.startswith("behavior estimated:"):
            terms["ris"] = (
                "Regression importance sampling, as Hanna, Niekum and Stone (2019) mean it: importance sampling whose "
                "behavior probabilities are fitted to the same data. Here wis, pdis, cwpdis are ris. Others write RIS "
                "for weighting plus a value function; that is dr and wdr here."
            )
        elif note.startswith("kernel:"):
            terms["kis"] = _sentence(note.removeprefix("kernel: "))
    if not any(note.startswith("behavior estimated:") for note in result.notes) and result.weights is not None:
        terms["ris"] = (
            "Not used here. Importance sampling whose behavior probabilities are fitted to the same data (Hanna, "
            "Niekum and Stone, 2019); these weights divide by "
            + ("the logged probabilities." if result.behavior == "logged" else f"those of {result.behavior}.")
        )
    terms["Weight"] = (
        "Probability of the logged actions of an episode under the policy over that under the behavior; 1 on average."
    )
    terms["ESS"] = (
        "Effective sample size (sum w)² / sum w² (Kish, 1965): so many equally weighted episodes would say as much. "
        f"Below {limits.ess:g}, or {limits.ess_share:.0%} of the episodes, estimates from weights abstain; also if one "
        f"episode holds more than {limits.top_share:.0%} of the weight, or the mean weight is more than "
        f"{limits.mean_errors:g} standard errors from 1."
    )
    if result.clusters is not None and not result.clusters.alone:
        label = result.clusters.column or "the label given"
        terms["Cluster"] = (
            f"The episodes with one value of {label}. A resample draws clusters with replacement, with all episodes of "
            "each (Cameron, Gelbach and Miller, 2008), and errors are those of sums over clusters. These "
            f"{result.clusters.n:,} vary like {result.clusters.effective:.1f} of equal size, (sum n)² / sum n²; below "
            f"{FEWEST_CLUSTERS} there is no interval, below {FEW_CLUSTERS} it may be too narrow. Estimates from "
            f"weights also abstain if the weights' sums over clusters count as fewer than {limits.clusters:g}, or if "
            f"one cluster holds more than {limits.cluster_share:.0%} of the weight."
        )
    terms["far"] = (
        "Share of the policy's actions that lie farther from what was logged in the most similar states than 99 % of "
        f"the log's own actions do; 1 % is none, above {limits.far_share + 0.01:.0%} estimates from weights abstain."
    )
    if "unseen" in result.support:
        terms["unseen"] = (
            "Share of the policy's own episodes, imagined along logged states, whose weight exceeds the number of "
            f"logged episodes, so that such a log would hardly hold them; above {limits.unseen_share:.0%} "
            "estimates abstain."
        )
    terms["Abstain"] = "The estimate was computed, but a check of what it rests on failed, so it is not shown."
    terms["Agreement"] = (
        "Estimates of different kinds are compared by the interval of their difference, in the same resamples of "
        "episodes where both have them. They agree if it holds 0, or if they differ by less than 5 % of the middle "
        "nine tenths of the log's returns. Estimates of one kind share their mistakes and do not confirm each other."
    )
    terms["Conservative value"] = "The smallest lower bound among the eligible estimates."
    used = {i.method for row in result.rows for i in (row.interval, row.guaranteed) if i is not None}
    for method in sorted(used & set(_INTERVALS)):
        said = _INTERVALS[method]
        if result.clusters is not None and not result.clusters.alone:
            said = said.replace("whole episodes", "whole clusters").replace("few episodes", "few clusters")
            said = said.replace("of the episodes", "of the clusters")
        terms[f"Interval: {method}"] = _sentence(said)
    rows = "".join(f"<dt>{html.text(name)}</dt><dd>{html.text(said)}</dd>" for name, said in terms.items())
    return Markup(f'<dl class="defined">{rows}</dl>')


def _sentence(text: str) -> str:
    if text.split(",")[0].split()[0] in ESTIMATORS:  # names stay as they are
        return f"{text}."
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
