"""Table and picture of ``score.py family``: every algorithm but the first three, beside d3rlpy and the data.

A side with one run has no spread of its own: it is given the other side's standard deviation over seeds, so that a
difference has ``sd * sqrt(1 / n + 1)`` as its standard error (the spread of a new run around a mean of n). With two
seeds that is a rough figure, and it says so.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from comparison import Run, numbers

NAMES = {
    "awac": "AWAC",
    "cql": "CQL",
    "cql_mean_target": "CQL, d3rlpy's target",
    "sac_n": "SAC-N (N = 10)",
    "edac": "EDAC (N = 10)",
    "rebrac": "ReBRAC",
    "bcq": "BCQ",
    "bear": "BEAR",
    "discrete_bc": "DiscreteBC",
    "dqn": "DQN",
    "discrete_cql": "DiscreteCQL",
    "discrete_bcq": "DiscreteBCQ",
}
PEERS = {"cql_mean_target": "cql"}
"""Whose runs an algorithm is compared with, where the names differ."""


def summary(values: list[float]) -> str:
    """``mean ± standard error (runs)``; a single run has no error.

    >>> summary([1.0, 3.0]), summary([2.0]), summary([])
    ('2.0 ± 1.0 (2)', '2.0 (1)', '')
    """
    if len(values) < 2:
        return f"{values[0]:.1f} (1)" if values else ""
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values) / math.sqrt(len(values)):.1f} ({len(values)})"


def difference(ours: list[float], peer: list[float]) -> tuple[float, float]:
    """Difference of the means and its standard error; see the module's docstring for single runs.

    >>> difference([1.0, 3.0], [1.0])
    (1.0, 1.7320508075688772)
    """
    spreads = [statistics.variance(side) if len(side) > 1 else None for side in (ours, peer)]
    known = [spread for spread in spreads if spread is not None]
    if not known:
        return statistics.fmean(ours) - statistics.fmean(peer), math.nan
    a, b = (known[0] if spread is None else spread for spread in spreads)
    return statistics.fmean(ours) - statistics.fmean(peer), math.sqrt(a / len(ours) + b / len(peer))


def rows(ours: list[Run], peer: list[Run]) -> list[tuple[str, str, list[Run], list[Run]]]:
    """(dataset, algorithm, our runs, the peer's runs) in the order of ``NAMES``; the peer's may be none.

    Raises:
        ValueError: if the two were evaluated after different numbers of updates.
    """
    found = []
    for dataset in sorted({r["dataset"] for r in ours}):
        for algorithm in NAMES:
            mine, theirs = (
                [r for r in side if (r["dataset"], r["algorithm"], r["preset"]) == (dataset, name, "peer")]
                for side, name in ((ours, algorithm), (peer, PEERS.get(algorithm, algorithm)))
            )
            if len({tuple(r["updates"]) for r in mine + theirs}) > 1:
                raise ValueError(f"{dataset} {algorithm}: only curves of the same length are comparable")
            if mine:
                found.append((dataset, algorithm, mine, theirs))
    return found


def table(ours: list[Run], peer: list[Run], behavior: dict[str, float]) -> list[str]:
    """Markdown lines, one row per dataset and algorithm; scores are means of each run's five evaluations, and last."""
    lines = [
        "| data (its mean) | algorithm | updates | ours, last | d3rlpy, last | ours, mean of five "
        "| d3rlpy, mean of five | difference | in standard errors |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for dataset, algorithm, mine, theirs in rows(ours, peer):
        cells = [
            summary(numbers(side, kind)) if side else "none" for kind in ("last", "five") for side in (mine, theirs)
        ]
        apart, units = "", ""
        if theirs:
            d, se = difference(numbers(mine, "five"), numbers(theirs, "five"))
            apart, units = (f"{d:+.1f} ± {se:.1f}", f"{d / se:+.1f}") if math.isfinite(se) else (f"{d:+.1f}", "")
        head = f"| {dataset} ({behavior[dataset]:.1f}) | {NAMES[algorithm]} | {mine[0]['updates'][-1]:,} "
        lines.append(f"{head}| {' | '.join(cells)} | {apart} | {units} |")
    return lines


def precision_table(reference: list[Run], lower: dict[str, list[Run]]) -> list[str]:
    """Markdown lines: each precision beside the float32 runs of the same data, algorithm, settings and length."""
    lines = [
        "| data | algorithm | updates | precision | float32, last | last | float32, mean of five | mean of five "
        "| difference | in standard errors |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for precision, runs in lower.items():
        for key in sorted({(r["dataset"], r["algorithm"], r["preset"], tuple(r["updates"])) for r in runs}):
            before, now = (
                [r for r in side if (r["dataset"], r["algorithm"], r["preset"], tuple(r["updates"])) == key]
                for side in (reference, runs)
            )
            if not before:
                continue
            d, se = difference(numbers(now, "five"), numbers(before, "five"))
            cells = [summary(numbers(side, kind)) for kind in ("last", "five") for side in (before, now)]
            head = f"| {key[0]} | {key[1]} | {key[3][-1]:,} | {precision} | "
            lines.append(f"{head}{' | '.join(cells)} | {d:+.1f} ± {se:.1f} | {d / se:+.1f} |")
    return lines


def plot(ours: list[Run], peer: list[Run], behavior: dict[str, float], path: Path) -> None:
    """One panel per dataset and algorithm: thin lines are runs, thick ones their mean; dotted: the data's mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = rows(ours, peer)
    columns = 4
    height = math.ceil(len(panels) / columns)
    figure, axes = plt.subplots(height, columns, figsize=(3.1 * columns, 2.5 * height), squeeze=False)
    for axis, (dataset, algorithm, mine, theirs) in zip(axes.flat, panels, strict=False):
        for label, color, style, runs in (("ours", "#1b6ca8", "-", mine), ("d3rlpy 2.8.1", "#555555", "--", theirs)):
            for r in runs:
                axis.plot([u / 1000 for u in r["updates"]], r["curve"], style, color=color, lw=0.8, alpha=0.45)
            if runs:
                mean = [statistics.fmean(points) for points in zip(*(r["curve"] for r in runs), strict=True)]
                axis.plot([u / 1000 for u in runs[0]["updates"]], mean, style, color=color, lw=2.2, label=label)
        axis.axhline(behavior[dataset], color="#999999", lw=0.9, ls=":", label="mean of the data")
        axis.set_title(f"{NAMES[algorithm]}, {dataset.replace('_', ' ')}", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(bottom=min(0, *axis.get_ylim()))
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("normalized score")
    for axis in axes.flat[max(0, len(panels) - columns) : len(panels)]:
        axis.set_xlabel("thousand gradient updates")
    handles = {label: h for a in axes.flat for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="upper center", ncol=3, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.35 / (2.5 * height)))
    figure.savefig(path, dpi=130)
    plt.close(figure)
