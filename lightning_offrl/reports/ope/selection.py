"""The page of a choice among policies: their values, the choice, whether it holds, and whom to play first."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from lightning_offrl.ope.selection.online_plan import Belief, Plan, runs
from lightning_offrl.ope.selection.ranking import Choice, representative_estimate
from lightning_offrl.reports import html, plots
from lightning_offrl.reports.html import Block, Markup
from lightning_offrl.reports.ope import figures as ope_figures
from lightning_offrl.reports.ope.notes import resampled
from lightning_offrl.reports.ope.page import bar, between, estimand, number, style, write_page

SHORT = {
    "less-error": "estimate less one error",
    "lower": "lower bound",
    "conservative": "conservative value",
    "value": "estimate",
    "regret": "bound of the regret",
}


def document(choice: Choice, plan: Plan | None = None) -> Markup:
    """The whole page."""
    first = next(iter(choice.evaluations.values()))
    chosen = choice.chosen
    sections: list[Block] = [html.section("Policies", *_policies(choice))]
    if choice.measures:
        sections.append(html.section("Against the truth", _measures(choice)))
    if plan is not None:
        sections.append(html.section("Whom to play first", *_plan(plan)))
    sections.append(html.section("Where it comes from", _provenance(choice)))
    page = html.page(
        f"Choose {chosen}" if chosen else "This log cannot tell these policies apart",
        _top(choice),
        *sections,
        eyebrow=f"choice among {len(choice.names)} policies \N{MIDDLE DOT} {first.data}",
        footer="Estimates from a log alone; offrl ope --report tells more of a single policy.",
        style=style(),
    )
    return Markup(page.replace(" %", "\N{NO-BREAK SPACE}%"))


def write(choice: Choice, path: str | Path, plan: Plan | None = None) -> Path:
    """Write the page.

    Raises:
        InputError: a path that does not end in ``.html``, or that cannot be written.
    """
    return write_page(document(choice, plan), path)


def _top(choice: Choice) -> Markup:
    first = next(iter(choice.evaluations.values()))
    said: list[Block] = [html.paragraph(f"Estimated: {estimand(first)}.", "lead")]
    chosen = choice.chosen
    if chosen is None:
        said.append(
            html.paragraph("No policy has an eligible estimate with an interval, so nothing is chosen.", "lead")
        )
        return html.join([Markup('<p class="verdict refuse">No choice</p>'), *said])
    at = choice.names.index(chosen)
    regret = float(choice.regret[at])
    short = f"no other is better by more than {number(regret)}" if regret > 0.0 else "none of the others is as good"
    said.append(
        html.paragraph(
            f"{chosen} is worth {number(float(choice.estimates[at]))} by estimate and "
            f"{number(float(choice.conservative[at]))} at least (its conservative value). "
            f"{len(choice.top)} of {len(choice.names)} policies may be the best; of those with an interval, {short} "
            f"({choice.level:.4g} probability).",
            "lead",
        )
    )
    said += [html.paragraph(words) for words in (choice.doubt, choice.rule) if words]
    if choice.again is None:
        said.append(
            html.paragraph(
                "Its value is too high for having been chosen by it: estimate it again on episodes that took no part "
                "in the choice (--second-split)."
            )
        )
    else:
        row = representative_estimate(choice.again)
        words = (
            "nothing is eligible" if row is None else f"it is {number(row.value)} ({between(row.interval)}, {row.name})"
        )
        said.append(
            html.paragraph(
                f"Its value is too high for having been chosen by it. On {choice.again.unit} that took no part in the "
                f"choice {words}; report this one."
            )
        )
    if first.clusters is not None:
        said.append(html.paragraph(f"From {first.unit}; {resampled(first.clusters)}."))
    facts = [
        (chosen, f"first by {SHORT[choice.rank_by]}"),
        (choice.by_point[0], "largest estimate"),
        (str(len(choice.top)), "may be the best"),
        (number(first.returns[1]), "mean return of the log"),
    ]
    return html.join([Markup('<p class="verdict improve">Chosen</p>'), *said, html.tiles(facts)])


def _policies(choice: Choice) -> list[Block]:
    first = next(iter(choice.evaluations.values()))
    order = choice.ranking + [name for name in choice.by_point if name not in choice.ranking]
    order += [name for name in choice.names if name not in order]
    found = [bar(representative_estimate(choice.evaluations[name]), name) for name in order]
    rows = [replace(b, color="series-3" if b.name in choice.top else "series-2") for b in found]
    lines = {"mean return of the log": (first.returns[1], "data")}
    if choice.chosen is not None and choice.rank_by == "lower":
        best = float(choice.lower[choice.names.index(choice.chosen)])
        lines["best lower bound"] = (best, "series-1")
    spoken = "; ".join(f"{b.name} {b.words if b.value is None else number(b.value)}" for b in rows)
    header = ["policy", "estimate", "value", "interval", "conservative", "rank", "by value", "verdict"]
    if choice.truths:
        header.insert(6, "truth")
    key = choice.key
    if key is not None:
        header.insert(5, key[0])
    cells: list[list[Block]] = []
    for name in order:
        i = choice.names.index(name)
        row = representative_estimate(choice.evaluations[name])
        cell: list[Block] = [
            name,
            choice.by[i].replace("-", "\N{EN DASH}"),
            number(float(choice.estimates[i])),
            between(None if row is None else row.interval),
            number(float(choice.conservative[i])),
            _place(name, choice.ranking),
            _place(name, choice.by_point),
            choice.evaluations[name].verdict.word.lower(),
        ]
        if choice.truths:
            cell.insert(6, number(choice.truths.get(name)))
        if key is not None:
            cell.insert(5, number(float(key[1][i])))
        cells.append(cell)
    chosen = None if choice.chosen is None else order.index(choice.chosen)
    return [
        html.figure(
            plots.svg(
                ope_figures.intervals(rows, lines, x_label="estimated return"), f"Policies by estimate. {spoken}"
            ),
            "Every policy with the estimate that speaks for it",
            f"Green: may be the best; the best of all with an interval is among these with {choice.level:.4g} "
            "probability. What the policies share, such as lucky episodes, cancels in paired differences, so one can "
            "be shown worse although its interval overlaps.",
        ),
        html.table(header, cells, highlight=chosen),
    ]


def _measures(choice: Choice) -> Markup:
    found = int((~choice.estimates.isnan()).sum())
    rows = [[name, number(value)] for name, value in choice.measures.items()]
    return html.table(["measure", "value"], rows, caption=f"Of {found} policies with an estimate")


def _plan(plan: Plan) -> list[Block]:
    absent = [html.paragraph(plan.absent[0].upper() + plan.absent[1:] + ".", "note")] if plan.left_out else []
    if not plan.names:
        return [html.paragraph("No policy has an estimate to begin a plan with."), *absent]
    chance = plan.now.chance_best()
    rows: list[list[Block]] = [
        [
            name,
            _belief(plan.prior, i),
            f"{float(plan.prior.worth[i]):.1f}",
            str(int(plan.played[i])),
            _belief(plan.now, i),
            f"{float(chance[i]):.0%}" if math.isfinite(float(plan.now.deviation[i])) else "\N{EN DASH}",
            str(plan.order.count(name)),
        ]
        for i, name in enumerate(plan.names)
    ]
    header = ["policy", "by the estimate", "worth episodes", "played", "now", "best with", "planned"]
    return [
        html.paragraph(
            f"The next {len(plan.order)} episodes, by the upper quantiles of what is believed (Bayes-UCB), as if every "
            "policy returned its mean; plan again with what they return. Their returns must be counted as here: the "
            f"same discount and steps. An episode's return varies by {number(plan.now.noise)} ({plan.noise_from}); no "
            "estimate counts for more than a few episodes, so that a misleading log is found out."
        ),
        html.table(header, rows),
        html.paragraph("Order: " + ", ".join(runs(plan.order)) + ".", "note"),
        *absent,
    ]


def _belief(belief: Belief, i: int) -> str:
    mean, deviation = float(belief.mean[i]), float(belief.deviation[i])
    return f"{number(mean)} ± {number(deviation)}" if math.isfinite(deviation) else "unknown"


def _provenance(choice: Choice) -> Markup:
    rows: list[list[Block]] = []
    for name, evaluation in choice.evaluations.items():
        for key, value in evaluation.provenance.items():
            if key.startswith("policy"):
                rows.append([f"{name}: {key}", value])
    common = next(iter(choice.evaluations.values())).provenance
    rows += [[key, value] for key, value in common.items() if not key.startswith("policy")]
    return html.table(["what", ""], rows, words=(1,)) if rows else Markup("")


def _place(name: str, order: list[str]) -> str:
    return str(order.index(name) + 1) if name in order else "\N{EN DASH}"
