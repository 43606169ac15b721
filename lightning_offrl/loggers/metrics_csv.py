"""One wide ``metrics.csv`` per run, with one row per gradient update that logged anything."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lightning_offrl.errors import InputError
from lightning_offrl.training.files import write_atomically

Row = dict[str, str]


class MetricsCSV(Logger):
    """Writes ``metrics.csv``: the column ``step`` (gradient updates) and one column per metric.

    Metrics logged at the same step share a row, whoever logs them. A metric that first appears later adds a column, for
    which the file is rewritten under another name and renamed. Every call reaches the operating system before it
    returns, so a killed run loses nothing it had logged.

    A resumed run keeps the rows up to the step it resumes from and drops later ones, which it is about to repeat: in
    the end the file is that of a run without interruption. A new run in the same directory first renames the old file.

    Args:
        save_dir: The directory of the file; None takes the run directory on the command line, and the current
            directory from Python.
        filename: The name of the file.
    """

    def __init__(self, save_dir: str | None = None, filename: str = "metrics.csv") -> None:
        super().__init__()
        self._save_dir = save_dir
        self._filename = filename
        self._columns = ["step"]
        self._rows: dict[int, Row] = {}
        self._file: IO[bytes] | None = None
        self._last_start = 0  # byte offset of the last row, which may still grow
        self._last_step = -1
        self._owned = False  # whether this object wrote, or took over, the file at `path`

    @property
    def name(self) -> str:
        """The name, which is empty: Lightning builds directories from it, and ours is the run directory itself."""
        return ""

    @property
    def version(self) -> str:
        """The version, which is empty like the name."""
        return ""

    @property
    def save_dir(self) -> str | None:
        """The directory of the file; None until it is known."""
        return self._save_dir

    @property
    def log_dir(self) -> str:
        """The directory of the file."""
        return self._save_dir or "."

    @property
    def path(self) -> Path:
        """The path of the file."""
        return Path(self.log_dir) / self._filename

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsCSV:
        """The logger itself: there is no session to open."""
        return self

    def use_run_dir(self, run_dir: str) -> None:
        """Write into ``run_dir`` unless a directory was given to the constructor."""
        self._save_dir = self._save_dir or run_dir

    @rank_zero_only
    def resume_at(self, step: int, run_id: str | None = None) -> None:
        """Continue an existing file: keep its rows up to and including ``step``, drop later and half-written ones.

        Args:
            step: The number of gradient updates that the checkpoint has made.
            run_id: Not used; other loggers find their run by it.

        Raises:
            InputError: The file there is not one of this logger's.
        """
        self._close()
        self._columns, self._rows = read_metrics(self.path)
        self._rows = {at: row for at, row in self._rows.items() if at <= step}
        self._last_step = max(self._rows, default=-1)
        self._owned = True
        kept = {column for row in self._rows.values() for column in row}
        self._columns = ["step", *(column for column in self._columns[1:] if column in kept)]
        if self._rows:
            self._rewrite()

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write nothing: the run directory has ``config.yaml``, and the checkpoint the constructor's arguments."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add ``metrics`` to the row of ``step``.

        Args:
            metrics: Plain numbers by name; ``epoch``, which counts nothing here, is left out.
            step: The number of gradient updates.
        """
        if step is None:
            step = max(self._last_step, 0)
        new = {key: _text(value) for key, value in metrics.items() if key not in ("epoch", "step")}
        if not new:
            return
        last, self._last_step = self._last_step, max(self._last_step, step)
        self._rows.setdefault(step, {}).update(new)
        added = [key for key in new if key not in self._columns]
        self._columns += added
        if added or step < last:
            self._rows = dict(sorted(self._rows.items()))
            self._rewrite()
        else:
            self._write_last(step, grows=step == last)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the file; a later call opens it again."""
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write_last(self, step: int, *, grows: bool) -> None:
        if self._file is None:
            self._rewrite()
            return
        try:
            if grows:
                self._file.seek(self._last_start)
                self._file.truncate()
            else:
                self._last_start = self._file.seek(0, os.SEEK_END)
            self._file.write(self._line(step))
            self._file.flush()
        except OSError as error:
            raise InputError(
                f"{self.path} could not be written ({error.strerror or error}): free some space"
            ) from error

    def _rewrite(self) -> None:
        if not self._owned and self.path.exists():
            _keep_old(self.path)
        self._owned = True
        self._close()
        lines = [_join(self._columns), *(self._line(step) for step in self._rows)]
        write_atomically(self.path, b"".join(lines), what="the metrics")
        self._file = open(self.path, "r+b")  # noqa: SIM115 (kept open: a line costs microseconds)
        self._last_start = self._file.seek(0, os.SEEK_END) - (len(lines[-1]) if self._rows else 0)

    def _line(self, step: int) -> bytes:
        row = self._rows[step]
        return _join([str(step), *(row.get(column, "") for column in self._columns[1:])])


def read_metrics(path: str | Path) -> tuple[list[str], dict[int, Row]]:
    """Columns and rows by step of a ``metrics.csv``; empty cells are left out, a half-written last line is dropped.

    Args:
        path: The path of the file; one that does not exist counts as empty.

    Raises:
        InputError: The file is not a table that begins with a ``step`` column.
    """
    if not Path(path).exists():
        return ["step"], {}
    whole, newline, _ = Path(path).read_text(encoding="utf-8").rpartition("\n")
    lines = list(csv.reader(io.StringIO(whole + newline)))
    if not lines:
        return ["step"], {}
    columns = lines[0]
    if columns[0] != "step":
        raise InputError(f"{path} does not begin with a 'step' column, so it is not a metrics file: move it elsewhere")
    rows: dict[int, Row] = {}
    for line in lines[1:]:
        if len(line) == len(columns) and line[0].isdigit():
            rows[int(line[0])] = {key: cell for key, cell in zip(columns[1:], line[1:], strict=True) if cell}
    return columns, rows


def _text(value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value
    return repr(value) if isinstance(value, float) else str(value)


def _join(cells: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _keep_old(path: Path) -> None:
    number = 1
    while path.with_name(f"{path.stem}-{number}{path.suffix}").exists():
        number += 1
    path.rename(path.with_name(f"{path.stem}-{number}{path.suffix}"))
