"""Scores of our algorithms against d3rlpy's on the same files, updates, batches, networks and settings.

    python benchmarks/score.py run --data hopper_mixed-v2.hdf5 --algorithm bc td3_bc iql --preset peer --jobs 2
    python benchmarks/score.py compare
    python benchmarks/score.py precision

``run`` trains every combination of data, algorithm, preset and seed through the public API and writes one JSON each;
results that are there already are skipped, so it can be stopped and started again. ``compare`` sets them against
``results/peer_d3rlpy.json`` and writes ``results/scores.md`` and ``results/scores.png``. ``precision`` sets runs in
lower precision (``run --precision bf16-mixed --out results/precision/bf16-mixed``) against those in float32.

The runs are short, 50,000 gradient updates where the literature makes 1,000,000: they tell whether two programs learn
the same from the same, not how good the algorithms are. Presets: ``peer`` is d3rlpy's settings (observations
standardized, rewards as they are, constant learning rates: 1e-3 for BC, 3e-4 else), ``authors`` those of the
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

import family as rest
from comparison import markdown, plot, readme_section

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported

RESULTS = Path(__file__).resolve().parent / "results"
ALGORITHMS = {
    "bc": "BC",
    "td3_bc": "TD3BC",
    "iql": "IQL",
    "awac": "AWAC",
    "cql": "CQL",
    "cql_mean_target": "CQL",
    "sac_n": "SACN",
    "edac": "EDAC",
    "rebrac": "ReBRAC",
    "bcq": "BCQ",
    "bear": "BEAR",
    "discrete_bc": "DiscreteBC",
    "dqn": "DQN",
    "discrete_cql": "DiscreteCQL",
    "discrete_bcq": "DiscreteBCQ",
    "discrete_iql": "DiscreteIQL",
}
STANDARD = {"normalize_observations": True, "learning_rate": 3e-4}
PEER_MODELS: dict[str, dict[str, Any]] = {
    "bc": {**STANDARD, "learning_rate": 1e-3},
    "td3_bc": {**STANDARD, "alpha": 2.5},
    "iql": {**STANDARD, "expectile": 0.7, "inverse_temperature": 3.0, "policy_schedule": "constant"},
    "awac": {**STANDARD, "temperature": 1.0},
    # d3rlpy's weight and learning rates, with its multiplier held at one (its alpha_learning_rate 0).
    "cql": {"normalize_observations": True, "weight": 5.0, "policy_learning_rate": 1e-4, "q_learning_rate": 3e-4},
    "cql_mean_target": {"normalize_observations": True, "weight": 5.0},  # rates: the page's defaults, the same
    "sac_n": {**STANDARD, "critics": 10},
    "edac": {**STANDARD, "critics": 10, "eta": 1.0},
    "rebrac": {"normalize_observations": True, "learning_rate": 1e-3, "policy_penalty": 0.05, "critic_penalty": 0.5},
    # No peer: the authors' numbers on networks of the same width as all others.
    "bcq": {**STANDARD, "learning_rate": 1e-3, "vae_hidden": (256, 256)},
    "bear": {"normalize_observations": True, "vae_hidden": (256, 256), "warm_up": 4_000},
    "discrete_bc": dict(STANDARD),
    "dqn": dict(STANDARD),
    "discrete_cql": {**STANDARD, "weight": 1.0},
    "discrete_bcq": {**STANDARD, "threshold": 0.3},
    "discrete_iql": dict(STANDARD),
}
PRESETS: dict[str, dict[str, dict[str, dict[str, Any]]]] = {
    "peer": {name: {"model": model, "data": {"reward": "none"}} for name, model in PEER_MODELS.items()},
    "authors": {
        "bc": {"model": {}, "data": {"reward": "none"}},
        "td3_bc": {"model": {}, "data": {"reward": "none"}},
        "iql": {
            "model": {"normalize_observations": False, "policy_schedule": "cosine"},
            "data": {"reward": "iql-locomotion"},
        },
    },
}
HARD_UPDATE_PERIOD = 1_000
"""d3rlpy's discrete algorithms copy their targets every so many updates; in this comparison both sides do."""
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
    torch.set_float32_matmul_precision(args.products)
    settings = PRESETS[preset][algorithm]
    data = offrl.OfflineDataModule(source, batch_size=256, discount=0.99, seed=seed, **settings["data"])
    kind = mean_target_cql() if algorithm == "cql_mean_target" else getattr(offrl, ALGORITHMS[algorithm])
    model = kind(data.spec, hidden=(256, 256), seed=seed, **settings["model"])
    evaluation = offrl.EvaluateEnv(
        environment=args.environment, episodes=args.episodes, every=args.every, seed=FIRST_RESET_SEED
    )
    copies = [offrl.SoftTargetUpdate(tau=1.0, period=HARD_UPDATE_PERIOD)] if copies_targets(model) else []
    trainer = pl.Trainer(
        max_steps=args.updates,
        precision=args.precision,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[evaluation, *copies],
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
            "products": args.products,
            "precision": args.precision,
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


def mean_target_cql() -> Any:
    """CQL with d3rlpy's target: the next action is the policy's mean, where the authors' code samples it."""
    import torch

    import lightning_offrl as offrl

    class MeanTargetCQL(offrl.CQL):
        """One line differs."""

        @torch.no_grad()
        def next_value(self, next_obs: Any, next_pi: Any, alpha: Any) -> Any:
            """Q of the policy's mean action, ``[*lead, B]``."""
            return self.q_target(next_obs, next_pi.mode).amin(-2)

    return MeanTargetCQL


def copies_targets(model: Any) -> bool:
    """Whether the peer's version of this algorithm copies its targets now and then instead of averaging them."""
    return model.action_kind == "discrete" and bool(model.targets)


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
        command += ["--products", args.products, "--precision", args.precision]
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
    if args.readme:
        readme = Path(args.readme)
        head, rest = readme.read_text().split("<!-- scores -->", 1)
        tail = rest.split("<!-- /scores -->", 1)[1]
        section = readme_section(ours, peer)
        readme.write_text(f"{head}<!-- scores -->\n{section}\n<!-- /scores -->{tail}")
    return 0


def family(args: argparse.Namespace) -> int:
    """Write ``family.md`` and ``family.png``; returns 1 if there is nothing to compare."""
    ours, peer = ([json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
                  for folder in (args.ours, args.peer))  # fmt: skip
    if not rest.rows(ours, peer):
        print(f"no results in {args.ours}: run `python benchmarks/score.py run` first", file=sys.stderr)
        return 1
    behavior = json.loads(Path(args.behavior).read_text())
    lines, out = rest.table(ours, peer, behavior), Path(args.out)
    notes = [
        "# The rest of the family",
        "",
        "Normalized scores after **short runs, not the literature's 1,000,000 updates**, at five points of each run, "
        "10 episodes each (reset seeds 1000 to 1009), greedy policy. Mean ± standard error over seeds (number). A "
        "side with one run is given the other's spread. The score of the data, in brackets, is the mean over its "
        "episodes.",
        "",
    ]
    tail = ["", f"![curves]({out.with_suffix('.png').name})", "", "Made by `python benchmarks/score.py family`.", ""]
    out.write_text("\n".join([*notes, *lines, *tail]))
    rest.plot(ours, peer, behavior, out.with_suffix(".png"))
    print("\n".join(lines))
    return 0


def precision(args: argparse.Namespace) -> int:
    """Write ``precision.md``; returns 1 if there is nothing to compare."""

    def read(folder: Path) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]

    reference = read(Path(args.reference))
    lower = {folder.name: read(folder) for folder in sorted(Path(args.lower).iterdir()) if folder.is_dir()}
    if not any(lower.values()):
        print(f"no results in {args.lower}: see `python benchmarks/score.py --help`", file=sys.stderr)
        return 1
    lines = [
        "# Scores in lower precision",
        "",
        "The runs of `scores.md` again: `bf16-mixed` is Lightning's precision, `medium` torch's float32 matmul "
        "precision (bfloat16 products on CPUs with matrix units for them, else float32). Both went through the "
        "compiled update, the float32 runs through the plain one. **Short runs**, means of each run's five "
        "evaluations, mean ± standard error over seeds (number).",
        "",
        f"Processor: {', '.join(sorted({r['machine']['cpu'] for runs in lower.values() for r in runs}))}. On AMD's, "
        "`medium` multiplies in float32: there its rows compare two libraries and two loops, not two precisions.",
        "",
        *rest.precision_table(reference, lower),
        "",
        "Made by `python benchmarks/score.py precision`.",
        "",
    ]
    Path(args.out).write_text("\n".join(lines))
    print("\n".join(lines))
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
    one.add_argument(
        "--products",
        choices=("highest", "medium"),
        default="highest",
        help="torch's float32 matmul precision: medium multiplies in bfloat16 where the processor can",
    )
    one.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true", help="the trainer's")
    one.add_argument("--out", default=str(RESULTS / "runs"), help="folder of the JSON files")
    one.add_argument("--jobs", type=int, default=1, help="runs side by side, each in a process with one thread")
    one.add_argument("--side-by-side", type=int, default=1, help=argparse.SUPPRESS)
    two = verbs.add_parser("compare", help="write the table and the plot")
    two.add_argument("--ours", default=str(RESULTS / "runs"))
    two.add_argument("--peer", default=str(RESULTS / "peer_d3rlpy.json"))
    two.add_argument("--reruns", default=str(RESULTS / "peer_reruns"))
    two.add_argument("--out", default=str(RESULTS / "scores.md"))
    two.add_argument("--readme", help="README whose table between <!-- scores --> and <!-- /scores --> is made anew")
    three = verbs.add_parser("family", help="the same for all other algorithms")
    three.add_argument("--ours", default=str(RESULTS / "runs"))
    three.add_argument("--peer", default=str(RESULTS / "peer_runs"))
    three.add_argument("--behavior", default=str(RESULTS / "behavior.json"), help="mean score of each dataset")
    three.add_argument("--out", default=str(RESULTS / "family.md"))
    four = verbs.add_parser("precision", help="the same for runs in lower precision against float32")
    four.add_argument("--reference", default=str(RESULTS / "runs"))
    four.add_argument("--lower", default=str(RESULTS / "precision"), help="a folder of folders named by precision")
    four.add_argument("--out", default=str(RESULTS / "precision.md"))
    args = parser.parse_args()
    return {"run": run, "compare": compare, "family": family, "precision": precision}[args.verb](args)


if __name__ == "__main__":
    sys.exit(main())
