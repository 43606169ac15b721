"""An evaluation as a page of text, and as plain values."""

from __future__ import annotations

import math
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lightning_offrl.ope.weighting.registry import ESTIMATORS

if TYPE_CHECKING:
    from lightning_offrl.data.clusters import Clusters
    from lightning_offrl.ope.result import Evaluation
    from lightning_offrl.ope.weighting.intervals import Interval

WIDTH = 118


def number(x: float | None, digits: int = 5) -> str:
    """``digits`` significant figures; a dash for what is not a number."""
    return "-" if x is None or not math.isfinite(x) else f"{x:.{digits}g}"


def bounds(found: Interval | None) -> str:
    """``[low, high]`` or a dash."""
    return "-" if found is None or not found.usable else f"[{number(found.low)}, {number(found.high)}]"


def aligned(cells: list[list[str]]) -> list[str]:
    """Rows of cells as lines with columns; the last column is not padded."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]) - 1)]
    return ["  ".join([c.ljust(w) for c, w in zip(row, widths, strict=False)] + [row[-1]]).rstrip() for row in cells]


def page(result: Evaluation) -> str:
    """Estimand, data, support, every estimate with its status, agreement, verdict, definitions."""
    per = "elapsed time" if "discounted by time" in result.notes else "step"
    steps = "whole episodes" if result.horizon is None else f"the first {result.horizon} steps"
    p5, mean, p95, top = result.returns
    lines = [
        f"Policy    {result.policy}",
        f"Estimand  sum of discount^t reward, discount {result.discount:g} per {per}, {steps}, first states of the log",
        f"Data      {result.data}: {result.unit}; return mean {number(mean)} (5 %: {number(p5)}, 95 %: "
        f"{number(p95)}, largest {number(top)})",
        *_support_lines(result),
        "",
        *_rows(result),
        *_why(result),
    ]
    lines += _tail_lines(result)
    if result.comparisons:
        lines += ["", "Agreement"]
        for c in result.comparisons:
            word = {True: "agree", False: "DISAGREE", None: "not comparable"}[c.agree]
            how = "paired" if c.paired else "unpaired"
            between = f" {how} {bounds(c.interval)}" if c.interval is not None else ""
            lines.append(f"  {c.first} - {c.second}: {number(c.difference)}{between}  {word}")
    verdict = result.verdict
    lines += ["", *_wrapped(f"Verdict   {verdict.word}: {verdict.sentence}.")]
    if verdict.conservative is not None:
        lines.append(
            f"          Conservative value {number(verdict.conservative)} (smallest lower bound of the eligible, "
            f"{verdict.conservative_of})."
        )
    if result.bounds is not None:
        lines.append(
            f"          Whatever the log lacks, the value lies in {bounds(result.bounds)} ({result.level:.0%})."
        )
    if verdict.against_data:
        lines += _wrapped(f"          {verdict.against_data[0].upper()}{verdict.against_data[1:]}.")
    if verdict.assumption:
        lines += _wrapped(f"          Assumption: {verdict.assumption}.")
    for column, groups in result.groups.items():
        lines += ["", *_group_lines(column, groups)]
    lines += ["", "Definitions"]
    lines += [f"  {row.name}: {ESTIMATORS[row.name].definition}" for row in result.rows if row.name in ESTIMATORS]
    for note in result.notes:
        lines += _wrapped(f"  note: {note}", indent="        ")
    return "\n".join(lines)


def _rows(result: Evaluation) -> list[str]:
    head = ["estimator", "value", f"{result.level:.0%} interval", "ESS", "", ""]
    guaranteed = any(row.guaranteed is not None for row in result.rows)
    if guaranteed:
        head.insert(3, "guaranteed")
    cells = [head]
    for row in result.rows:
        abstains = row.status == "abstains"
        cell = [
            row.name,
            "-" if abstains else number(row.value),
            "-" if abstains else bounds(row.interval),
            number(row.ess, 4),
            "ABSTAIN" if abstains else row.status,
            "; ".join(row.notes),
        ]
        if guaranteed:
            cell.insert(3, bounds(row.guaranteed))
        cells.append(cell)
    return aligned(cells)


def _why(result: Evaluation) -> list[str]:
    """Each reason once, with the estimators that abstain for it."""
    found: dict[str, list[str]] = {}
    for row in result.rows:
        for reason in row.reasons:
            found.setdefault(reason, []).append(row.name)
    if not found:
        return []
    lines = ["", "Abstained because"]
    for reason, names in found.items():
        lines += _wrapped(f"  {', '.join(names)}: {reason}", indent="    ")
    return lines


def _support_lines(result: Evaluation) -> list[str]:
    lines = []
    if result.weights is not None:
        w = result.weights
        lines.append(
            f"Weights   {result.behavior} behavior; mean {w.mean_weight:.3g} +- {w.mean_weight_error:.2g} (expected "
            f"1), largest share {w.top_share:.1%}"
        )
        if w.effective_clusters is not None:
            lines.append(
                f"          of {w.clusters:,} clusters: effective number {w.effective_clusters:.1f}, largest share "
                f"{w.top_cluster:.1%}"
            )
    for name, found in result.support.items():
        what = "own episodes would not be seen in such a log" if name == "unseen" else "actions lie far from the log's"
        lines.append(f"Support   {name}: {found.share:.1%} of the policy's {what} (base {found.base:.0%})")
    return lines


def _tail_lines(result: Evaluation) -> list[str]:
    lines: list[str] = []
    for found in result.tails:
        if not lines:
            lines += ["", f"Worst {found.share:.4g} of the episodes: their mean return, and the return at their border"]
        said = (
            f"{number(found.cvar)} {bounds(found.cvar_interval)}, {number(found.quantile)} "
            f"{bounds(found.quantile_interval)}, ESS {number(found.ess, 4)}"
        )
        lines += _wrapped(f"  {found.name}: {said if found.eligible else 'ABSTAIN, ' + '; '.join(found.reasons)}")
    return lines


def _group_lines(column: str, groups: dict[str, Evaluation]) -> list[str]:
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


def _wrapped(text: str, indent: str = "          ") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, drop_whitespace=True) or [text]


def as_dict(result: Evaluation) -> dict[str, Any]:
    """Everything but tensors."""
    verdict = result.verdict
    out: dict[str, Any] = {
        "policy": result.policy,
        "data": result.data,
        "episodes": result.n,
        "clusters": None if result.clusters is None else _clusters(result.clusters),
        "discount": result.discount,
        "horizon": result.horizon,
        "behavior": result.behavior,
        "level": result.level,
        "returns": dict(zip(("p5", "mean", "p95", "max"), result.returns, strict=True)),
        "estimates": [
            {
                "name": row.name,
                "family": row.family,
                "value": row.value,
                "status": row.status,
                "interval": None if row.interval is None else asdict(row.interval),
                "guaranteed": None if row.guaranteed is None else asdict(row.guaranteed),
                "ess": row.ess,
                "reasons": list(row.reasons),
                "notes": list(row.notes),
                "definition": ESTIMATORS[row.name].definition if row.name in ESTIMATORS else None,
            }
            for row in result.rows
        ],
        "weights": None if result.weights is None else asdict(result.weights),
        "weights_by_step": None if result.steps is None else asdict(result.steps),
        "support": {name: asdict(found) for name, found in result.support.items()},
        "comparisons": [asdict(c) for c in verdict.comparisons],
        "verdict": verdict.word,
        "sentence": verdict.sentence,
        "conservative": verdict.conservative,
        "conservative_of": verdict.conservative_of,
        "against_data": verdict.against_data,
        "assumption": verdict.assumption,
        "bounds": None if result.bounds is None else asdict(result.bounds),
        "tails": [asdict(found) for found in result.tails],
        "notes": list(result.notes),
        "provenance": result.provenance,
        "groups": {
            column: {label: as_dict(group) for label, group in groups.items()}
            for column, groups in result.groups.items()
        },
    }
    return _plain(out)


def _clusters(clusters: Clusters) -> dict[str, Any]:
    return {
        "column": clusters.column or None,
        "number": clusters.n,
        "effective": clusters.effective,
        "largest": int(clusters.size.max()),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
