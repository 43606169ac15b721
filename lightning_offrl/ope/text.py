"""The parts of an evaluation as lines of text, and numbers as words."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_offrl.data.text_table import aligned
from lightning_offrl.ope.checks.support import Support
from lightning_offrl.ope.checks.weight_diagnostics import WeightCheck
from lightning_offrl.ope.estimate import Row
from lightning_offrl.ope.tails import Tail
from lightning_offrl.ope.verdict import Comparison, OPEVerdict
from lightning_offrl.ope.weighting.intervals import Interval

WIDTH = 118


def number(x: float | None, digits: int = 5) -> str:
    """``digits`` significant figures; a dash for what is not a number."""
    return "-" if x is None or not math.isfinite(x) else f"{x:.{digits}g}"


def bounds(found: Interval | None) -> str:
    """``[low, high]`` or a dash."""
    return "-" if found is None or not found.usable else f"[{number(found.low)}, {number(found.high)}]"


def wrapped(text: str, indent: str = "          ") -> list[str]:
    """Lines of at most `WIDTH` characters, those after the first indented."""
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, drop_whitespace=True) or [text]


def plain_values(value: Any) -> Any:
    """The same value for JSON: tuples as lists, NaN and infinity as None."""
    if isinstance(value, dict):
        return {key: plain_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def support_lines(behavior: str, weights: WeightCheck | None, support: Mapping[str, Support]) -> list[str]:
    """What the checks of weights and of support found."""
    lines = []
    if weights is not None:
        lines.append(
            f"Weights   {behavior} behavior; mean {weights.mean_weight:.3g} +- {weights.mean_weight_error:.2g} "
            f"(expected 1), largest share {weights.top_share:.1%}"
        )
        if weights.effective_clusters is not None:
            lines.append(
                f"          of {weights.clusters:,} clusters: effective number {weights.effective_clusters:.1f}, "
                f"largest share {weights.top_cluster:.1%}"
            )
    for name, found in support.items():
        what = "own episodes would not be seen in such a log" if name == "unseen" else "actions lie far from the log's"
        lines.append(f"Support   {name}: {found.share:.1%} of the policy's {what} (base {found.base:.0%})")
    return lines


def estimate_lines(rows: Sequence[Row], level: float) -> list[str]:
    """The table of all estimates, and under it why some abstain."""
    head = ["estimator", "value", f"{level:.0%} interval", "ESS", "", ""]
    guaranteed = any(row.guaranteed is not None for row in rows)
    if guaranteed:
        head.insert(3, "guaranteed")
    cells = [head]
    why: dict[str, list[str]] = {}
    for row in rows:
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
        for reason in row.reasons:
            why.setdefault(reason, []).append(row.name)
    lines = aligned(cells) + (["", "Abstained because"] if why else [])
    for reason, names in why.items():
        lines += wrapped(f"  {', '.join(names)}: {reason}", indent="    ")
    return lines


def tail_lines(tails: Sequence[Tail]) -> list[str]:
    """Mean and border of the worst episodes."""
    lines: list[str] = []
    for found in tails:
        if not lines:
            lines += ["", f"Worst {found.share:.4g} of the episodes: their mean return, and the return at their border"]
        said = (
            f"{number(found.cvar)} {bounds(found.cvar_interval)}, {number(found.quantile)} "
            f"{bounds(found.quantile_interval)}, ESS {number(found.ess, 4)}"
        )
        lines += wrapped(f"  {found.name}: {said if found.eligible else 'ABSTAIN, ' + '; '.join(found.reasons)}")
    return lines


def comparison_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """The differences between families of estimates."""
    lines = ["", "Agreement"] if comparisons else []
    for c in comparisons:
        word = {True: "agree", False: "DISAGREE", None: "not comparable"}[c.agree]
        how = "paired" if c.paired else "unpaired"
        between = f" {how} {bounds(c.interval)}" if c.interval is not None else ""
        lines.append(f"  {c.first} - {c.second}: {number(c.difference)}{between}  {word}")
    return lines


def verdict_lines(verdict: OPEVerdict, value_bounds: Interval | None) -> list[str]:
    """The verdict, what is safe to claim, and what is assumed."""
    lines = ["", *wrapped(f"Verdict   {verdict.word}: {verdict.sentence}.")]
    if verdict.conservative is not None:
        lines.append(
            f"          Conservative value {number(verdict.conservative)} (smallest lower bound of the eligible, "
            f"{verdict.conservative_of})."
        )
    if value_bounds is not None:
        lines.append(
            f"          Whatever the log lacks, the value lies in {bounds(value_bounds)} ({value_bounds.level:.0%})."
        )
    if verdict.against_data:
        lines += wrapped(f"          {verdict.against_data[0].upper()}{verdict.against_data[1:]}.")
    if verdict.assumption:
        lines += wrapped(f"          Assumption: {verdict.assumption}.")
    return lines
