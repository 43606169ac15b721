"""The page of a choice among policies: their values, the choice, whether it holds, and whom to play first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lightning_offrl.ope.plan import Plan
from lightning_offrl.ope.selection import Choice, speaker
from lightning_offrl.report import html, ope_figures, plots
from lightning_offrl.report.html import Block, Markup
from lightning_offrl.report.ope_notes import resampled
from lightning_offrl.report.ope_page import bar, between, estimand, number, style, write_page


def document(choice: Choice, plan: Plan | None = None) -> Markup:
    """The whole page."""
    first = next(iter(choice.evaluations.values()))
    chosen = choice.by_lower[0] if choice.by_lower else None
    sections: list[Block] = [html.section("Policies", *_policies(choice))]
    if choice.measures:
        sections.append(html.section("Against the truth", _measures(choice)))
    if plan is not None:
        sections.append(html.section("Whom to play first", *_plan(plan)))
    sections.append(html.section("Where it comes from", _provenance(choice)))
    page = html.page(
        f"{chosen} is the safest choice" if chosen else "This log cannot tell these policies apart",
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
    if not choice.by_lower:
        said.append(
            html.paragraph("No policy has an eligible estimate with an interval, so nothing is chosen.", "lead")
        )
        return html.join([Markup('<p class="verdict refuse">No choice</p>'), *said])
    chosen = choice.by_lower[0]
    at = choice.names.index(chosen)
    said.append(
        html.paragraph(
            f"{chosen} has the largest conservative value, {number(float(choice.lower[at]))}; its estimate is "
            f"{number(float(choice.estimates[at]))}. {len(choice.top)} of {len(choice.names)} policies are "
            "not shown worse.",
            "lead",
        )
    )
    if choice.again is None:
        said.append(
            html.paragraph(
                "Its value is too high for having been chosen by it: estimate it again on episodes that took no part "
                "in the choice (--second-split)."
            )
        )
    else:
        row = speaker(choice.again)
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
        (chosen, "largest conservative value"),
        (choice.by_point[0], "largest estimate"),
        (str(len(choice.top)), "not shown worse than the best"),
        (number(first.returns[1]), "mean return of the log"),
    ]
    return html.join([Markup('<p class="verdict improve">Chosen</p>'), *said, html.tiles(facts)])


def _policies(choice: Choice) -> list[Block]:
    first = next(iter(choice.evaluations.values()))
    order = choice.by_point + [name for name in choice.names if name not in choice.by_point]
    found = [bar(speaker(choice.evaluations[name]), name) for name in order]
    rows = [replace(b, colour="series-3" if b.name in choice.top else "series-2") for b in found]
    lines = {"mean return of the log": (first.returns[1], "data")}
    if choice.by_lower:
        best = float(choice.lower[choice.names.index(choice.by_lower[0])])
        lines["best conservative value"] = (best, "series-1")
    spoken = "; ".join(f"{b.name} {b.words if b.value is None else number(b.value)}" for b in rows)
    header = ["policy", "estimate", "value", "interval", "conservative", "rank", "by lower bound", "verdict"]
    if choice.truths:
        header.insert(6, "truth")
    cells: list[list[Block]] = []
    for name in order:
        i = choice.names.index(name)
        row = speaker(choice.evaluations[name])
        cell: list[Block] = [
            name,
            choice.by[i].replace("-", "\N{EN DASH}"),
            number(float(choice.estimates[i])),
            between(None if row is None else row.interval),
            number(float(choice.lower[i])),
            _place(name, choice.by_point),
            _place(name, choice.by_lower),
            choice.evaluations[name].verdict.word.lower(),
        ]
        if choice.truths:
            cell.insert(6, number(choice.truths.get(name)))
        cells.append(cell)
    chosen = order.index(choice.by_lower[0]) if choice.by_lower else None
    return [
        html.figure(
            plots.svg(
                ope_figures.intervals(rows, lines, x_label="estimated return"), f"Policies by estimate. {spoken}"
            ),
            "Every policy with the estimate that speaks for it",
            "Green: the interval reaches the best conservative value, so it is not shown worse than the best.",
        ),
        html.table(header, cells, highlight=chosen),
    ]


def _measures(choice: Choice) -> Markup:
    found = int((~choice.estimates.isnan()).sum())
    rows = [[name, number(value)] for name, value in choice.measures.items()]
    return html.table(["measure", "value"], rows, caption=f"Of {found} policies with an estimate")


def _plan(plan: Plan) -> list[Block]:
    if not plan.names:
        return [html.paragraph("No policy has an estimate to begin a plan with.")]
    chance = plan.now.chance_best()
    rows: list[list[Block]] = [
        [
            name,
            f"{number(float(plan.prior.mean[i]))} ± {number(float(plan.prior.deviation[i]))}",
            f"{float(plan.prior.worth[i]):.1f}",
            str(int(plan.played[i])),
            f"{number(float(plan.now.mean[i]))} ± {number(float(plan.now.deviation[i]))}",
            f"{float(chance[i]):.0%}",
            str(plan.order.count(name)),
        ]
        for i, name in enumerate(plan.names)
    ]
    header = ["policy", "by the estimate", "worth episodes", "played", "now", "best with", "planned"]
    reasons = dict.fromkeys(plan.left_out.values())
    left = "".join(
        f" Left out, with {reason}: {', '.join(name for name, why in plan.left_out.items() if why == reason)}."
        for reason in reasons
    )
    return [
        html.paragraph(
            f"The next {len(plan.order)} episodes, by the upper quantiles of what is believed (Bayes-UCB), as if every "
            "policy returned its mean; plan again with what they return. Their returns must be counted as here: the "
            f"same discount and steps. An episode's return varies by {number(plan.now.noise)} ({plan.noise_from}); no "
            f"estimate counts for more than a few episodes, so that a misleading log is found out.{left}"
        ),
        html.table(header, rows),
        html.paragraph("Order: " + ", ".join(plan.order) + ".", "note"),
    ]


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
