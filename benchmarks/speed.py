"""How fast gradient updates are: ``offrl fit``, a loop by hand, d3rlpy, CORL and JAX-CORL, taking turns.

    python benchmarks/speed.py --peer PEER/bin/python                   # everything, required cells first; resumable
    python benchmarks/speed.py --quick --only iql                       # a minute, to see that it works
    python benchmarks/speed.py page                                     # table and plot again from what was measured

A cell is an algorithm, a batch size and a width of two hidden layers. In a cell every competitor is a process of one
thread that has compiled and warmed up; they make updates in turns A B C A B C ..., so all see the same machine. Numbers
are CPU time per update, median and quartiles over the turns; ratios are of medians, with a bootstrap interval over
rounds. All train on the same arrays: ``--data`` (D4RL layout), or random numbers in Hopper's shape.

Ours runs through the command line with its callbacks and CSV logging. *fp32*, *medium* and *bf16* are
``--trainer.precision 32-true``, the same with ``--model.matmul_precision medium``, and ``bf16-mixed``. The *floor* is
the matrix products of one of our updates and nothing else. One JSON per cell goes to ``results/speed/``, the page to
``results/speed.md`` and ``results/speed.png``. README.md beside this file tells how to install the peer.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import h5py
import speed_page
from overhead import synthetic
from score import RESULTS, write

WORKERS = Path(__file__).resolve().parent / "speed_workers"
ALGORITHMS = {"iql": "IQL", "td3_bc": "TD3BC", "cql": "CQL", "bc": "BC", "sac_n": "SACN"}
SETTINGS = {"cql": ["--model.weight", "5"], "sac_n": ["--model.critics", "10"]}
PRECISIONS = {
    "fp32": ["--trainer.precision", "32-true"],
    "medium": ["--trainer.precision", "32-true", "--model.matmul_precision", "medium"],
    "bf16": ["--trainer.precision", "bf16-mixed"],
}
JAX = ("iql", "td3_bc", "cql")
"""That JAX-CORL has."""
CELLS = [(256, 256), (1024, 256), (256, 512), (1024, 512)]
LOGGED = 500
"""Updates between two logs of ours, as it comes."""
MINUTES = 6.0
"""That a cell takes, about, on one core of 2024."""
ROWS = 200_000


class Competitor:
    """One process that takes turns.

    Args:
        command: the program and its arguments.
        log: where its standard error goes.
        environment: more variables.
    """

    def __init__(self, command: list[str], log: Path, environment: dict[str, str]) -> None:
        self.log, self.times, self.updates = log, list[dict[str, float]](), 0
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        self.about: dict[str, Any] = self.hear()["ready"]

    def hear(self) -> dict[str, Any]:
        """Its next answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a competitor ended; the last it said:\n{self.log.read_text()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def tell(self, **command: Any) -> None:
        """One command."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def turn(self, updates: int) -> dict[str, float]:
        """Milliseconds per update."""
        self.tell(run=updates)
        answer = self.hear()
        return {clock: 1000 * answer[clock] / updates for clock in ("cpu", "wall")}

    def choose_updates(self, seconds: float) -> None:
        """As many as take about so long, in whole blocks."""
        block = self.about.get("block", 2)
        one = self.turn(block)["cpu"] / 1000
        self.updates = max(block, block * round(seconds / one / block))

    def parts(self, updates: int, turns: int = 5) -> dict[str, Any]:
        """What ours consists of, in CPU milliseconds per update: medians over turns, clocks outside and inside.

        A turn is a whole number of windows between two logs where that takes no more than a few seconds: else some
        turns hold a log, others none.
        """
        seen: dict[str, list[float]] = {}
        if statistics.median(turn["cpu"] for turn in self.times) * LOGGED < 5000:
            updates = LOGGED
        for _ in range(turns):
            for inside in (False, True):
                self.tell(apart=updates, inside=inside)
                self.hear()
                self.tell(run=updates)
                parts = self.hear()
                total = 1000 * self.hear()["cpu"] / updates
                if not inside:  # clocks inside clocks count
                    parts["total"] = total
                for name, spent in parts.items():
                    seen.setdefault(name, []).append(spent)
        self.tell(alone=True)
        return {"parts": {name: statistics.median(spent) for name, spent in seen.items()}, "alone": self.hear()}

    def end(self) -> None:
        """Send it home."""
        if self.process.poll() is None:
            self.tell(stop=True)
            self.process.wait(30)


def commands(args: argparse.Namespace, data: Path, algorithm: str, batch: int, width: int, runs: Path) -> Any:
    """Every competitor's command, by name."""
    here, sizes = sys.executable, [str(batch), str(width)]
    block = "50" if (batch, width) == CELLS[0] and algorithm != "sac_n" else "10"
    ours = [
        *[here, str(WORKERS / "ours.py"), "--model", ALGORITHMS[algorithm], "--data.source", str(data)],
        *["--data.batch_size", str(batch), "--data.updates_per_step", block, "--model.hidden", f"[{width},{width}]"],
        *["--model.normalize_observations", "false", "--trainer.enable_progress_bar", "false"],
        *["--trainer.max_steps", "100000000", "--trainer.callbacks+=ours.Slices", *SETTINGS.get(algorithm, [])],
    ]
    found: dict[str, list[str]] = {}
    for precision in args.precisions:
        name = f"ours {precision}"
        words = ["--model.compile", "true", *PRECISIONS[precision], "--run_dir", str(runs / precision)]
        found[name] = [*ours, *words]
    plain = ["--model.compile", "false", *PRECISIONS["fp32"], "--run_dir", str(runs / "plain")]
    found["ours uncompiled"] = [*ours, *plain]
    for precision in args.precisions:
        found[f"by hand {precision}"] = [here, str(WORKERS / "hand.py"), str(data), algorithm, *sizes, precision]
    for precision, products in (("fp32", "highest"), ("medium", "medium")):
        if args.peer and precision in args.precisions:
            words = [str(data), algorithm, *sizes, products]
            found[f"d3rlpy {precision}"] = [args.peer, str(WORKERS / "peer.py"), *words]
        if args.corl and width == 256 and precision in args.precisions:
            words = [str(data), algorithm, *sizes, products, args.corl]
            found[f"CORL {precision}"] = [here, str(WORKERS / "corl.py"), *words]
    if args.jax_corl and "fp32" in args.precisions and algorithm in JAX and (algorithm, width) != ("cql", 512):
        python, checkout = args.jax_corl
        found["JAX-CORL fp32"] = [python, str(WORKERS / "jax_corl.py"), str(data), algorithm, *sizes, checkout]
    for precision in args.precisions:
        found[f"floor {precision}"] = [here, str(WORKERS / "floor.py"), algorithm, *sizes, precision]
    return found


def measure(args: argparse.Namespace, data: Path, algorithm: str, batch: int, width: int) -> dict[str, Any]:
    """One cell."""
    compile_seconds: dict[str, dict[str, float]] = {}
    competitors: dict[str, Competitor] = {}
    with tempfile.TemporaryDirectory() as folder:
        runs, home = Path(folder) / "runs", Path(folder)
        try:
            for name, command in commands(args, data, algorithm, batch, width, runs).items():
                environment = {"PYTHONPATH": os.pathsep.join([str(WORKERS), os.environ.get("PYTHONPATH", "")])}
                if name.startswith("ours") and not args.warm:
                    environment["TORCHINDUCTOR_CACHE_DIR"] = str(home / f"cache-{name.replace(' ', '-')}")
                log = home / f"{name.replace(' ', '-')}.log"
                note(f"  {name}")
                competitor = Competitor(command, log, environment)
                if competitor.about.get("compiled") and not args.warm:  # a second start finds what was compiled
                    compile_seconds[name] = {"cold": competitor.about["compiling_seconds"]}
                    competitor.end()
                    shutil.rmtree(runs, ignore_errors=True)
                    competitor = Competitor(command, log, environment)
                    compile_seconds[name]["warm"] = competitor.about["compiling_seconds"]
                competitors[name] = competitor
                competitor.choose_updates(args.seconds)
            began, rounds = time.monotonic(), 0
            while rounds < args.rounds and (rounds < 5 or time.monotonic() - began < 60 * args.minutes):
                for competitor in competitors.values():
                    competitor.times.append(competitor.turn(competitor.updates))
                rounds += 1
            parts = {
                name: competitor.parts(competitor.updates)
                for name, competitor in competitors.items()
                if name.startswith("ours") and competitor.about["compiled"]
            }
        finally:
            for competitor in competitors.values():
                competitor.end()
    return {
        "algorithm": algorithm,
        "batch_size": batch,
        "width": width,
        "quick": args.quick,
        "data": args.data or f"random numbers, {ROWS:,} rows, 11 observations, 3 actions",
        "machine": machine(),
        "versions": {name: version(name) for name in ("lightning-offrl", "torch", "lightning", "tensordict")},
        "compile_seconds": compile_seconds,
        "competitors": {
            name: {"about": c.about, "updates_per_turn": c.updates, "turns": c.times} for name, c in competitors.items()
        },
        "parts": parts,
    }


def machine() -> dict[str, Any]:
    """What the numbers hold for."""
    info = Path("/proc/cpuinfo")
    fields: dict[str, str] = {}
    for line in info.read_text().splitlines() if info.exists() else []:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", "").split()
    return {
        "cpu": fields.get("model name", platform.processor() or "unknown"),
        "family, model, stepping": [fields.get(key, "") for key in ("cpu family", "model", "stepping")],
        "matrix instructions": [flag for flag in flags if flag.startswith(("amx", "avx512_bf16", "avx512f", "avx2"))],
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
    }


def note(text: str) -> None:
    """Progress, on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("all", "page"), default="all")
    parser.add_argument("--peer", help="a Python that has d3rlpy (requirements-peer.txt)")
    parser.add_argument("--corl", help="a checkout of CORL")
    parser.add_argument(
        "--jax-corl",
        nargs=2,
        metavar=("PYTHON", "CHECKOUT"),
        help="a Python that has JAX (requirements-jax.txt), and a checkout of JAX-CORL",
    )
    parser.add_argument("--data", help="an .hdf5 in D4RL's layout; default: random numbers")
    parser.add_argument("--only", nargs="+", choices=sorted(ALGORITHMS), default=list(ALGORITHMS), metavar="ALGORITHM")
    parser.add_argument("--required", action="store_true", help="batch 256, width 256 alone")
    parser.add_argument("--precisions", nargs="+", choices=sorted(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--rounds", type=int, default=15, help="turns of each competitor")
    parser.add_argument("--seconds", type=float, default=0.8, help="of a turn, about")
    parser.add_argument("--minutes", type=float, default=5.0, help="after which a cell stops, with 5 rounds or more")
    parser.add_argument("--quick", action="store_true", help="batch 256, width 256, 3 short rounds")
    parser.add_argument("--warm", action="store_true", help="use the user's cache of compiled code; no compile times")
    parser.add_argument("--out", help="folder of the cells; the page goes beside it")
    return parser


def main() -> int:
    """Measure what is missing, then write the page."""
    args = parser().parse_args()
    if args.quick:
        args.rounds, args.seconds, args.required, args.warm = 3, 0.1, True, True
    out = Path(args.out or ("runs/speed_quick" if args.quick else RESULTS / "speed"))
    cells = [(a, b, w) for (b, w), a in itertools.product(CELLS[: 1 if args.required else None], args.only)]
    paths = {cell: out / f"{cell[0]}-{cell[1]}-{cell[2]}.json" for cell in cells}
    todo = [] if args.what == "page" else [cell for cell in cells if not paths[cell].exists()]
    if todo:
        length = "a minute or two each" if args.quick else f"about {MINUTES * len(todo) / 60:.1f} hours"
        note(f"{len(cells) - len(todo)} of {len(cells)} cells are there, {len(todo)} to do, {length}")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(args.data or Path(folder) / "random.hdf5").resolve()
        if todo and not args.data:
            with h5py.File(data, "w") as file:
                for key, value in synthetic(ROWS).items():
                    file[key] = value
        for cell in todo:
            note(f"{cell[0]}, batch {cell[1]}, width {cell[2]} (load average {os.getloadavg()[0]:.1f})")
            result = measure(args, data, *cell)
            write(paths[cell], result)
            note("\n" + speed_page.cell_table(result))
    results = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    if results:
        page, plot = speed_page.write_page(results, out)
        note(f"written: {page}, {plot}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
