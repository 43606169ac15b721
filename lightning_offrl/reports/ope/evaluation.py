"""The report of an off-policy evaluation: the verdict in words, every estimate, the weights, and all it rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_offrl.ope.checks.weight_diagnostics import Limits
from lightning_offrl.ope.result import OPEResult
from lightning_offrl.ope.selection.ranking import representative_estimate
from lightning_offrl.ope.verdict import REPRESENTATIVES
from lightning_offrl.ope.weighting.intervals import FEW_CLUSTERS, FEWEST_CLUSTERS
from lightning_offrl.ope.weighting.registry import ESTIMATORS
from lightning_offrl.reports import html
from lightning_offrl.reports.formatting import four_digits
from lightning_offrl.reports.html import Markup, Table
from lightning_offrl.reports.ope import figures, wording
from lightning_offrl.reports.ope.wording import between
from lightning_offrl.reports.theme import svg

_DASH = "\N{EN DASH}"
_KIND = {
    "AGREE": ("improve", "Estimates agree"),
    "SINGLE": ("imitate", "One kind of estimate"),
    "DISAGREE": ("refuse", "Estimates disagree"),
    "ABSTAIN": ("refuse", "Abstains"),
}
_FAMILY = {
    "baseline": "the log",
    "weights": "weights",
    "hybrid": "weights and values",
    "values": "fitted values",
    "model": "fitted model",
    "ratios": "fitted ratios",
}


def write(result: OPEResult, path: str | Path) -> Path:
    """Write the report.

    Raises:
        InputError: a path that does not end in ``.html``, or that cannot be written.
    """
    return html.write(path, document(result))


def document(result: OPEResult) -> Markup:
    """The report as HTML."""
    eligible = {row.family for row in result.rows if row.status == "eligible"}
    used = eligible or {row.family for row in result.rows}
    return html.render(
        "ope.html.j2",
        title=wording.headline(result),
        result=result,
        verdict=result.verdict,
        wording=wording,
        kind=_KIND[result.verdict.word],
        facts=_facts(result),
        intervals=_interval_figure(result),
        estimates=_estimates(result),
        reasons=_reasons(result),
        comparisons=_comparisons(result),
        tails=_tails(result),
        weights=_weights(result),
        support=_support(result),
        groups={column: _by_group(groups) for column, groups in result.groups.items()},
        provenance=Table(["what", ""], [[name, str(value)] for name, value in result.provenance.items()], words=(1,)),
        notes=[wording.sentence(note) for note in result.notes],
        by_weights=bool(used & {"weights", "hybrid"}),
        by_values=bool(used & {"values", "hybrid", "model", "ratios"}),
        fitted_behavior=any(note.startswith("behavior estimated:") for note in result.notes),
        kernels=[note.removeprefix("kernel: ") for note in result.notes if note.startswith("kernel:")],
        cut=any("cut from outside" in note for note in result.notes),
        estimators={row.name: ESTIMATORS[row.name].definition for row in result.rows if row.name in ESTIMATORS},
        limits=Limits(),
        few_clusters=(FEWEST_CLUSTERS, FEW_CLUSTERS),
    )


def _facts(result: OPEResult) -> list[tuple[str, str]]:
    row, (p5, mean, p95, _) = representative_estimate(result), result.returns
    facts = []
    if row is not None:
        facts += [
            (four_digits(row.value), f"estimate ({row.name})"),
            (between(row.interval), f"its {result.level:.0%} interval"),
            (four_digits(result.verdict.conservative), "conservative value"),
        ]
    log = f"mean return of the log (most episodes: {four_digits(p5)} to {four_digits(p95)})"
    facts += [(four_digits(mean), log), (f"{result.n:,}", "episodes")]
    clusters, weights = result.clusters, result.weights
    if clusters is not None:
        facts.append((f"{clusters.n:,}", f"clusters (column {clusters.column})" if clusters.column else "clusters"))
    if weights is not None:
        facts.append((_one_decimal(weights.ess), "effective sample size of the weights"))
        facts.append((f"{weights.top_share:.1%}", "of all weight on one episode"))
    if weights is not None and weights.effective_clusters is not None:
        facts.append((_one_decimal(weights.effective_clusters), "effective number of clusters of the weights"))
        facts.append((f"{weights.top_cluster:.1%}", "of all weight on one cluster"))
    if "far" in result.support:
        facts.append((f"{result.support['far'].share:.1%}", "of its actions far from the log's (1 % is none)"))
    return facts


def _one_decimal(value: float | None) -> str:
    return four_digits(None if value is None else round(value, 1))


def _interval_figure(result: OPEResult) -> Markup:
    lines = {"mean return of the log": (result.returns[1], "data")}
    if result.verdict.conservative is not None:
        lines["conservative value"] = (result.verdict.conservative, "series-1")
    spoken = "; ".join(
        f"{row.name} {'abstains' if row.status == 'abstains' else f'{four_digits(row.value)}, {between(row.interval)}'}"
        for row in result.rows
    )
    bars = [figures.bar(row) for row in result.rows]
    return svg(figures.intervals(bars, lines, x_label="estimated return"), f"Estimates with their intervals. {spoken}")


def _estimates(result: OPEResult) -> Table:
    guaranteed = any(row.guaranteed is not None for row in result.rows)
    noted = any(row.notes for row in result.rows)
    header = ["estimate", "value", f"{result.level:.0%} interval", "ESS", "", "rests on", *(["note"] if noted else [])]
    if guaranteed:
        header.insert(3, "guaranteed")
    rows = []
    for row in result.rows:
        gone = row.status == "abstains"
        cells = [
            row.name,
            _DASH if gone else four_digits(row.value),
            _DASH if gone else between(row.interval),
            _one_decimal(row.ess),
            "abstains" if gone else row.status,
            _FAMILY.get(row.family, row.family),
            *(["; ".join(row.notes)] if noted else []),
        ]
        if guaranteed:
            cells.insert(3, between(row.guaranteed))
        rows.append(cells)
    return Table(header, rows, words=range(header.index("rests on") - 1, len(header)))


def _reasons(result: OPEResult) -> dict[str, list[str]]:
    """Why estimates abstain, and which."""
    reasons: dict[str, list[str]] = {}
    for row in result.rows:
        for reason in row.reasons:
            reasons.setdefault(reason, []).append(row.name)
    return reasons


def _comparisons(result: OPEResult) -> Table:
    word = {True: "agree", False: "disagree", None: "cannot be compared"}
    rows = [
        [
            f"{c.first} \N{MINUS SIGN} {c.second}",
            four_digits(c.difference),
            between(c.interval),
            "yes" if c.paired else "no",
            word[c.agree],
        ]
        for c in result.comparisons
    ]
    return Table(["difference", "value", "interval", "in the same resamples", ""], rows)


def _tails(result: OPEResult) -> Table:
    header = ["return of", "mean of the worst", "interval", "highest of the worst", "interval", "ESS of the worst"]
    rows = []
    for found in result.tails:
        cells = ["abstains", *[_DASH] * 3]
        if found.eligible:
            cells = [
                four_digits(found.cvar),
                between(found.cvar_interval),
                four_digits(found.quantile),
                between(found.quantile_interval),
            ]
        of = "the log" if found.name == "naive" else f"the policy ({found.name})"
        rows.append([of, *cells, _one_decimal(found.ess)])
    share = f"{result.tails[0].share:.0%}" if result.tails else ""
    return Table(header, rows, caption=f"The worst {share} of the episodes")


def _weights(result: OPEResult) -> dict[str, Any] | None:
    """The figures of the weights and what is said beside them; None where no weights are used."""
    steps, limits, check = result.steps, Limits(), result.weights
    if steps is None or result.log_weights is None:
        return None
    assert check is not None
    divisor = "the logged probabilities"
    if result.behavior != "logged":
        divisor = f"probabilities of the behavior ({result.behavior})"
    said = (
        f"Weights divide by {divisor}. "
        f"Their mean is {check.mean_weight:.3g} ± {check.mean_weight_error:.2g} (expected 1), and the effective "
        f"sample size {check.ess:.1f} of {check.n:,} episodes."
    )
    if check.effective_clusters is not None:
        said += (
            f" Their sums over clusters count as {check.effective_clusters:.1f} of {check.clusters:,} clusters; one "
            f"cluster holds {check.top_cluster:.1%} of all weight."
        )
    alone = len(steps.ess) == 1
    histogram = svg(
        figures.weights(result.log_weights, 8.6 if alone else 4.0),
        f"Histogram of the weights of the episodes. {said}",
    )
    if alone:
        return {"said": said, "histogram": histogram, "alone": True}
    below = next((t + 1 for t, ess in enumerate(steps.ess) if ess < limits.ess), None)
    if below:
        said += (
            f" It falls below {limits.ess:g} at step {below} of {len(steps.ess)}: no horizon as long as that can be "
            "evaluated by weights."
        )
    return {
        "said": said,
        "histogram": histogram,
        "alone": False,
        "effective": svg(figures.effective(steps, limits.ess), f"Effective sample size by step. {said}"),
        "largest": svg(
            figures.largest(steps, limits.top_share),
            f"Share of the largest weight by step, {check.top_share:.1%} in the end.",
        ),
        "mean": svg(figures.mean_weight(steps), f"Mean weight by step, {check.mean_weight:.3g} in the end."),
    }


def _support(result: OPEResult) -> Table:
    rows = [
        [name, f"{found.share:.1%} ± {found.error:.1%}", f"{found.base:.0%}", wording.capital(found.what)]
        for name, found in result.support.items()
    ]
    return Table(["check", "share", "expected with full support", "of what"], rows, words=(3,))


def _by_group(groups: dict[str, OPEResult]) -> dict[str, Any]:
    first = next(iter(groups.values()))
    shown = {row.name for row in first.rows if any(g.row(row.name).status == "eligible" for g in groups.values())}
    chosen = [next((name for name in family if name in shown), None) for family in REPRESENTATIVES.values()]
    names = ["naive", *(name for name in chosen if name is not None)]  # all are in the JSON file
    counts = ["episodes", *([] if first.clusters is None else ["clusters"])]
    rows, bars = [], []
    for label, group in groups.items():
        cells = [f"{group.n:,}", *([] if group.clusters is None else [f"{group.clusters.n:,}"])]
        for row in map(group.row, names):
            gone = row.status == "abstains"
            cells.append("abstains" if gone else f"{four_digits(row.value)} ({between(row.interval)})")
        rows.append([label, *cells, _KIND[group.verdict.word][1].lower()])
        best = representative_estimate(group)
        bars.append(figures.bar(best, label if best is None else f"{label}: {best.name}"))
    whole = sum(g.returns[1] * g.n for g in groups.values()) / sum(g.n for g in groups.values())
    figure = figures.intervals(bars, {"mean return of the whole log": (whole, "data")}, x_label="estimated return")
    spoken = "; ".join(f"{label}: {group.verdict.word.lower()}" for label, group in groups.items())
    return {
        "level": first.level,
        "count": len(groups),
        "figure": svg(figure, f"Estimates by group. {spoken}"),
        "table": Table(["group", *counts, *("log" if n == "naive" else n for n in names), "verdict"], rows),
    }
