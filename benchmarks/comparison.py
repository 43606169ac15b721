"""The numbers, table and picture of ``score.py compare``: ours against d3rlpy's, over seeds."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Run = dict[str, Any]
"""What ``score.py run`` writes: at least dataset, algorithm, preset, seed, updates (of each point) and curve."""


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean over seeds and its standard error (sample standard deviation over sqrt(n)); nan for a single value.

    >>> mean_and_error([1.0, 2.0, 3.0])
    (2.0, 0.5773502691896258)
    """
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def numbers(runs: Iterable[Run], kind: str) -> list[float]:
    """One number per run: the ``last`` point of its curve, the mean of its ``five``, or the mean of ``both``."""
    take = {
        "last": lambda curve: curve[-1],
        "five": statistics.fmean,
        "both": lambda curve: (curve[-1] + statistics.fmean(curve)) / 2,
    }[kind]
    return [float(take(run["curve"])) for run in runs]


def difference(ours: list[float], peer: list[float]) -> tuple[float, float]:
    """Difference of means over seeds, and its standard error ``sqrt(se_ours^2 + se_peer^2)``."""
    (a, se_a), (b, se_b) = mean_and_error(ours), mean_and_error(peer)
    return a - b, math.hypot(se_a, se_b)


def cells(ours: list[Run], peer: list[Run], preset: str) -> list[Run]:
    """One entry per dataset and algorithm that both sides have, in the peer's order.

    Raises:
        ValueError: if a run was evaluated at other updates than the peer's.
    """
    found = []
    for dataset, algorithm in dict.fromkeys((r["dataset"], r["algorithm"]) for r in peer):
        theirs = [r for r in peer if (r["dataset"], r["algorithm"]) == (dataset, algorithm)]
        mine = [r for r in ours if (r["dataset"], r["algorithm"], r["preset"]) == (dataset, algorithm, preset)]
        if not mine:
            continue
        for r in mine:
            if r["updates"] != theirs[0]["updates"]:
                raise ValueError(
                    f"{dataset} {algorithm} seed {r['seed']} was evaluated at {r['updates']}, the peer at "
                    f"{theirs[0]['updates']}: only curves of the same length are comparable"
                )
        found.append({"dataset": dataset, "algorithm": algorithm, "ours": mine, "peer": theirs})
    return found


def over_cells(table: list[Run], kind: str) -> tuple[float, float, float, float]:
    """Mean difference in points and in units of each cell's standard error, each with its own standard error.

    That of the points follows from the cells' errors, that of the units from their spread over the cells.
    """
    pairs = [difference(numbers(c["ours"], kind), numbers(c["peer"], kind)) for c in table]
    n = len(pairs)
    units = [d / se for d, se in pairs]
    points = sum(d for d, _ in pairs) / n, math.sqrt(sum(se**2 for _, se in pairs)) / n
    return *points, *mean_and_error(units)


def table_lines(table: list[Run]) -> list[str]:
    """The Markdown table of one preset, and the means over its cells."""
    lines = [
        "| dataset | algorithm | measure | ours (seeds) | d3rlpy (seeds) | difference | in standard errors |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell in table:
        for kind, label in (("last", "last"), ("five", "mean of five")):
            mine, theirs = numbers(cell["ours"], kind), numbers(cell["peer"], kind)
            d, se = difference(mine, theirs)
            a, b = ("{:.1f} ± {:.1f} ({})".format(*mean_and_error(x), len(x)) for x in (mine, theirs))
            name = f"| {cell['dataset']} | {cell['algorithm']} | {label}"
            lines.append(f"{name} | {a} | {b} | {d:+.1f} ± {se:.1f} | {d / se:+.2f} |")
    lines += ["", f"Mean over the {len(table)} cells, difference in points | in standard errors:", ""]
    for kind, label in (("last", "last"), ("five", "mean of five"), ("both", "last and mean of five together")):
        d, se, u, u_se = over_cells(table, kind)
        lines.append(f"- {label}: {d:+.1f} ± {se:.1f} | {u:+.2f} ± {u_se:.2f}")
    return lines


def sentence(runs: list[Run], peer: dict[str, Any]) -> list[str]:
    """What the numbers are, and which versions and machines made them."""
    machines = sorted({r["machine"]["cpu"] for r in runs})
    versions = sorted({", ".join(f"{k} {v}" for k, v in r["versions"].items()) for r in runs})
    return [
        "Normalized scores (0: random, 100: expert, D4RL's reference returns) after **short runs of 50,000 gradient "
        "updates, not the literature's 1,000,000**, evaluated at every 10,000 on 10 episodes (reset seeds 1000 to "
        "1009), greedy policy. ± is the standard error over seeds; a difference has sqrt(se_ours² + se_peer²).",
        "",
        "With three seeds a side, a difference in units of its standard error follows about Student's t with 4 degrees "
        "of freedom: between equal programs 1 cell in 17 lies under -2.",
        "",
        f"Ours: {'; '.join(versions)}; {', '.join(machines)}, one thread per run. Peer: {peer['versions']}.",
    ]


def markdown(ours: list[Run], peer: dict[str, Any], reruns: list[Run]) -> str:
    """The whole of ``scores.md``."""
    lines = ["# Scores against d3rlpy", "", *sentence(ours, peer)]
    titles = {
        "peer": "Same settings as d3rlpy's",
        "authors": "Our presets with the authors' settings, against the same d3rlpy runs: not like for like",
    }
    for preset, title in titles.items():
        table = cells(ours, peer["runs"], preset)
        if table:
            lines += ["", f"## {title}", "", *table_lines(table)]
    if reruns:
        lines += [
            "",
            "## d3rlpy run again",
            "",
            "Whether the stored curves can be had again with `peer_d3rlpy.py`.",
            "",
        ]
        lines += ["| dataset | algorithm | seed | stored | again |", "|---|---|---|---|---|"]
    for again in reruns:
        key = ("dataset", "algorithm", "seed")
        stored: list[float] = next((r["curve"] for r in peer["runs"] if all(r[k] == again[k] for k in key)), [])
        shown = (", ".join(f"{x:.1f}" for x in curve) for curve in (stored, again["curve"]))
        lines.append("| " + " | ".join([*(str(again[k]) for k in key), *shown]) + " |")
    return "\n".join([*lines, "", "![curves](scores.png)", "", "Made by `python benchmarks/score.py compare`.", ""])


def readme_section(ours: list[Run], peer: dict[str, Any]) -> str:
    """The short table between README's markers: same settings as the peer's, last evaluation and mean of five."""
    table = cells(ours, peer["runs"], "peer")
    lines = [
        "Hopper data of mixed and of medium-expert quality, the same settings on both sides. **Short runs of 50,000 "
        "updates, not the literature's 1,000,000.** Normalized scores (0 random, 100 expert), mean ± standard error "
        "over three seeds; the last column is the difference of the means over five evaluations, in its "
        "standard errors.",
        "",
        "| data | algorithm | ours, last | d3rlpy, last | ours, mean of five | d3rlpy, mean of five | difference |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for cell in table:
        shown = []
        for kind in ("last", "five"):
            for side in ("ours", "peer"):
                shown.append("{:.1f} ± {:.1f}".format(*mean_and_error(numbers(cell[side], kind))))
        d, se = difference(numbers(cell["ours"], "five"), numbers(cell["peer"], "five"))
        lines.append(f"| {cell['dataset']} | {cell['algorithm']} | {' | '.join(shown)} | {d / se:+.1f} |")
    d, se, _, _ = over_cells(table, "both")
    lines += ["", f"Over all cells and both measures the difference is {d:+.1f} ± {se:.1f} points."]
    return "\n".join(lines)


def plot(ours: list[Run], peer: dict[str, Any], path: Path) -> None:
    """Curves of every dataset and algorithm: thin lines are seeds, thick ones their mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    datasets = list(dict.fromkeys(r["dataset"] for r in peer["runs"]))
    titles = {"bc": "BC", "td3_bc": "TD3+BC", "iql": "IQL"}
    figure, axes = plt.subplots(len(datasets), 3, figsize=(10, 2.9 * len(datasets)), sharex=True, sharey="row")
    sides = [
        ("ours, d3rlpy's settings", "#1b6ca8", "-", [r for r in ours if r["preset"] == "peer"]),
        ("ours, authors' settings", "#d1790f", "-", [r for r in ours if r["preset"] == "authors"]),
        ("d3rlpy 2.8.1", "#555555", "--", peer["runs"]),
    ]
    for axis, (dataset, algorithm) in zip(axes.flat, itertools.product(datasets, titles), strict=True):
        for label, color, style, runs in sides:
            some = [r for r in runs if (r["dataset"], r["algorithm"]) == (dataset, algorithm)]
            for r in some:
                axis.plot([u / 1000 for u in r["updates"]], r["curve"], style, color=color, lw=0.8, alpha=0.4)
            if some:
                mean = [statistics.fmean(points) for points in zip(*(r["curve"] for r in some), strict=True)]
                thousands = [u / 1000 for u in some[0]["updates"]]
                axis.plot(thousands, mean, style, color=color, lw=2.2, label=f"{label} ({len(some)} seeds)")
        behavior = peer["behavior_mean"].get(dataset)
        if behavior is not None:
            axis.axhline(behavior, color="#999999", lw=0.8, ls=":")
            axis.text(0.99, behavior, "data", color="#777777", fontsize=7, ha="right", va="bottom",
                      transform=axis.get_yaxis_transform())  # fmt: skip
        axis.set_title(f"{titles[algorithm]} on {dataset}", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(bottom=0)
    for axis in axes[-1]:
        axis.set_xlabel("thousand gradient updates")
    for axis in axes[:, 0]:
        axis.set_ylabel("normalized score")
    handles = {label: h for a in axes.flat for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="upper center", ncol=3, frameon=False, fontsize=9)
    figure.text(0.5, 0.005, "short runs of 50,000 updates, not the literature's 1,000,000", ha="center", fontsize=8)
    figure.tight_layout(rect=(0, 0.02, 1, 0.95))
    figure.savefig(path, dpi=130)
    plt.close(figure)
