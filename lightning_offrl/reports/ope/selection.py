"""The report of a choice among policies: their values, the choice, whether it holds, and which to run first."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_offrl.ope.selection.online_plan import Belief, Plan, runs
from lightning_offrl.ope.selection.ranking import Choice, representative_estimate
from lightning_offrl.reports import html
from lightning_offrl.reports.formatting import four_digits
from lightning_offrl.reports.html import Markup, Table
from lightning_offrl.reports.ope import figures, wording
from lightning_offrl.reports.theme import svg

_DASH = "\N{EN DASH}"
SHORT = {
    "less-error": "estimate less one error",
    "lower": "lower bound",
    "conservative": "conservative value",
    "value": "estimate",
    "regret": "bound of the regret",
}


def write(choice: Choice, path: str | Path, plan: Plan | None = None) -> Path:
    """Write the report.

    Raises:
        InputError: a path that does not end in ``.html``, or that cannot be written.
    """
    return html.write(path, document(choice, plan))


def document(choice: Choice, plan: Plan | None = None) -> Markup:
    """The report as HTML."""
    chosen = choice.chosen
    order = choice.ranking + [name for name in choice.by_point if name not in choice.ranking]
    order += [name for name in choice.names if name not in order]
    found = int((~choice.estimates.isnan()).sum())
    return html.render(
        "selection.html.j2",
        title=f"Choose {chosen}" if chosen else "This log cannot tell these policies apart",
        choice=choice,
        first=next(iter(choice.evaluations.values())),
        at=None if chosen is None else choice.names.index(chosen),
        again=None if choice.again is None else representative_estimate(choice.again),
        ranked_by=SHORT[choice.rank_by],
        wording=wording,
        figure_of_policies=_figure(choice, order),
        policies=_policies(choice, order),
        measures=Table(
            ["measure", "value"],
            [[name, four_digits(value)] for name, value in choice.measures.items()],
            caption=f"Of {found} policies with an estimate",
        ),
        plan=plan,
        planned=None if plan is None or not plan.names else _planned(plan),
        provenance=_provenance(choice),
    )


def _figure(choice: Choice, order: list[str]) -> Markup:
    found = [figures.bar(representative_estimate(choice.evaluations[name]), name) for name in order]
    rows = [replace(b, color="series-3" if b.name in choice.top else "series-2") for b in found]
    first = next(iter(choice.evaluations.values()))
    lines = {"mean return of the log": (first.returns[1], "data")}
    if choice.chosen is not None and choice.rank_by == "lower":
        best = float(choice.lower[choice.names.index(choice.chosen)])
        lines["best lower bound"] = (best, "series-1")
    spoken = "; ".join(f"{b.name} {b.words if b.value is None else four_digits(b.value)}" for b in rows)
    return svg(figures.intervals(rows, lines, x_label="estimated return"), f"Policies by estimate. {spoken}")


def _policies(choice: Choice, order: list[str]) -> Table:
    header = ["policy", "estimate", "value", "interval", "conservative", "rank", "by value", "verdict"]
    key = choice.key
    if choice.truths:
        header.insert(6, "truth")
    if key is not None:
        header.insert(5, key[0])
    rows = []
    for name in order:
        i = choice.names.index(name)
        row = representative_estimate(choice.evaluations[name])
        cells = [
            name,
            choice.by[i].replace("-", _DASH),
            four_digits(float(choice.estimates[i])),
            wording.between(None if row is None else row.interval),
            four_digits(float(choice.conservative[i])),
            _place(name, choice.ranking),
            _place(name, choice.by_point),
            choice.evaluations[name].verdict.word.lower(),
        ]
        if choice.truths:
            cells.insert(6, four_digits(choice.truths.get(name)))
        if key is not None:
            cells.insert(5, four_digits(float(key[1][i])))
        rows.append(cells)
    return Table(header, rows, highlight=None if choice.chosen is None else order.index(choice.chosen))


def _place(name: str, order: list[str]) -> str:
    return str(order.index(name) + 1) if name in order else _DASH


def _planned(plan: Plan) -> dict[str, Any]:
    chance = plan.now.chance_best()
    rows = [
        [
            name,
            _belief(plan.prior, i),
            f"{float(plan.prior.worth[i]):.1f}",
            str(int(plan.played[i])),
            _belief(plan.now, i),
            f"{float(chance[i]):.0%}" if math.isfinite(float(plan.now.deviation[i])) else _DASH,
            str(plan.order.count(name)),
        ]
        for i, name in enumerate(plan.names)
    ]
    header = ["policy", "by the estimate", "worth episodes", "episodes run", "now", "chance to be best", "planned"]
    return {"table": Table(header, rows), "order": ", ".join(runs(plan.order))}


def _belief(belief: Belief, i: int) -> str:
    mean, deviation = float(belief.mean[i]), float(belief.deviation[i])
    return f"{four_digits(mean)} ± {four_digits(deviation)}" if math.isfinite(deviation) else "unknown"


def _provenance(choice: Choice) -> Table:
    rows = [
        [f"{name}: {key}", str(value)]
        for name, evaluation in choice.evaluations.items()
        for key, value in evaluation.provenance.items()
        if key.startswith("policy")
    ]
    common = next(iter(choice.evaluations.values())).provenance
    rows += [[key, str(value)] for key, value in common.items() if not key.startswith("policy")]
    return Table(["what", ""], rows, words=(1,))
