"""The page of an off-policy evaluation: the verdict in words, every estimate, the weights, and all it rests on."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from lightning_offrl.errors import InputError
from lightning_offrl.ope.checks.weight_diagnostics import Limits
from lightning_offrl.ope.estimate import Row
from lightning_offrl.ope.result import OPEResult
from lightning_offrl.ope.selection.ranking import representative_estimate
from lightning_offrl.ope.text import number as digits
from lightning_offrl.ope.verdict import REPRESENTATIVES
from lightning_offrl.ope.weighting.intervals import Interval
from lightning_offrl.ope.weighting.registry import ESTIMATORS
from lightning_offrl.reports import html, plots
from lightning_offrl.reports.html import Block, Markup
from lightning_offrl.reports.ope import figures as ope_figures
from lightning_offrl.reports.ope.figures import Bar
from lightning_offrl.reports.ope.notes import assumptions, definitions, resampled, rests_on

_MINUS = "\N{MINUS SIGN}"
_KIND = {
    "AGREE": ("improve", "Estimates agree"),
    "SINGLE": ("imitate", "One kind of estimate"),
    "DISAGREE": ("refuse", "Estimates disagree"),
    "ABSTAIN": ("refuse", "Abstains"),
}
_COLOR = {"baseline": "data", "weights": "series-2", "hybrid": "series-3", "values": "series-4", "model": "series-5"}


def document(result: OPEResult) -> Markup:
    """The whole page."""
    sections: list[Block] = [html.section("Estimates", *_estimates(result))]
    if result.comparisons:
        sections.append(html.section("Do they agree?", _comparisons(result)))
    if result.tails:
        sections.append(html.section("The worst episodes", *_tails(result)))
    if result.steps is not None and result.log_weights is not None:
        sections.append(html.section("Weights", *_weights(result)))
    if result.support:
        sections.append(html.section("Does the log show what the policy does?", _support(result)))
    for column, groups in result.groups.items():
        sections.append(html.section(f"By {column}", *_by_group(groups)))
    sections += [
        html.section("What this takes for granted", assumptions(result)),
        html.section("Definitions", definitions(result)),
        html.section("Where it comes from", *_provenance(result)),
    ]
    page = html.page(
        headline(result),
        _top(result),
        *sections,
        eyebrow=f"off-policy evaluation \N{MIDDLE DOT} {result.policy} \N{MIDDLE DOT} {result.data}",
        footer="An estimate from a log alone. Nothing here was measured by acting.",
        style=style(),
    )
    return Markup(page.replace(" %", "\N{NO-BREAK SPACE}%"))


def style() -> str:
    """What the pages of reports add to the common style."""
    return files("lightning_offrl.reports").joinpath("dataset.css").read_text(encoding="utf-8")


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
    return f"{result.policy} would earn about {number(row.value)}, {than}"


def number(value: float | None) -> str:
    """Four significant figures with a true minus sign; a dash for what is not there."""
    said = digits(value, 4)
    return "\N{EN DASH}" if said == "-" else said.replace("-", _MINUS)


def between(interval: Interval | None) -> str:
    """``low to high``, or a dash."""
    if interval is None or not interval.usable:
        return "\N{EN DASH}"
    return f"{number(interval.low)} to {number(interval.high)}"


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


def bars(result: OPEResult) -> list[Bar]:
    """All estimates as rows of the figure of intervals."""
    return [bar(row) for row in result.rows]


def bar(row: Row | None, name: str | None = None) -> Bar:
    """An estimate as a row of a figure; None, or one that abstains, as a word."""
    if row is None or row.status == "abstains":
        return Bar(name or (row.name if row else ""), words="abstains")
    found = row.interval if row.interval is not None and row.interval.usable else None
    low, high = (None, None) if found is None else (found.low, found.high)
    return Bar(name or row.name, row.value, low, high, _COLOR.get(row.family, "series-1"))


def _top(result: OPEResult) -> Markup:
    kind, word = _KIND[result.verdict.word]
    verdict, p5, p95 = result.verdict, result.returns[0], result.returns[2]
    said: list[Block] = [html.paragraph(f"Estimated: {estimand(result)}.", "lead")]
    said.append(html.paragraph(_capital(verdict.sentence) + ".", "lead"))
    if result.clusters is not None:
        said.append(html.paragraph(f"From {result.unit}; {resampled(result.clusters)}."))
    if verdict.conservative is not None:
        against = f" {_capital(verdict.against_data)}." if verdict.against_data else ""
        said.append(
            html.paragraph(
                f"If one number must be relied on, take the conservative value {number(verdict.conservative)}, the "
                f"smallest lower bound of the eligible estimates ({verdict.conservative_of}).{against}".replace(
                    " -", f" {_MINUS}"
                ),
                "lead",
            )
        )
    if result.bounds is not None:
        said.append(
            html.paragraph(
                f"Whatever the log lacks, the value lies from {between(result.bounds)} ({result.level:.0%})."
            )
        )
    if verdict.assumption:
        said.append(html.paragraph(f"Assumption: {verdict.assumption}."))
    row = representative_estimate(result)
    facts = []
    if row is not None:
        facts += [
            (number(row.value), f"estimate ({row.name})"),
            (between(row.interval), f"its {result.level:.0%} interval"),
            (number(verdict.conservative), "conservative value"),
        ]
    facts += [
        (number(result.returns[1]), f"mean return of the log (most episodes: {number(p5)} to {number(p95)})"),
        (f"{result.n:,}", "episodes"),
    ]
    clusters, weights = result.clusters, result.weights
    if clusters is not None:
        of = f" (column {clusters.column})" if clusters.column else ""
        facts.append((f"{clusters.n:,}", f"clusters{of}"))
    if weights is not None:
        facts.append((number(round(weights.ess, 1)), "effective sample size of the weights"))
        facts.append((f"{weights.top_share:.1%}", "of all weight on one episode"))
    if weights is not None and weights.effective_clusters is not None:
        facts.append((number(round(weights.effective_clusters, 1)), "effective number of clusters of the weights"))
        facts.append((f"{weights.top_cluster:.1%}", "of all weight on one cluster"))
    if "far" in result.support:
        facts.append((f"{result.support['far'].share:.1%}", "of its actions far from the log's (1 % is none)"))
    badge = Markup(f'<p class="verdict {kind}">{html.text(word)}</p>')
    return html.join([badge, *said, html.tiles(facts)])


def _estimates(result: OPEResult) -> list[Block]:
    lines = {"mean return of the log": (result.returns[1], "data")}
    if result.verdict.conservative is not None:
        lines["conservative value"] = (result.verdict.conservative, "series-1")
    spoken = "; ".join(
        f"{row.name} {'abstains' if row.status == 'abstains' else number(row.value) + ', ' + between(row.interval)}"
        for row in result.rows
    )
    figure = ope_figures.intervals(bars(result), lines, x_label="estimated return")
    guaranteed = any(row.guaranteed is not None for row in result.rows)
    noted = any(row.notes for row in result.rows)
    header = ["estimate", "value", f"{result.level:.0%} interval", "ESS", "", "rests on", *(["mind"] if noted else [])]
    if guaranteed:
        header.insert(3, "guaranteed")
    rows: list[list[Block]] = []
    for row in result.rows:
        gone = row.status == "abstains"
        cells: list[Block] = [
            row.name,
            "\N{EN DASH}" if gone else number(row.value),
            "\N{EN DASH}" if gone else between(row.interval),
            number(None if row.ess is None else round(row.ess, 1)),
            "abstains" if gone else row.status,
            rests_on(row.family),
            *(["; ".join(row.notes)] if noted else []),
        ]
        if guaranteed:
            cells.insert(3, between(row.guaranteed))
        rows.append(cells)
    words = range(header.index("rests on") - 1, len(header))
    blocks: list[Block] = [
        html.figure(
            plots.svg(figure, f"Estimates with their intervals. {spoken}"),
            "Every estimate with its interval",
            "Dots are estimates, bars their intervals. Estimates of one color rest on the same thing and do not "
            "confirm each other. What abstains is not shown as a number.",
        ),
        html.table(header, rows, words=tuple(words)),
    ]
    reasons: dict[str, list[str]] = {}
    for row in result.rows:
        for reason in row.reasons:
            reasons.setdefault(reason, []).append(row.name)
    if reasons:
        items = "".join(
            f'<li class="problem"><h3>{html.text(", ".join(names))}</h3><span class="level">abstain</span>'
            f"{html.paragraph(_capital(reason) + '.')}</li>"
            for reason, names in reasons.items()
        )
        blocks.append(Markup(f'<ul class="sayings">{items}</ul>'))
    return blocks


def _comparisons(result: OPEResult) -> Markup:
    word = {True: "agree", False: "disagree", None: "cannot be compared"}
    rows = [
        [
            f"{c.first} {_MINUS} {c.second}",
            number(c.difference),
            between(c.interval),
            "yes" if c.paired else "no",
            word[c.agree],
        ]
        for c in result.comparisons
    ]
    return html.table(["difference", "value", "interval", "in the same resamples", ""], rows)


def _tails(result: OPEResult) -> list[Block]:
    header = ["of", "mean return of the worst", "interval", "none of them above", "interval", "ESS there"]
    rows: list[list[Block]] = []
    for found in result.tails:
        cells = [number(found.cvar), between(found.cvar_interval), number(found.quantile)]
        cells = cells if found.eligible else ["abstains", "\N{EN DASH}", "\N{EN DASH}"]
        above = between(found.quantile_interval) if found.eligible else "\N{EN DASH}"
        of = "the log" if found.name == "naive" else f"the policy ({found.name})"
        rows.append([of, *cells, above, number(round(found.ess, 1))])
    reasons = dict.fromkeys(reason for found in result.tails for reason in found.reasons)
    return [
        html.table(header, rows, caption=f"The worst {result.tails[0].share:.0%} of the episodes"),
        *(html.paragraph(_capital(reason) + ".", "note") for reason in reasons),
    ]


def _weights(result: OPEResult) -> list[Block]:
    assert result.steps is not None and result.log_weights is not None and result.weights is not None
    steps, limits, check = result.steps, Limits(), result.weights
    divisor = "the logged probabilities"
    if result.behavior != "logged":
        divisor = f"probabilities of the behavior ({result.behavior})"
    said = (
        f"Weights divide by {divisor}. "
        f"Their mean is {check.mean_weight:.3g} ± {check.mean_weight_error:.2g} (expected 1), and the effective sample "
        f"size {check.ess:.1f} of {check.n:,} episodes."
    )
    if check.effective_clusters is not None:
        said += (
            f" Their sums over clusters count as {check.effective_clusters:.1f} of {check.clusters:,} clusters; one "
            f"cluster holds {check.top_cluster:.1%} of all weight."
        )
    alone = len(steps.ess) == 1
    histogram = html.figure(
        plots.svg(
            ope_figures.weights(result.log_weights, 8.6 if alone else 4.0),
            f"Histogram of the weights of the episodes. {said}",
        ),
        "Weights of the episodes",
        "Right of 1: episodes that the policy makes more likely than the behavior did.",
    )
    if alone:
        return [html.paragraph(said), histogram]
    below = next((t + 1 for t, ess in enumerate(steps.ess) if ess < limits.ess), None)
    lost = (
        f" It falls below {limits.ess:g} at step {below} of {len(steps.ess)}: no horizon as long as that can be "
        "evaluated by weights."
        if below
        else ""
    )
    return [
        html.paragraph(said + lost),
        html.grid(
            html.figure(
                plots.svg(ope_figures.effective(steps, limits.ess), f"Effective sample size by step. {said}{lost}"),
                "How many episodes count",
                "Effective sample size of the weights up to each step.",
            ),
            html.figure(
                plots.svg(
                    ope_figures.largest(steps, limits.top_share),
                    f"Share of the largest weight by step, {check.top_share:.1%} in the end.",
                ),
                "Whether one episode decides",
                "Share of the largest weight up to each step.",
            ),
            html.figure(
                plots.svg(ope_figures.mean_weight(steps), f"Mean weight by step, {check.mean_weight:.3g} in the end."),
                "Whether the weights can be right",
                "Mean weight with two standard errors. Below 1, the log lacks what the policy does, or chance has not "
                "shown it; above 1, probabilities are wrong.",
            ),
            histogram,
            smallest=420,
        ),
    ]


def _support(result: OPEResult) -> Markup:
    rows = []
    for name, found in result.support.items():
        rows.append([name, f"{found.share:.1%} ± {found.error:.1%}", f"{found.base:.0%}", _capital(found.what)])
    return html.table(["check", "share", "if all is shown", "of what"], rows, words=(3,))


def _by_group(groups: dict[str, OPEResult]) -> list[Block]:
    first = next(iter(groups.values()))
    shown = {row.name for row in first.rows if any(g.row(row.name).status == "eligible" for g in groups.values())}
    spoken_by = [next((name for name in family if name in shown), None) for family in REPRESENTATIVES.values()]
    names = ["naive", *(name for name in spoken_by if name is not None)]  # all are in the JSON file
    counted = ["episodes", *([] if first.clusters is None else ["clusters"])]
    header = ["group", *counted, *("log" if name == "naive" else name for name in names), "verdict"]
    rows: list[list[Block]] = []
    for label, group in groups.items():
        cells: list[Block] = []
        for name in names:
            row = group.row(name)
            cells.append("abstains" if row.status == "abstains" else f"{number(row.value)} ({between(row.interval)})")
        if group.clusters is not None:
            cells.insert(0, f"{group.clusters.n:,}")
        rows.append([label, f"{group.n:,}", *cells, _KIND[group.verdict.word][1].lower()])
    drawn = []
    for label, group in groups.items():
        spoken_for = representative_estimate(group)
        drawn.append(bar(spoken_for, label if spoken_for is None else f"{label}: {spoken_for.name}"))
    whole = sum(g.returns[1] * g.n for g in groups.values()) / sum(g.n for g in groups.values())
    lines = {"mean return of the whole log": (whole, "data")}
    spoken = "; ".join(f"{label}: {group.verdict.word.lower()}" for label, group in groups.items())
    return [
        html.paragraph(
            f"Intervals at {first.level:.4g}, so that all {len(groups)} groups are covered together (Bonferroni). Each "
            "group must earn its own eligibility."
        ),
        html.figure(
            plots.svg(ope_figures.intervals(drawn, lines, x_label="estimated return"), f"Estimates by group. {spoken}"),
            "Estimates by group",
        ),
        html.table(header, rows),
    ]


def _provenance(result: OPEResult) -> list[Block]:
    blocks: list[Block] = []
    if result.provenance:
        rows = [[name, value] for name, value in result.provenance.items()]
        blocks.append(html.table(["what", ""], rows, words=(1,)))
    if result.notes:
        items = "".join(f"<li>{html.text(_capital(note))}.</li>" for note in result.notes)
        blocks.append(Markup(f'<ul class="plain">{items}</ul>'))
    return blocks


def write(result: OPEResult, path: str | Path) -> Path:
    """Write the page.

    Raises:
        InputError: a path that does not end in ``.html``, or that cannot be written.
    """
    return write_page(document(result), path)


def write_page(page: str, path: str | Path) -> Path:
    """Write a document as ``path``; errors as of `write`."""
    target = Path(path).expanduser()
    if target.suffix != ".html":
        raise InputError(f"the page is written as .html, got the path {path}")
    try:
        return html.write(target, page)
    except OSError as problem:
        raise InputError(f"the page cannot be written to {path} ({problem.strerror}); name another place") from problem


def _capital(text: str) -> str:
    """As the beginning of a sentence; names of estimators stay as they are."""
    text = text.replace(" +- ", " ± ")
    return text if not text or text.split(",")[0].split()[0] in ESTIMATORS else f"{text[0].upper()}{text[1:]}"
