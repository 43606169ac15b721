"""How far the fast ways to train lead from the plain one: every page, the same initial values, batches and draws.

    OMP_NUM_THREADS=1 python benchmarks/drift.py

Each page makes 200 updates on random data: in float32 plainly (what the others are compared with), in float32 compiled,
in float32 with ``matmul_precision: medium``, and in bf16-mixed. Losses are compared update by update, in units of that
loss's root mean square over the plain run (a loss may pass through zero); parameters at the end, as the largest
difference of one number and as a distance in units of the way that the plain run went.

Sizes are those of the contract tests, whose graphs the compiler may have in its cache; without it, larger ones take
a few minutes: ``--ways medium bf16 --hidden 256 256 --batch 256 --out drift_256``. Pages that are in the results
already are skipped (each of the ways by itself), so it can be stopped and started again.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import os
import sys
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers.logger import Logger
from score import RESULTS, cpu_model, write

import lightning_offrl as offrl
from lightning_offrl.algorithms import all_algorithms

WAYS: dict[str, dict[str, Any]] = {
    "plain": {"precision": "32-true", "compile": False},
    "compiled": {"precision": "32-true", "compile": True},
    "medium": {"precision": "32-true", "compile": False, "matmul_precision": "medium"},
    "bf16": {"precision": "bf16-mixed", "compile": False},
    "bf16 compiled": {"precision": "bf16-mixed", "compile": True},
}


class Kept(Logger):
    """Keeps every logged loss."""

    name, version = "kept", 0

    def __init__(self) -> None:
        super().__init__()
        self.losses: dict[str, list[float]] = {}

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        return None

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            if name.startswith("train/") and "loss" in name:
                self.losses.setdefault(name.removeprefix("train/"), []).append(value)


class Way(pl.Callback):
    """Notes how the updates were made, which is forgotten after training."""

    said = ""

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.said = pl_module.compile_choice.description()


def log_for(kind: str, rows: int = 20_000, episode: int = 200) -> dict[str, np.ndarray]:
    """Random transitions: 3 observations, and 2 action numbers in the box or one of 3 actions."""
    rng = np.random.default_rng(0)
    path = rng.normal(size=(rows // episode, episode + 1, 3)).astype(np.float32)
    ends = np.zeros((2, rows), dtype=bool)
    ends[0, episode - 1 :: 2 * episode] = ends[1, 2 * episode - 1 :: 2 * episode] = True
    actions = rng.uniform(-1, 1, (rows, 2)).astype(np.float32) if kind == "box" else rng.integers(0, 3, rows)
    return {
        "observations": path[:, :-1].reshape(-1, 3),
        "next_observations": path[:, 1:].reshape(-1, 3),
        "actions": actions,
        "rewards": rng.normal(size=rows).astype(np.float32),
        "terminals": ends[0],
        "timeouts": ends[1],
    }


def train(
    kind: type[offrl.OfflineAlgorithm], data: Any, model: dict[str, Any], updates: int, precision: Any
) -> tuple[dict[str, list[float]], dict[str, torch.Tensor], dict[str, torch.Tensor], str]:
    """Losses update by update, parameters before and after, and how updates were made."""
    page, kept, way = kind(data.spec, **model), Kept(), Way()
    before = {name: p.detach().clone() for name, p in page.named_parameters()}
    pl.Trainer(
        max_steps=updates,
        accelerator="cpu",
        devices=1,
        precision=precision,
        logger=kept,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[way],
    ).fit(page, data)
    return kept.losses, before, {name: p.detach() for name, p in page.named_parameters()}, way.said


def loss_drift(plain: list[float], other: list[float]) -> tuple[float, float]:
    """Largest difference over the run and the one at its end, in units of the plain loss's root mean square."""
    scale = math.sqrt(sum(x * x for x in plain) / len(plain))
    apart = [abs(a - b) / scale for a, b in zip(plain, other, strict=True)]
    return max(apart), apart[-1]


def distances(start: dict[str, Any], one: dict[str, Any], other: dict[str, Any]) -> tuple[float, float]:
    """Largest difference of one parameter, and the distance of all in units of the way from the start."""
    gaps = torch.cat([(one[name].double() - other[name].double()).flatten() for name in one])
    way = torch.cat([(one[name].double() - start[name].double()).flatten() for name in one])
    return float(gaps.abs().max()), float(gaps.norm() / way.norm())


def compare(kind: type[offrl.OfflineAlgorithm], ways: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """These ways of one page, beside the plain one."""
    parameters = inspect.signature(kind).parameters
    model: dict[str, Any] = {"hidden": tuple(args.hidden)}
    if "vae_hidden" in parameters:
        model["vae_hidden"] = tuple(args.hidden)
    found: dict[str, Any] = {}
    runs = {}
    for name in ("plain", *ways):
        way = WAYS[name]
        settings = {key: value for key, value in way.items() if key != "precision"}
        data = offrl.OfflineDataModule(log_for(kind.action_kind), batch_size=args.batch)
        runs[name] = train(kind, data, {**model, **settings}, args.updates, way["precision"])
        losses, start, end, said = runs[name]
        if name == "plain":
            continue
        plain, _, plain_end, _ = runs["plain"]
        far, gap = distances(start, plain_end, end), {key: loss_drift(plain[key], losses[key]) for key in plain}
        if way["compile"] and not said.startswith("compiled"):
            raise SystemExit(f"{kind.__name__} was to be compiled, but was {said}")
        found[name] = {
            "losses": {key: {"largest": most, "end": last} for key, (most, last) in gap.items()},
            "largest_parameter_difference": far[0],
            "distance_by_way": far[1],
            "said": said,
        }
    return found


def table(pages: dict[str, Any]) -> str:
    """Per page and way the loss that drifted most, and the parameters."""
    names = [name for name in WAYS if any(name in ways for ways in pages.values())]
    lines = [f"| page | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for page, ways in sorted(pages.items()):
        cells = []
        for way in (ways.get(name) for name in names):
            if way is None:
                cells.append("-")
                continue
            name, worst = max(way["losses"].items(), key=lambda item: item[1]["largest"])
            cells.append(
                f"{worst['largest']:.0e}, {worst['end']:.0e} ({name}); {way['largest_parameter_difference']:.0e}, "
                f"{way['distance_by_way']:.0e}"
            )
        lines.append(f"| {page} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Compare the pages that are not in the results, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--algorithm", nargs="+", help="pages by class name; by default all")
    parser.add_argument("--ways", nargs="+", default=["compiled", "medium", "bf16"], choices=[*WAYS][1:])
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--hidden", type=int, nargs="+", default=[16, 16])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--out", default="drift", help="name of the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    out, pages = RESULTS / args.out, all_algorithms()
    sizes = {"updates": args.updates, "hidden": args.hidden, "batch": args.batch}
    done: dict[str, Any] = {}
    if out.with_suffix(".json").exists():
        before = json.loads(out.with_suffix(".json").read_text())
        done = before["pages"] if before["sizes"] == sizes else {}
    for name in args.algorithm or pages:
        missing = [way for way in args.ways if way not in done.get(name, {})]
        if missing:
            done[name] = {**done.get(name, {}), **compare(pages[name], missing, args)}
            write(out.with_suffix(".json"), {"sizes": sizes, "cpu": cpu_model(), "pages": done})
            print(table({name: done[name]}).splitlines()[-1], flush=True)
    width = " x ".join(map(str, args.hidden))
    text = (
        f"# Drift from the plain float32 run\n\n`benchmarks/drift.py`: {args.updates} updates, {width} networks, "
        f"batches of {args.batch}, {cpu_model()}, torch {torch.__version__}. In each cell: the loss that drifted most, "
        "largest and at the end, in units of its root mean square; then parameters, the largest difference and the "
        f"distance in units of the way the plain run went.\n\n{table(done)}\n"
    )
    out.with_suffix(".md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
