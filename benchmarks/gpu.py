"""What a GPU makes of small updates: eager, as one CUDA graph, and with eight seeds stacked; launches beside it.

    python benchmarks/gpu.py

IQL and TD3+BC (256 x 256 networks, batches of 256, Hopper's shape), through the Trainer, with the log in the GPU's
memory. An update of this size is hundreds of kernels of a few microseconds each, so what counts is who launches them:

    eager     Python launches every kernel
    graph     the update is compiled and recorded, and launched as one
    floor     for eager its kernels times the cost of launching an empty one; for a graph its replay and nothing else

A check comes first: in float64, from the same initial values, batches and random numbers, 50 updates of both ways.
Needs an NVIDIA GPU and a CUDA build of torch; without, it says so and ends with 2.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from overhead import synthetic
from score import RESULTS, write

import lightning_offrl as offrl

ALGORITHMS = {"IQL": offrl.IQL, "TD3BC": offrl.TD3BC}


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Stopwatch(pl.Callback):
    """Times whole blocks after the first ``warm`` updates, and looks at the graphs before they are gone.

    Args:
        warm: updates before the clock starts.
    """

    def __init__(self, warm: int) -> None:
        self.warm, self.since, self.made = warm, 0.0, 0
        self.way, self.replay_us = "", float("nan")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if not self.made and pl_module.updates >= self.warm:
            synchronize(pl_module.device)
            self.since, self.made = time.perf_counter(), pl_module.updates

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        synchronize(pl_module.device)
        self.us = (time.perf_counter() - self.since) / (pl_module.updates - self.made) * 1e6
        self.way = pl_module.compile_choice.description()
        graphs = pl_module.compile_choice.compiled.graphs if pl_module.compile_choice.compiled is not None else []
        recorded = [graph.run.recorder for graph in graphs if hasattr(graph.run, "recorder")]
        if recorded:  # TD3+BC has two graphs, with and without the policy, that take turns
            began = time.perf_counter()
            for _ in range(500):
                for recorder in recorded:
                    recorder.replay()
            synchronize(pl_module.device)
            self.replay_us = (time.perf_counter() - began) / (500 * len(recorded)) * 1e6


def fit(
    name: str, source: Any, accelerator: str, updates: int, precision: Any, callbacks: list[Any], **model: Any
) -> Any:
    """Train; returns the module."""
    data = offrl.OfflineDataModule(source, batch_size=256)
    algorithm = ALGORITHMS[name](data.spec, **{"hidden": (256, 256), **model})
    pl.Trainer(
        max_steps=updates,
        accelerator=accelerator,
        devices=1,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    ).fit(algorithm, data)
    return algorithm


def largest_gap(name: str, source: Any, accelerator: str, **model: Any) -> float:
    """Largest difference of any parameter after 50 updates in float64, eager and graph."""
    plain, graph = (fit(name, source, accelerator, 50, "64-true", [], compile=c, **model) for c in (False, True))
    other = graph.state_dict()
    return max(float((value.double() - other[key].double()).abs().max()) for key, value in plain.state_dict().items())


def measure(
    name: str, source: Any, accelerator: str, updates: int, precision: str, graph: bool, seeds: int, **model: Any
) -> dict[str, Any]:
    """Microseconds per update of one way to train."""
    watch = Stopwatch(updates // 5)
    fit(name, source, accelerator, updates, precision, [watch], compile=graph, seeds=seeds, **model)
    return {
        "algorithm": name,
        "way": "graph" if graph else "eager",
        "precision": precision,
        "seeds": seeds,
        "update_us": watch.us,
        "per_seed_us": watch.us / seeds,
        "replay_us": watch.replay_us,
        "said": watch.way,
    }


def launch_us(device: torch.device, launches: int = 20_000) -> float:
    """Microseconds that Python and the driver take to launch one small kernel through torch."""
    x = torch.zeros(1, device=device)
    for count in (1000, launches):
        synchronize(device)
        began = time.perf_counter()
        for _ in range(count):
            x.add_(1.0)
        synchronize(device)
    return (time.perf_counter() - began) / launches * 1e6


class CountLaunches(pl.Callback):
    """Counts kernel launches per update over one block, not the first."""

    def __init__(self) -> None:
        self.per_update = float("nan")
        self._profile: Any = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            self._begun = pl_module.updates
            self._profile = torch.profiler.profile(activities=list(torch.profiler.supported_activities()))
            self._profile.__enter__()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            synchronize(pl_module.device)
            self._profile.__exit__(None, None, None)
            launches = sum(e.count for e in self._profile.key_averages() if "LaunchKernel" in e.key)
            self.per_update = launches / (pl_module.updates - self._begun)


def table(runs: list[dict[str, Any]]) -> str:
    """What was measured, for people."""
    lines = [
        "| algorithm | precision | way | seeds | us per update | us per seed and update | floor, us |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        floor = f"{run['floor_us']:,.0f}" if run["floor_us"] == run["floor_us"] else "-"
        lines.append(
            f"| {run['algorithm']} | {run['precision']} | {run['way']} | {run['seeds']} | {run['update_us']:,.0f} "
            f"| {run['per_seed_us']:,.0f} | {floor} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Check, measure, write, print; 1 if both ways do not compute the same, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=5000, help="per run; the first fifth is not timed")
    parser.add_argument("--precision", nargs="+", default=["32-true", "bf16-mixed"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--out", default=str(RESULTS / "gpu"))
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            f"benchmarks/gpu.py needs an NVIDIA GPU, and torch {torch.__version__} sees none here; run it where "
            "torch.cuda.is_available() is true",
            file=sys.stderr,
        )
        return 2
    source, device = synthetic(), torch.device("cuda")
    gaps = {name: largest_gap(name, source, "gpu") for name in ALGORITHMS}
    if max(gaps.values()) > 1e-9:
        print(f"parameters differ after 50 updates in float64, by {gaps}: not the same update", file=sys.stderr)
        return 1
    launch, runs = launch_us(device), []
    for name in ALGORITHMS:
        count = CountLaunches()
        fit(name, source, "gpu", 200, "32-true", [count], compile=False)
        for precision in args.precision:
            for seeds in args.seeds:
                for graph in (False, True):
                    run = measure(name, source, "gpu", args.updates, precision, graph, seeds)
                    eager_floor = count.per_update * launch if (precision, seeds) == ("32-true", 1) else float("nan")
                    runs.append({**run, "floor_us": run["replay_us"] if graph else eager_floor})
                    print(table(runs[-1:]).splitlines()[-1], run["said"], flush=True)
    facts = {"gpu": torch.cuda.get_device_name(device), "torch": torch.__version__, "cuda": torch.version.cuda}
    write(
        Path(args.out).with_suffix(".json"),
        {"machine": facts, "launch_us": launch, "largest_parameter_difference": gaps, "runs": runs},
    )
    text = (
        f"# Updates on {facts['gpu']}\n\n`benchmarks/gpu.py`, torch {facts['torch']}, 256 x 256, batches of 256, "
        f"{args.updates:,} updates per run. One launch takes {launch:.1f} us. In float64 both ways differ by at most "
        f"{max(gaps.values()):.1e} after 50 updates.\n\n{table(runs)}\n"
    )
    Path(args.out).with_suffix(".md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
