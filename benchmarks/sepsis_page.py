"""The page and the picture of ``sepsis.py``: every number in them is computed from the stored results."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent, fill
from typing import Any

from gridworld_plots import STYLE
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_offrl.reports.theme import COLORS, save

WARDS = {"recorded": "diabetes is in the record", "hidden": "diabetes is hidden"}
SOURCES = {"logged": "the clinician's own", "fitted": "fitted to the record"}
SHOWN = [("logged", "wis"), ("logged", "wdr"), ("fitted", "wis"), ("fitted", "wdr"), ("fitted", "fqe")]
LABELS = {
    ("logged", "wis"): "WIS, clinician's own",
    ("logged", "wdr"): "WDR, clinician's own",
    ("fitted", "wis"): "WIS, fitted",
    ("fitted", "wdr"): "WDR, fitted",
    ("fitted", "fqe"): "FQE (needs none)",
}
MARKS = {"wis": "o", "wdr": "D", "fqe": "s"}


def write(results: dict[str, Any], folder: Path) -> str:
    """``sepsis.png`` and ``sepsis.md``; returns the text."""
    with rc_context(STYLE):
        save(picture(results), folder / "sepsis.png")
    parts = (introduction, estimates, what_is_seen, limits, many_logs, strength, abstentions)
    text = "\n\n".join(filled(dedent(part(results))) for part in parts) + "\n"
    (folder / "sepsis.md").write_text(text)
    return text


def filled(text: str) -> str:
    """Paragraphs of prose as lines of 120 characters; tables and the like as they are."""
    blocks = text.split("\n\n")
    return "\n\n".join(b if b[:1] in "|#*!<" and b[:2] != "**" else fill(" ".join(b.split()), 120) for b in blocks)


def number(value: float, digits: int = 3) -> str:
    """With a true minus sign, and none before a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def between(interval: list[float] | None, digits: int = 2) -> str:
    """Ends of an interval."""
    return "" if interval is None else f"[{number(interval[0], digits)}, {number(interval[1], digits)}]"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the first column is text."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def eligible(results: dict[str, Any], ward: str, source: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Policy, estimator and row of every estimate that may be used."""
    found = results[ward]["policies"].items()
    return [
        (policy, name, row)
        for policy, one in found
        for name, row in one[source]["rows"].items()
        if row["status"] == "eligible" and row["covers"] is not None
    ]


def introduction(results: dict[str, Any]) -> str:
    """What was done."""
    updates = results["updates"]
    return f"""\
        # Sepsis: estimates against exact values, with and without something that the record hides

        Made by `python benchmarks/sepsis.py` in {results["cpu_seconds"]:.0f} s of one core. The ward is
        `lightning_offrl.envs.sepsis` with {results["diabetes"]:.0%} diabetics; a policy's value is the discounted
        ({results["discount"]:g}) sum of +1 for discharge and -1 for death, solved from the ward's transition
        probabilities. Two wards are alike but for the record: in one it says who is diabetic, in the other it does
        not, while the clinician at the bedside always sees it. Each has a log of {results["episodes"]:,} admissions to
        learn from and another of {results["episodes"]:,} to evaluate on.

        Five policies, none of which sees more than the record: the clinician (where diabetes is hidden, their
        probabilities averaged over it), no treatment at all, imitation (DiscreteBC, {updates["bc"]:,} updates),
        DiscreteCQL (weight 0.03, {updates["cql"]:,} updates), and a coin at every step between CQL and the clinician.
        FQE has {updates["fqe"]:,} updates, and {results["refits"]} refits to resampled admissions for its interval
        (95 %); WDR rests on its values. "The clinician's own" probabilities are those of all that was seen at the
        bedside, which hospitals do not log. "Fitted" ones are a network's.

        ![estimates](sepsis.png)

        Estimates and 95 % intervals less the exact value. Those that abstain are not drawn."""


def estimates(results: dict[str, Any]) -> str:
    """Four tables."""
    parts = []
    for ward, title in WARDS.items():
        for source, whose in SOURCES.items():
            rows = []
            for policy, one in results[ward]["policies"].items():
                cells = [policy, number(one["exact"])]
                for name in ("wis", "pdis", "wdr", "fqe"):
                    row = one[source]["rows"][name]
                    missed = " **x**" if row["status"] == "eligible" and row["covers"] is False else ""
                    shown = f"{number(row['value'], 2)} {between(row['interval'])}{missed}"
                    cells.append("abstains" if row["status"] == "abstains" else shown)
                rows.append([*cells, one[source]["verdict"]])
            found = eligible(results, ward, source)
            covered = sum(row["covers"] for _, _, row in found)
            naive = next(iter(results[ward]["policies"].values()))[source]["rows"]["naive"]
            parts.append(
                f"## {title[0].upper()}{title[1:]}; probabilities: {whose}\n\n"
                + table(["policy", "exact", "WIS", "PDIS", "WDR", "FQE", "verdict"], rows)
                + f"\n\nThe log's mean return is {number(naive['value'], 2)} {between(naive['interval'])}. "
                f"{covered} of {len(found)} eligible intervals hold the exact value (CWPDIS and DR counted); **x**: "
                "not. They share a log and a fit, so this is no rate of coverage."
            )
    return "\n\n".join(parts)


def told(results: dict[str, Any], ward: str, word: str) -> str:
    """Policies whose fitted weights abstain for a reason with this word."""
    found = [
        policy
        for policy, one in results[ward]["policies"].items()
        if any(word in reason for reason in one["fitted"]["rows"]["wis"]["reasons"])
    ]
    return ", ".join(found) or "none of the five"


def fqe_error(results: dict[str, Any], ward: str) -> str:
    """Mean error of FQE over the policies for which it is eligible on both wards."""
    rows = {w: {p: one["fitted"]["rows"]["fqe"] for p, one in results[w]["policies"].items()} for w in WARDS}
    both = [p for p in rows[ward] if all(rows[w][p]["status"] == "eligible" for w in WARDS)]
    exact = results[ward]["policies"]
    return number(sum(rows[ward][p]["value"] - exact[p]["exact"] for p in both) / len(both))


def what_is_seen(results: dict[str, Any]) -> str:
    """What the log gives away, and what it does not."""
    hidden, recorded = results["hidden"], results["recorded"]
    wrong = [f"{n} of {p}" for p, n, row in eligible(results, "hidden", "fitted") if not row["covers"]]
    apart = [p for p, one in hidden["policies"].items() if one["logged"]["verdict"] == "DISAGREE"]
    said = next((x for one in hidden["policies"].values() if (x := one["fitted"]["assumption"])), "")
    return f"""\
        ## What can be seen, and what cannot

        **In the clinician's own probabilities.** `offrl ope` looks for steps at which the same observation and action
        carry different ones. Diabetes recorded: {recorded["unrecorded_cause"] or "nothing found"}. Diabetes hidden:
        {hidden["unrecorded_cause"] or "nothing found"}. They also predict the clinician better than the fit to the
        record does: {number(hidden["clinician_nll"])} nats per action against {number(hidden["held_out_nll"])}
        (diabetes recorded: {number(recorded["clinician_nll"])} against {number(recorded["held_out_nll"])}). Weights
        that divide by them stay right, fitted values do not. Where both are eligible the verdict compares them, but it
        lets differences pass that are below 5 % of the spread of returns (DISAGREE here:
        {", ".join(apart) or "never"}).

        **In fitted weights, sometimes.** Diabetes lasts, so earlier steps tell of later decisions; multiplied along an
        episode, probabilities fitted to single steps then give a mean weight other than 1. The page abstains for that,
        here for: {told(results, "hidden", "decisions depended")}. It cannot tell it from a poor fit (where diabetes is
        recorded, for: {told(results, "recorded", "decisions depended")}), and a cause that is new at every step leaves
        no such trace.

        **Nowhere else.** Fitted Q and models take what is recorded for all there is, and what is left of the fitted
        weights leans the same way (next table). Intervals that miss the exact value where diabetes is hidden and
        probabilities are fitted: {", ".join(wrong) or "none in this log"}. (A network's fitted Q is a little off by
        itself: by {fqe_error(results, "recorded")} on average where diabetes is recorded,
        {fqe_error(results, "hidden")} where it is hidden.) More data make intervals narrower, not better. In general no
        test can tell: for a hidden cause there is a world without one that leaves the same record, and in
        which the policies have other values. All that the page can do is to say so: "{said}". What helps is knowledge
        from outside the log: who decided, on what, and whether the record holds it."""


def limits(results: dict[str, Any]) -> str:
    """Infinite logs."""
    rows = []
    for policy, one in results["coverage"].items():
        cells = [policy, number(one["exact"])]
        for place in WARDS:
            found = one["limits"][place]
            gaps = (number(found[name] - one["exact"], 4) for name in ("wis", "fqe"))
            cells += [*gaps, number(found["mean_weight"])]
        rows.append(cells)
    head = ["policy", "exact", *(f"{name}, {place}" for place in WARDS for name in ("WIS", "FQE", "mean weight"))]
    return """\
        ## With infinitely many records

        The error that is left, computed exactly: no sampling, no network, no lack of support. WIS divides by the
        clinician's probabilities *given the record*, which is what every fit tends to; FQE is that of the process which
        the record shows (`Sepsis.record_process`). Three policies near the clinician that do not look at diabetes.

        TABLE""".replace("TABLE", table(head, rows).replace("\n", "\n        "))


def many_logs(results: dict[str, Any]) -> str:
    """Error and coverage over independent logs."""
    rows, logs = [], results["logs"]
    for policy, one in results["coverage"].items():
        cells = [policy]
        for key in ("naive", "own", "hidden"):
            wis = one["wis"][key]
            cells.append(f"{number(wis['mean'] - one['exact'])} ± {number(wis['sd'] / logs**0.5)}")
            if key != "naive":
                cells += [str(wis["eligible"]), f"{wis['eligible_covers']} of {wis['eligible']}"]
        rows.append(cells)
    head = ["policy", "the log's mean", "WIS, own", "eligible", "hold", "WIS, hidden", "eligible", "hold"]
    return f"""\
        ## On {logs} independent logs

        The same policies, {results["episodes"]:,} admissions each time: the mean error of the estimate, in how many
        logs its weights are eligible, and how many of these intervals (95 %, delta method) hold the exact value. "Own":
        the clinician's own probabilities, which are also what a perfect fit finds where diabetes is recorded. "Hidden":
        a perfect fit to the record without it. Weights of whole episodes have heavy tails here (a few long stays), so
        that many logs abstain, and intervals of WIS can be too short even with the right probabilities.

        TABLE""".replace("TABLE", table(head, rows).replace("\n", "\n        "))


def strength(results: dict[str, Any]) -> str:
    """Sensitivity bounds where the weights may be used."""
    gammas = results["gammas"]
    rows = []
    for ward, title in WARDS.items():
        for policy, one in results[ward]["policies"].items():
            if one["fitted"]["rows"]["wis"]["status"] != "eligible":
                continue
            for decisions, found in one["sensitivity"].items():
                cells = [f"{title}: {policy}", decisions, number(one["exact"], 2)]
                rows.append([*cells, *(between(found["intervals"][i]) for i in range(len(gammas)))])
    head = ["ward: policy", "decisions", "exact", *(f"Γ = {g:g}" for g in gammas)]
    return """\
        ## How strong would a hidden cause have to be?

        `lightning_offrl.ope.weighting.sensitivity` lets the clinician's true odds of a logged action differ from the
        fitted ones by a factor of up to Γ, at one decision per admission or at all, and widens the interval of WIS to
        all that is then possible. Γ is no estimate: it is an argument about what the record lacks. With Γ at every
        decision the factors multiply, and soon nothing is excluded.

        TABLE""".replace("TABLE", table(head, rows).replace("\n", "\n        "))


def abstentions(results: dict[str, Any]) -> str:
    """Every reason."""
    lines = []
    for ward in WARDS:
        for policy, one in results[ward]["policies"].items():
            for source, whose in SOURCES.items():
                why: dict[str, list[str]] = {}
                for name, row in one[source]["rows"].items():
                    for reason in row["reasons"]:
                        why.setdefault(reason, []).append(name)
                lines += [f"* {ward}, {policy}, {whose}: {', '.join(n)}: {reason}" for reason, n in why.items()]
    return "## Why estimates abstain\n\n" + "\n".join(lines)


# -- the picture -----------------------------------------------------------------------------------------------------


def picture(results: dict[str, Any]) -> Figure:
    """Errors on both wards; an estimate that abstains is not drawn."""
    figure = Figure(figsize=(11.5, 6.8), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharey=True)
    for axes, (ward, title) in zip((upper, lower), WARDS.items(), strict=True):
        _ward(axes, results[ward]["policies"])
        axes.set_title(title)
        axes.set_ylabel("estimate less exact value")
    handles, labels = upper.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
    return figure


def _ward(axes: Axes, policies: dict[str, Any]) -> None:
    hues = {"logged": COLORS["series-2"], "fitted": COLORS["series-1"]}
    axes.axhline(0.0, color=COLORS["ink"], linewidth=1.2)
    drawn = set()
    for k, (source, name) in enumerate(SHOWN):
        color = COLORS["series-3"] if name == "fqe" else hues[source]
        # out of sight, for the legend: some estimates abstain everywhere
        axes.plot([], [], MARKS[name], color=color, label=LABELS[source, name])
        for i, one in enumerate(policies.values()):
            row = one[source]["rows"][name]
            if row["status"] != "eligible" or row["interval"] is None:
                continue
            drawn.add(i)
            x = i + (k - (len(SHOWN) - 1) / 2) * 0.12
            axes.vlines(x, *(end - one["exact"] for end in row["interval"]), color=color, linewidth=1.8)
            axes.plot([x], [row["value"] - one["exact"]], MARKS[name], color=color, markersize=5.5)
    for i in set(range(len(policies))) - drawn:
        axes.annotate("all abstain", (i, 0.0), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=9)
    names = [f"{name}, exact {number(one['exact'], 2)}" for name, one in policies.items()]
    axes.set_xticks(range(len(policies)), names)
    axes.set_xlim(-0.5, len(policies) - 0.5)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color=COLORS["rule"], linewidth=0.6)
    axes.set_axisbelow(True)
