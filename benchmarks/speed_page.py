"""The table and the plot of ``speed.py``."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np

NAMES = {"bc": "BC", "td3_bc": "TD3+BC", "iql": "IQL", "cql": "CQL", "sac_n": "SAC-N (10 critics)"}
GOALS = [
    ("iql", "ours fp32", "d3rlpy fp32", 1.8),
    ("iql", "ours bf16", "d3rlpy fp32", 3.2),
    ("td3_bc", "ours fp32", "d3rlpy fp32", 1.8),
    ("td3_bc", "ours bf16", "d3rlpy fp32", 2.8),
    ("cql", "ours fp32", "d3rlpy fp32", 1.2),
    ("cql", "ours bf16", "d3rlpy fp32", 3.2),
]
"""Algorithm, ours, theirs, and how many times as fast ours should be, at batch 256 and width 256."""
FLOOR_GOAL = 1.5
BINDING_GOAL = 0.03


def times(result: dict[str, Any], name: str, clock: str = "cpu") -> list[float]:
    """Milliseconds per update, one number per round."""
    return [turn[clock] for turn in result["competitors"][name]["turns"]]


def ratio(result: dict[str, Any], slow: str, fast: str) -> tuple[float, float, float]:
    """Median of ``slow`` over median of ``fast``, and its 95 % interval by bootstrap over rounds.

    >>> turns = {"a": [2.0, 2.2, 1.8], "b": [1.0, 1.1, 0.9]}
    >>> cell = {"competitors": {k: {"turns": [{"cpu": t} for t in v]} for k, v in turns.items()}}
    >>> [round(x, 6) for x in ratio(cell, "a", "b")]
    [2.0, 2.0, 2.0]
    """
    one, other = (np.array(times(result, name)) for name in (slow, fast))
    rounds = np.random.default_rng(0).integers(0, len(one), (2000, len(one)))
    again = np.median(one[rounds], axis=1) / np.median(other[rounds], axis=1)
    low, high = np.quantile(again, [0.025, 0.975])
    return float(np.median(one) / np.median(other)), float(low), float(high)


def cell_table(result: dict[str, Any]) -> str:
    """One cell as markdown."""
    lines = [
        "| | CPU ms per update (quartiles) | wall ms | times as fast as d3rlpy fp32 (95 %) | share of its floor |",
        "|---|---|---|---|---|",
    ]
    for name in result["competitors"]:
        low, middle, high = statistics.quantiles(times(result, name), n=4)
        words = [f"{name}", f"{middle:.3f} ({low:.3f} to {high:.3f})"]
        words.append(f"{statistics.median(times(result, name, 'wall')):.3f}")
        if "d3rlpy fp32" in result["competitors"] and not name.startswith("floor"):
            words.append("{:.2f} ({:.2f} to {:.2f})".format(*ratio(result, "d3rlpy fp32", name)))
        else:
            words.append("")
        floor = f"floor {'fp32' if name == 'ours uncompiled' else name.split()[-1]}"
        has_floor = floor in result["competitors"] and not name.startswith("floor")
        words.append(f"{100 / ratio(result, name, floor)[0]:.0f} %" if has_floor else "")
        if name.startswith("floor"):
            about = result["competitors"][name]["about"]
            words[-1] = f"{about['mflop']:.0f} MFLOP, {about['mflop'] / middle:.0f} GFLOP/s"
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def parts_table(result: dict[str, Any]) -> list[str]:
    """Where ours spends an update."""
    lines = [
        "| | total | compiled graph | random numbers, factors, call | sampling | logging | rest of the step "
        "| Lightning | binding | Adam alone | targets alone |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in result["parts"].items():
        p, alone = found["parts"], found["alone"]
        inside = p["training_step"] - p["update"] - p.get("logging", 0.0)
        outside = p["total"] - p["training_step"] - p["sampling"]
        cells = [
            p["total"],
            p["graph"],
            p["update"] - p["graph"],
            p["sampling"],
            p.get("logging", 0.0),
            inside,
            outside,
        ]
        shown = [f"{x:.3f}" for x in cells] + [f"{100 * binding(found):.1f} %"]
        shown += [f"{alone[key]:.3f}" if key in alone else "" for key in ("adam", "targets")]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return lines


def binding(found: dict[str, Any]) -> float:
    """Share of everything but the update itself: Lightning, sampling, logging, counters."""
    share: float = 1.0 - found["parts"]["update"] / found["parts"]["total"]
    return share


def goal_lines(results: list[dict[str, Any]]) -> list[str]:
    """Each goal with what was measured."""
    lines = ["| goal at batch 256, width 256 | wanted | measured | |", "|---|---|---|---|"]
    cells = {r["algorithm"]: r for r in results if (r["batch_size"], r["width"]) == (256, 256)}

    def line(what: str, wanted: str, measured: str, reached: bool) -> None:
        lines.append(f"| {what} | {wanted} | {measured} | {'reached' if reached else '**missed**'} |")

    for algorithm, ours, theirs, wanted in GOALS:
        cell = cells.get(algorithm)
        if cell and {ours, theirs} <= cell["competitors"].keys():
            middle, low, high = ratio(cell, theirs, ours)
            what = f"{NAMES[algorithm]}: {ours} against {theirs}"
            line(what, f"at least {wanted}", f"{middle:.2f} ({low:.2f} to {high:.2f})", middle >= wanted)
    cell = cells.get("iql")
    if cell and {"ours fp32", "floor fp32"} <= cell["competitors"].keys():
        middle, low, high = ratio(cell, "ours fp32", "floor fp32")
        measured = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        line("IQL: ours fp32 over the matrix products alone", f"at most {FLOOR_GOAL}", measured, middle <= FLOOR_GOAL)
    if cell and "ours fp32" in cell["parts"]:
        share = binding(cell["parts"]["ours fp32"])
        line("IQL: Lightning, sampling, logging (K = 50)", "at most 3 %", f"{100 * share:.1f} %", share <= BINDING_GOAL)
    return lines


def summary(results: list[dict[str, Any]]) -> list[str]:
    """One line per cell: CPU milliseconds, and how many times as fast as d3rlpy in float32."""
    shown = ["d3rlpy fp32", "CORL fp32", "JAX-CORL fp32", "ours fp32", "ours bf16"]
    shown = [name for name in shown if any(name in result["competitors"] for result in results)]
    lines = [f"| | batch | width | {' | '.join(shown)} |", "|---" * (3 + len(shown)) + "|"]
    for result in sorted(results, key=lambda r: (list(NAMES).index(r["algorithm"]), r["width"], r["batch_size"])):
        cells = [NAMES[result["algorithm"]], str(result["batch_size"]), str(result["width"])]
        for name in shown:
            if name not in result["competitors"]:
                cells.append("")
                continue
            cells.append(f"{statistics.median(times(result, name)):.3g}")
            if name != "d3rlpy fp32" and "d3rlpy fp32" in result["competitors"]:
                cells[-1] += f" ({ratio(result, 'd3rlpy fp32', name)[0]:.2g} x)"
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def write_page(results: list[dict[str, Any]], folder: Path) -> tuple[Path, Path]:
    """``speed.md`` and ``speed.png`` beside the folder ``speed``."""
    results = sorted(
        results, key=lambda r: (r["batch_size"] * r["width"], r["width"], list(NAMES).index(r["algorithm"]))
    )
    first = results[0]
    machine = first["machine"]
    family, model, _ = machine["family, model, stepping"]
    peers = {
        name: about["versions"]
        for name, about in ((n, c["about"]) for r in results for n, c in r["competitors"].items())
        if "versions" in about
    }
    versions = [f"{name} {number}" for name, number in first["versions"].items()]
    versions += [
        f"{name.split()[0]}: " + ", ".join(f"{library} {number}" for library, number in numbers.items())
        for name, numbers in peers.items()
        if name.endswith("fp32")
    ]
    lines = [
        "# Speed of a gradient update",
        "",
        f"One thread on {machine['cpu']} (family {family}, model {model}; "
        f"{', '.join(machine['matrix instructions'])}), {machine['system']}. {'; '.join(versions)}.",
        f"Data: {first['data']}. Competitors took turns in one run per cell; load averages at the end of the cells: "
        + ", ".join(sorted({f"{r['machine']['load_average']:.1f}" for r in results}))
        + ".",
        *(
            ["", "**Quick runs of a few short turns: they show that the benchmark works, not how fast anything is.**"]
            if any(r["quick"] for r in results)
            else []
        ),
        "",
        f"![CPU milliseconds per update]({folder.name}.png)",
        "",
        *goal_lines(results),
        "",
        "## All cells",
        "",
        *summary(results),
        "",
    ]
    for result in results:
        lines += [
            f"## {NAMES[result['algorithm']]}, batch {result['batch_size']}, width {result['width']}",
            "",
            cell_table(result),
            "",
            "Where ours goes, CPU ms per update (Adam and targets are in the graph; alone: as graphs of their own):",
            "",
            *parts_table(result),
            "",
        ]
        if result["compile_seconds"]:
            told = "; ".join(f"{n} {s['cold']:.0f} s, {s['warm']:.0f} s" for n, s in result["compile_seconds"].items())
            lines += [f"Compiling, with nothing in the cache and with everything: {told}.", ""]
    page, plot = folder.with_suffix(".md"), folder.with_suffix(".png")
    page.write_text("\n".join(lines))
    draw(results, plot)
    return page, plot


COLORS = {"d3rlpy": "#9a9a9a", "CORL": "#c9b458", "JAX-CORL": "#e0a458", "by hand": "#7fb2d6", "ours": "#1f5f99"}
SHOWN = ["d3rlpy fp32", "CORL fp32", "JAX-CORL fp32", "by hand fp32", "ours fp32", "by hand bf16", "ours bf16"]


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Bars per algorithm at batch 256 and width 256; a tick marks the floor of the matrix products."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cells = [r for r in results if (r["batch_size"], r["width"]) == (256, 256)] or results
    figure, axes = plt.subplots(
        1, len(cells), figsize=(1.2 + 2.5 * len(cells), 3.6), layout="constrained", squeeze=False
    )
    for axis, result in zip(axes[0], cells, strict=True):
        shown = [name for name in SHOWN if name in result["competitors"]]
        for at, name in enumerate(shown):
            low, middle, high = statistics.quantiles(times(result, name), n=4)
            color = COLORS[name.rpartition(" ")[0]]
            hatch = "///" if name.endswith("bf16") else None
            axis.bar(at, middle, color=color, width=0.75, hatch=hatch, edgecolor="white", linewidth=0)
            axis.plot([at, at], [low, high], color="black", linewidth=1)
            axis.annotate(
                f"{middle:.3g}", (at, max(high, middle)), (0, 2), textcoords="offset points", ha="center", size=8
            )
            floor = f"floor {name.split()[-1]}"
            if floor in result["competitors"]:
                value = statistics.median(times(result, floor))
                axis.plot([at - 0.42, at + 0.42], [value, value], color="#d1495b", linewidth=2)
        axis.set_title(NAMES[result["algorithm"]], size=10)
        axis.set_xticks(range(len(shown)), shown, rotation=60, ha="right", size=8)
        axis.margins(y=0.12)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("CPU ms per gradient update")
    axes[0][0].plot([], [], color="#d1495b", linewidth=2, label="matrix products alone")
    axes[0][0].legend(frameon=False, fontsize=8, loc="upper right")
    figure.savefig(path, dpi=150)
    plt.close(figure)
