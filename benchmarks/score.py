"""Scores of our BC, TD3+BC and IQL against d3rlpy's on the same files, updates, batches, networks and settings.

    python benchmarks/score.py run --data hopper_mixed-v2.hdf5 --algorithm bc td3_bc iql --preset peer --jobs 2
    python benchmarks/score.py compare

``run`` trains every combination of data, algorithm, preset and seed through the public API and writes one JSON each;
results that are there already are skipped, so it can be stopped and started again. ``compare`` sets them against
``results/peer_d3rlpy.json`` and writes ``results/scores.md`` and ``results/scores.png``.

The runs are short, 50,000 gradient updates where the literature makes 1,000,000: they tell whether two programs learn
the same from the same, not how good the algorithms are. Presets: ``peer`` is d3rlpy's settings (observations
standardised, rewards as they are, constant learning rates: 1e-3 for BC, 3e-4 else), ``authors`` those of the
algorithm's authors. README.md beside this file lists what still differs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from comparison import markdown, plot

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported

RESULTS = Path(__file__).resolve().parent / "results"
ALGORITHMS = {"bc": "BC", "td3_bc": "TD3BC", "iql": "IQL"}
PRESETS: dict[str, dict[str, dict[str, dict[str, Any]]]] = {
    "peer": {
        "bc": {"model": {"normalise_observations": True, "learning_rate": 1e-3}, "data": {"reward": "none"}},
        "td3_bc": {
            "model": {"normalise_observations": True, "learning_rate": 3e-4, "alpha": 2.5},
            "data": {"reward": "none"},
        },
        "iql": {
            "model": {
                "normalise_observations": True,
                "learning_rate": 3e-4,
                "expectile": 0.7,
                "inverse_temperature": 3.0,
                "policy_schedule": "constant",
            },
            "data": {"reward": "none"},
        },
    },
    "authors": {
        "bc": {"model": {}, "data": {"reward": "none"}},
        "td3_bc": {"model": {}, "data": {"reward": "none"}},
        "iql": {
            "model": {"normalise_observations": False, "policy_schedule": "cosine"},
            "data": {"reward": "iql-locomotion"},
        },
    },
}
FIRST_RESET_SEED = 1000


def dataset_name(source: str) -> str:
    """``hopper_mixed`` for ``.../hopper_mixed-v2.hdf5``; a Minari id without slashes.

    >>> dataset_name("data/hopper_mixed-v2.hdf5"), dataset_name("hopper/medium-v0")
    ('hopper_mixed', 'hopper_medium-v0')
    """
    path = Path(source)
    return path.stem.removesuffix("-v2") if path.suffix in (".hdf5", ".h5") else source.replace("/", "_")


def cpu_model() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


# -- run -------------------------------------------------------------------------------------------------------------


def train(args: argparse.Namespace, source: str, algorithm: str, preset: str, seed: int) -> dict[str, Any]:
    """One run through the public API; what it returns is what the JSON holds."""
    import lightning.pytorch as pl
    import torch

    import lightning_offrl as offrl

    torch.set_num_threads(1)
    settings = PRESETS[preset][algorithm]
    data = offrl.OfflineDataModule(source, batch_size=256, discount=0.99, seed=seed, **settings["data"])
    model = getattr(offrl, ALGORITHMS[algorithm])(data.spec, hidden=(256, 256), seed=seed, **settings["model"])
    evaluation = offrl.EvaluateEnv(
        environment=args.environment, episodes=args.episodes, every=args.every, seed=FIRST_RESET_SEED
    )
    trainer = pl.Trainer(
        max_steps=args.updates,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[evaluation],
    )
    began = time.perf_counter()
    trainer.fit(model, data)
    wall = time.perf_counter() - began
    points = evaluation.curve
    if data.references is None:
        raise offrl.InputError(f"{source} has no reference returns, which the 0-100 score needs (ref_min, ref_max)")
    names = ("lightning-offrl", "torch", "lightning", "tensordict", "gymnasium", "mujoco", "numpy")
    return {
        "system": "lightning_offrl",
        "dataset": dataset_name(source),
        "fingerprint": data.fingerprint,
        "algorithm": algorithm,
        "preset": preset,
        "seed": seed,
        "note": f"short run of {args.updates:,} updates, not the literature's 1,000,000",
        "versions": {name: version(name) for name in names},
        "machine": {
            "cpu": cpu_model(),
            "threads": torch.get_num_threads(),
            "processes_side_by_side": args.side_by_side,
        },
        "settings": {
            "model": {k: v for k, v in dict(model.hparams).items() if k != "spec"},
            "data": {"batch_size": 256, "discount": 0.99, "seed": seed, **settings["data"]},
        },
        "environment": args.environment or data.environment,
        "reset_seeds": [FIRST_RESET_SEED + i for i in range(args.episodes)],
        "references": list(data.references),
        "transitions": len(data.episodes),
        "updates": [point.updates for point in points],
        "curve": [point.score for point in points],
        "returns": [point.returns[0] for point in points],
        "wall_seconds": wall,
        "evaluation_share": evaluation.time_share,
    }


def write(path: Path, result: dict[str, Any]) -> None:
    """Whole or not at all, so that a file that exists is a finished run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(result, indent=1) + "\n")
    unfinished.replace(path)


def is_done(path: Path, updates: int) -> bool:
    """Whether ``path`` holds a run of that length."""
    return path.exists() and json.loads(path.read_text())["updates"][-1:] == [updates]


def run(args: argparse.Namespace) -> int:
    """Train what is missing; returns the number of runs that failed."""
    combinations = list(itertools.product(args.data, args.algorithm, args.preset, args.seeds))
    paths = {c: Path(args.out) / f"{dataset_name(c[0])}-{c[1]}-{c[2]}-{c[3]}.json" for c in combinations}
    missing = [c for c in combinations if not is_done(paths[c], args.updates)]
    print(f"{len(combinations) - len(missing)} of {len(combinations)} runs are there, {len(missing)} to do", flush=True)
    if len(missing) == 1 or args.jobs == 1:
        for combination in missing:
            result = train(args, *combination)
            write(paths[combination], result)
            print(f"{paths[combination].stem}: {[round(x, 1) for x in result['curve']]}", flush=True)
        return 0

    def start(combination: tuple[str, str, str, int]) -> int:
        """A process of its own for one run: one thread each, and a crash of one leaves the others."""
        source, algorithm, preset, seed = combination
        command = [sys.executable, __file__, "run", "--data", source, "--algorithm", algorithm, "--preset", preset]
        command += ["--seeds", str(seed), "--updates", str(args.updates), "--every", str(args.every)]
        command += ["--episodes", str(args.episodes), "--out", args.out, "--side-by-side", str(args.jobs)]
        command += ["--environment", args.environment] if args.environment else []
        with tempfile.TemporaryFile("w+") as log:
            failed = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode != 0
            log.seek(0)
            lines = log.read().splitlines()
        print("\n".join(lines[-30:] if failed else lines[-1:]), flush=True)
        return int(failed)

    with ThreadPoolExecutor(args.jobs) as pool:
        return sum(pool.map(start, missing))


# -- compare ---------------------------------------------------------------------------------------------------------


def compare(args: argparse.Namespace) -> int:
    """Write ``scores.md`` and ``scores.png``; returns 1 if there is nothing to compare."""

    def read(folder: Path) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]

    ours, peer = read(Path(args.ours)), json.loads(Path(args.peer).read_text())
    if not ours:
        print(f"no results in {args.ours}: run `python benchmarks/score.py run` first", file=sys.stderr)
        return 1
    out = Path(args.out)
    try:
        text = markdown(ours, peer, read(Path(args.reruns)))
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 1
    out.write_text(text)
    plot(ours, peer, out.with_suffix(".png"))
    print(out.read_text())
    return 0


def main() -> int:
    """Parse and dispatch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("run", help="train what is missing and write one JSON per run")
    one.add_argument("--data", nargs="+", required=True, help="D4RL-layout .hdf5 paths or Minari ids")
    one.add_argument("--algorithm", nargs="+", choices=list(ALGORITHMS), default=list(ALGORITHMS))
    one.add_argument("--preset", nargs="+", choices=list(PRESETS), default=["peer"])
    one.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    one.add_argument("--updates", type=int, default=50_000)
    one.add_argument("--every", type=int, default=10_000, help="updates between evaluations")
    one.add_argument("--episodes", type=int, default=10)
    one.add_argument("--environment", help="Gymnasium id; by default the one the data names")
    one.add_argument("--out", default=str(RESULTS / "runs"), help="folder of the JSON files")
    one.add_argument("--jobs", type=int, default=1, help="runs side by side, each in a process with one thread")
    one.add_argument("--side-by-side", type=int, default=1, help=argparse.SUPPRESS)
    two = verbs.add_parser("compare", help="write the table and the plot")
    two.add_argument("--ours", default=str(RESULTS / "runs"))
    two.add_argument("--peer", default=str(RESULTS / "peer_d3rlpy.json"))
    two.add_argument("--reruns", default=str(RESULTS / "peer_reruns"))
    two.add_argument("--out", default=str(RESULTS / "scores.md"))
    args = parser.parse_args()
    return run(args) if args.verb == "run" else compare(args)


if __name__ == "__main__":
    sys.exit(main())
