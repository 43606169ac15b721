"""``offrl fit --processes N``: the same training from N seeds, one process and one thread each, and one table.

Process i is the run that ``offrl fit --seed_everything SEED+i --run_dir PARENT/seed<i>`` would be, and ends with the
same numbers bit for bit. Processes share nothing but the data, so N cores make N runs in the time of one.
"""

from __future__ import annotations

import csv
import io
import os
import signal
import statistics
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_offrl.cli.fit import run_directory
from lightning_offrl.data.text_table import aligned
from lightning_offrl.errors import InputError
from lightning_offrl.loggers.metrics_csv import read_metrics
from lightning_offrl.training.files import write_atomically

SUMMARY = "summary.csv"
_LAST_LINES = 15
_FORWARDED = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Child:
    """One run in a process of its own; what it writes appears here, line by line behind its name.

    Args:
        name: The name, "seed0" and so on, which is also that of its directory.
        words: The words after ``offrl``.
        say: A function that is called with each finished line.
    """

    def __init__(self, name: str, words: Sequence[str], say: Callable[[str], None]) -> None:
        self.name = name
        self.last: deque[str] = deque(maxlen=_LAST_LINES)
        # a session of its own: the terminal would send its Ctrl-C to the child too, and two of them stop without saving
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lightning_offrl", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, args=(say,), daemon=True)
        self._reader.start()

    def _read(self, say: Callable[[str], None]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text := line.rstrip():
                self.last.append(text)
                say(f"{self.name}: {text}")

    def wait(self) -> int:
        """Wait for its end and its last line; the exit status, or 128 + the number of the signal that ended it."""
        status = self.process.wait()
        self._reader.join(timeout=5.0)  # a grandchild may hold the pipe open
        return status if status >= 0 else 128 - status

    def send(self, signum: int) -> None:
        """Send it a signal, if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(signum)


def run(words: Sequence[str], config: Any) -> int:
    """Train, wait for all, write ``summary.csv`` and print it.

    Args:
        words: The options of ``offrl fit``, with ``--processes``.
        config: The parsed options.

    Returns:
        0; 128 + the signal if one stopped the runs; else the exit status of the first run that failed. The other runs
        go on to their end.

    Raises:
        InputError: The training cannot be divided into processes.
    """
    count = config.processes
    directory = _directory(config, count)
    children: list[Child] = []
    print(f"offrl: {count} runs in {count} processes: {directory}/seed0 to seed{count - 1}", file=sys.stderr)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < count:
        print(f"offrl: warning: {count} processes share {cores} cores", file=sys.stderr)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with _passed_on(children) as received:
        for i in range(count):
            if not received:
                own = ["--seed_everything", str(config.seed_everything + i), "--run_dir", str(directory / f"seed{i}")]
                threads = [] if config.threads is not None else ["--threads", "1"]
                one = ["fit", *words, "--processes", "1", "--name", "null", *threads, *own]
                children.append(Child(f"seed{i}", one, say))
                if received:  # while it was being started
                    children[-1].send(received[0])
        statuses = [child.wait() for child in children]
    if received:
        print(
            f"offrl: stopped; go on with: offrl fit --processes {count} --run_dir {directory} --ckpt_path last",
            file=sys.stderr,
        )
        return 128 + received[0]
    finished = [child.name for child, status in zip(children, statuses, strict=True) if status == 0]
    if finished:
        print(summary(directory, finished))
    failed: dict[tuple[int, str], list[str]] = {}
    for child, status in zip(children, statuses, strict=True):
        if status:
            failed.setdefault((status, "\n".join(f"  {line}" for line in child.last)), []).append(child.name)
    for (status, told), names in failed.items():
        print(f"offrl: error: {', '.join(names)} ended with exit status {status}; last lines:\n{told}", file=sys.stderr)
    return next((status for status in statuses if status), 0)


def summary(directory: Path, names: Sequence[str]) -> str:
    """The last value of each metric: mean and spread over the runs, written to ``summary.csv`` and as a text table.

    Args:
        directory: The parent directory of the runs.
        names: The names of the runs in it; those without a ``metrics.csv`` of `MetricsCSV` are left out.
    """
    final: dict[str, dict[str, tuple[int, float]]] = {}
    for name in names:
        path = directory / name / "metrics.csv"
        if path.is_file():
            for step, row in read_metrics(path)[1].items():
                for metric, text in row.items():
                    if metric != "step" and text != "":
                        final.setdefault(metric, {})[name] = (step, float(text))
    if not final:
        return f"runs: {', '.join(str(directory / name) for name in names)} (no metrics.csv to summarize)"
    rows: list[tuple[str, int, int, list[float]]] = []
    for metric, runs in sorted(final.items(), key=lambda item: (not item[0].startswith("eval/"), item[0])):
        values = [value for _, value in runs.values()]
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        step = max(at for at, _ in runs.values())
        rows.append((metric, step, len(values), [statistics.fmean(values), spread, min(values), max(values)]))
    header = ["metric", "update", "runs", "mean", "deviation", "min", "max"]
    table = [[metric, step, n, *numbers, *_each(final[metric], names)] for metric, step, n, numbers in rows]
    _write(directory / SUMMARY, [[*header, *names], *table])
    shown = [
        header,
        *[[metric, f"{step:,}", str(n), *[f"{x:.4g}" for x in numbers]] for metric, step, n, numbers in rows],
    ]
    lines = aligned(shown, numbers=True)
    return "\n".join([f"last value of each metric over {len(names)} seeds ({directory / SUMMARY}):", *lines])


def _each(runs: dict[str, tuple[int, float]], names: Sequence[str]) -> list[Any]:
    return [runs[name][1] if name in runs else "" for name in names]


def _write(path: Path, rows: list[list[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(path, text.getvalue().encode(), what="the summary")


def _directory(config: Any, count: int) -> Path:
    """The parent of the runs, after a check of everything that would stop all of them."""
    seeds = config.model.init_args.get("seeds", 1)
    if seeds != 1:
        raise InputError(
            f"--processes {count} trains one seed in each process and needs model.seeds 1, got {seeds}; stacked seeds "
            "share one process"
        )
    if config.ckpt_path not in (None, "last"):
        raise InputError(
            f"--processes {count} goes on with all its runs by --ckpt_path last; {config.ckpt_path} belongs to one run"
        )
    if config.ckpt_path == "last" and config.run_dir is None:
        raise InputError("--ckpt_path last needs to know whose: add --run_dir, the directory that holds seed0, seed1")
    directory, _ = run_directory.choose(
        run_dir=config.run_dir,
        name=config.name,
        ckpt_path=None,
        algorithm=config.model.class_path.rpartition(".")[2],
        source=config.data.source,
    )
    taken = [i for i in range(count) if any((directory / f"seed{i}").glob("checkpoints/*.ckpt"))]
    if taken and config.ckpt_path is None:
        raise InputError(
            f"{directory} holds runs already (seed{taken[0]}): go on with them by --ckpt_path last, or choose another "
            "--name or --run_dir"
        )
    if config.ckpt_path == "last" and len(taken) < count:
        missing = next(i for i in range(count) if i not in taken)
        raise InputError(f"there is no checkpoint in {directory / f'seed{missing}'} to go on with")
    return directory


@contextmanager
def _passed_on(children: list[Child]) -> Iterator[list[int]]:
    """Pass signals on to all children, which save and end as single runs do; yields the signals received."""
    received: list[int] = []

    def receive(signum: int, frame: Any) -> None:
        received.append(signum)
        for child in children:
            child.send(signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM)

    replaced: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        replaced = {signum: signal.signal(signum, receive) for signum in _FORWARDED}
    try:
        yield received
    except BaseException:
        for child in children:
            child.send(signal.SIGTERM)
        raise
    finally:
        for signum, handler in replaced.items():
            signal.signal(signum, handler)
