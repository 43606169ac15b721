"""Several seeds at once: stacked in one process (``model.seeds``), or one process each (``offrl fit --processes``).

    python benchmarks/seeds.py [--widths 64 256] [--precisions fp32 bf16]

IQL through the command line, compiled, batch 256. One process with eight stacked seeds, on one thread and on as many
as there are cores, one with a single seed likewise, and one single-seed process of one thread per core all at once take
turns. What counts is wall time per update and seed of the whole machine, so it needs a machine with nothing else to do.
The page goes to ``results/seeds.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
from overhead import synthetic
from score import RESULTS, write
from speed import PRECISIONS, ROWS, WORKERS, Competitor, machine, note

STACKED = 8


def command(data: Path, width: int, precision: str, seeds: int, run_dir: Path) -> list[str]:
    """A competitor of ``speed_workers``."""
    return [
        *[sys.executable, str(WORKERS / "ours.py"), "--model", "IQL", "--data.source", str(data)],
        *["--model.hidden", f"[{width},{width}]", "--model.compile", "true", "--model.seeds", str(seeds)],
        *["--model.normalize_observations", "false", "--trainer.enable_progress_bar", "false"],
        *["--data.updates_per_step", "50", "--trainer.max_steps", "100000000", "--trainer.callbacks+=ours.Slices"],
        *[*PRECISIONS[precision], "--run_dir", str(run_dir)],
    ]


def together(competitors: list[Competitor]) -> float:
    """Wall milliseconds per update and seed while all run at once: the slowest one's time over their number."""
    for competitor in competitors:
        competitor.tell(run=competitors[0].updates)
    slowest = max(competitor.hear()["wall"] for competitor in competitors)
    return 1000 * slowest / competitors[0].updates / len(competitors)


def measure(args: argparse.Namespace, data: Path, width: int, precision: str) -> dict[str, Any]:
    """One width and precision."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found: list[Competitor] = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "PYTHONPATH": os.pathsep.join([str(WORKERS), os.environ.get("PYTHONPATH", "")]),
            "TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache",
        }
        try:
            for i, (seeds, threads) in enumerate([(STACKED, 1), (STACKED, cores), (1, cores), *[(1, 1)] * cores]):
                words = command(data, width, precision, seeds, Path(folder) / f"run{i}")
                own = {**environment, "OMP_NUM_THREADS": str(threads)}
                found.append(Competitor(words, Path(folder) / f"{i}.log", own))
                note(f"  {seeds} seed{'s' if seeds > 1 else ''}, {threads} thread{'s' if threads > 1 else ''}")
            alone = {"stacked": found[0], "stacked, all cores": found[1], "single, all cores": found[2]}
            alone["single"], singles = found[3], found[3:]
            for competitor in alone.values():
                competitor.choose_updates(args.seconds)
            times: dict[str, list[float]] = {name: [] for name in (*alone, "side by side")}
            for _ in range(args.rounds):
                for name, competitor in alone.items():
                    seeds = STACKED if name.startswith("stacked") else 1
                    times[name].append(competitor.turn(competitor.updates)["wall"] / seeds)
                times["side by side"].append(together(singles))
        finally:
            for competitor in found:
                competitor.end()
    return {"width": width, "precision": precision, "processes": cores, "machine": machine(), "wall": times}


def page(results: list[dict[str, Any]]) -> str:
    """A table, and what it says about which way is faster."""
    first = results[0]
    cores = first["processes"]
    lines = [
        "# Seeds at once: stacked or in processes",
        "",
        f"IQL, batch 256, {first['machine']['cpu']} (family {first['machine']['family, model, stepping'][0]}), "
        f"{cores} cores, load average {first['machine']['load_average']:.1f}. Wall milliseconds per "
        "update and seed, median of turns: smaller is more seeds in the same time. The last column is of the two ways "
        "that use every core.",
        "",
        f"| width | precision | one seed, one thread | one seed, {cores} threads | {STACKED} stacked seeds, one thread "
        f"| {STACKED} stacked seeds, {cores} threads | {cores} processes of one seed and thread | fastest |",
        "|---|---|---|---|---|---|---|---|",
    ]
    names = {"stacked, all cores": f"stacked, {cores} threads", "side by side": "processes"}
    for result in results:
        middle = {name: statistics.median(times) for name, times in result["wall"].items()}
        ways = ("single", "single, all cores", "stacked", "stacked, all cores", "side by side")
        best, second = sorted(names, key=lambda name: middle[name])
        cells = [f"{middle[way]:.3f}" for way in ways]
        cells.append(f"{names[best]}, {middle[second] / middle[best]:.2f} x")
        lines.append(f"| {result['width']} | {result['precision']} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--precisions", nargs="+", choices=sorted(PRECISIONS), default=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--out", default=str(RESULTS / "seeds"))
    args = parser.parse_args()
    folder = Path(args.out)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "random.hdf5"
        with h5py.File(data, "w") as file:
            for key, value in synthetic(ROWS).items():
                file[key] = value
        for width in args.widths:
            for precision in args.precisions:
                path = folder / f"{width}-{precision}.json"
                if not path.exists():
                    note(f"width {width}, {precision}")
                    write(path, measure(args, data, width, precision))
    results = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    text = page(sorted(results, key=lambda result: (result["width"], result["precision"] != "fp32")))
    folder.with_suffix(".md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
