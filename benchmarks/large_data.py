"""Training from a log that is mapped and not loaded: what sampling costs, and what memory it takes.

    OMP_NUM_THREADS=1 python benchmarks/large_data.py

Writes random transitions in Hopper's shape (11 observations, 3 actions, episodes of 1,000 steps) as an HDF5 file, 10
million and 200,000 of them, and reads each once, which puts it into the memory-mapped cache. Then a process of its own
per log and path trains IQL (256 x 256, batches of 256) from the map and notes

* the CPU time that making batches takes (row numbers, and the rows), beside that of everything;
* memory over time: anonymous (RssAnon, the process's own) and of files (RssFile, which the system may take back).

It needs 2.3 GB of disk while it runs and as much memory while the large log is first read; all files are removed. A log
that does not fit into the system's page cache is read from disk at the speed of the disk; this measures one that fits.
Targets: sampling at most 1 % of an update, and anonymous memory that does not grow with training.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported

import lightning.pytorch as pl
import numpy as np
import torch
from score import RESULTS, cpu_model, write

import lightning_offrl as offrl
from lightning_offrl.data.samplers import gather

OBSERVATIONS, ACTIONS, EPISODE = 11, 3, 1000
BYTES = 4 * (2 * OBSERVATIONS + ACTIONS + 1) + 2
"""Of one transition."""


def write_log(path: Path, rows: int, chunk: int = 500_000) -> None:
    """Random transitions in D4RL's layout, a piece at a time."""
    import h5py

    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        shapes = {"observations": (OBSERVATIONS,), "next_observations": (OBSERVATIONS,), "actions": (ACTIONS,)}
        tables = {name: file.create_dataset(name, (rows, *shape), "f4") for name, shape in shapes.items()}
        rewards = file.create_dataset("rewards", (rows,), "f4")
        ends = np.zeros((2, rows), dtype=bool)  # terminals, timeouts: every second episode each
        ends[0, EPISODE - 1 :: 2 * EPISODE] = ends[1, 2 * EPISODE - 1 :: 2 * EPISODE] = True
        file["terminals"], file["timeouts"] = ends
        for first in range(0, rows, chunk):
            size = min(chunk, rows - first)
            path_ = rng.standard_normal((size + 1, OBSERVATIONS), dtype=np.float32)
            tables["observations"][first : first + size] = path_[:-1]
            tables["next_observations"][first : first + size] = path_[1:]
            tables["actions"][first : first + size] = 2 * rng.random((size, ACTIONS), dtype=np.float32) - 1
            rewards[first : first + size] = rng.standard_normal(size, dtype=np.float32)


def memory() -> dict[str, float]:
    """This process's resident memory in MB, anonymous and of files (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith("Rss")}
    return {"anonymous": found["RssAnon"], "files": found["RssFile"]}


class ClockedLoader:
    """Hands on what another loader makes, and adds up the CPU time that it takes."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.seconds = inner, 0.0

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[Any]:
        blocks = iter(self.inner)
        while True:
            began = time.process_time()
            block = next(blocks, None)
            self.seconds += time.process_time() - began
            if block is None:
                return
            yield block


class Clocked(offrl.OfflineDataModule):
    """The data module, its batches on a clock."""

    def train_dataloader(self) -> Any:
        self.clock = ClockedLoader(super().train_dataloader())
        return self.clock


class FQEMonitor(pl.Callback):
    """Every so many updates: CPU seconds in all and for sampling, and memory."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.seen: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if pl_module.updates % self.every == 0:
            sampling = trainer.datamodule.clock.seconds
            now = {"updates": pl_module.updates, "cpu": time.process_time(), "sampling": sampling}
            self.seen.append({**now, **memory()})


def train(args: argparse.Namespace) -> dict[str, Any]:
    """One run in this process."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    data = Clocked(args.log, batch_size=256, cache_dir=args.folder)
    rows = len(data.episodes)
    opened = time.perf_counter() - began
    model = offrl.IQL(data.spec, hidden=(256, 256), compile=args.path == "compiled")
    watch = FQEMonitor(args.updates // 20)
    trainer = pl.Trainer(
        max_steps=args.updates,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
    )
    trainer.fit(model, data)
    middle, last = watch.seen[len(watch.seen) // 2 - 1], watch.seen[-1]
    updates = last["updates"] - middle["updates"]
    micros = {key: (last[key] - middle[key]) / updates * 1e6 for key in ("cpu", "sampling")}
    loader = data.clock.inner
    anonymous = [seen["anonymous"] for seen in watch.seen[1:]]
    return {
        "transitions": rows,
        "path": args.path,
        "opened_s": opened,
        "update_us": micros["cpu"],
        "sampling_us": micros["sampling"],
        "share": micros["sampling"] / micros["cpu"],
        "parts_us": parts(loader),
        "anonymous_mb": {"first": anonymous[0], "last": anonymous[-1], "most": max(anonymous)},
        "files_mb": last["files"],
        "seen": watch.seen,
    }


def parts(loader: Any, blocks: int = 40) -> dict[str, float]:
    """CPU microseconds per update of the row numbers and of the rows, by themselves."""
    block, base = loader.block, 10**9
    began = time.process_time()
    drawn = [loader.sampler.indices(base + k * block, block) for k in range(blocks)]
    between = time.process_time()
    for rows in drawn:
        gather(loader.columns, rows)
    ended = time.process_time()
    scale = 1e6 / (blocks * block)
    return {"row numbers": (between - began) * scale, "rows": (ended - between) * scale}


def child(*arguments: Any) -> dict[str, Any]:
    """What a fresh process prints as its last line."""
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the run {' '.join(map(str, arguments))} failed, see above")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def table(runs: list[dict[str, Any]]) -> str:
    """What was measured, for people."""
    lines = [
        "| transitions | path | update, us | sampling, us (row numbers + rows) | share "
        "| own memory, MB: early, late, most | mapped, MB | opened in, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        own, alone = run["anonymous_mb"], run["parts_us"]
        lines.append(
            f"| {run['transitions']:,} | {run['path']} | {run['update_us']:,.0f} | {run['sampling_us']:.0f} "
            f"({alone['row numbers']:.0f} + {alone['rows']:.0f}) | {run['share']:.2%} | {own['first']:.0f}, "
            f"{own['last']:.0f}, {own['most']:.0f} | {run['files_mb']:,.0f} | {run['opened_s']:.3f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Write the logs, measure, print; the files are gone afterwards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[200_000, 10_000_000], help="transitions, per log")
    parser.add_argument("--updates", type=int, default=2000, help="per run, a multiple of 1,000")
    parser.add_argument("--paths", nargs="+", default=["plain", "compiled"], choices=["plain", "compiled"])
    parser.add_argument("--folder", help="where the files lie meanwhile; by default the system's temporary folder")
    parser.add_argument("--out", default=str(RESULTS / "large_data"))
    parser.add_argument("--log", help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.path == "read":
        began, cpu = time.perf_counter(), time.process_time()
        offrl.OfflineDataModule(args.log, cache_dir=args.folder).episodes  # noqa: B018
        print(json.dumps({"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}))
        return 0
    if args.path:
        print(json.dumps(train(args)))
        return 0

    runs: list[dict[str, Any]] = []
    first: dict[int, Any] = {}
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="offrl-large-data-") as folder:
        needed, free = 2.2 * max(args.rows) * BYTES, shutil.disk_usage(folder).free
        if needed > free:
            print(
                f"{max(args.rows):,} transitions need {needed / 1e9:.1f} GB in {folder}, which has {free / 1e9:.1f} GB "
                "free; give fewer with --rows or another place with --folder",
                file=sys.stderr,
            )
            return 1
        for rows in args.rows:
            log = Path(folder) / f"log{rows}.hdf5"
            write_log(log, rows)
            time.sleep(2.5)  # a file of just now is not trusted to stay as it is, and would be hashed at every start
            common = ("--log", log, "--folder", folder)
            first[rows] = child(*common, "--path", "read")
            for path in args.paths:
                runs.append(child(*common, "--path", path, "--updates", args.updates))
                print(table(runs[-1:]).splitlines()[-1], flush=True)
            log.unlink()
            shutil.rmtree(Path(folder) / "episodes")
    machine = {"cpu": cpu_model(), "torch": torch.__version__, "load_average": os.getloadavg()[0]}
    write(Path(args.out).with_suffix(".json"), {"machine": machine, "first_start": first, "runs": runs})
    reading = "; ".join(f"{rows:,} transitions: {spent['cpu_s']:.1f} s CPU" for rows, spent in first.items())
    text = (
        "# A log that is mapped, not loaded\n\n`benchmarks/large_data.py`: IQL 256 x 256, batches of 256, one thread, "
        f"{args.updates:,} updates per run, {machine['cpu']}, load average {machine['load_average']:.1f}.\n"
        "Times are CPU time, of the second half of each run. First start (the HDF5 file is read, checked and put into "
        f"the cache): {reading}.\n\n{table(runs)}\n"
    )
    Path(args.out).with_suffix(".md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
