"""Labels of episodes, for estimates by group, and times, for discounting by time."""

from __future__ import annotations

import csv
import difflib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_offrl.batch import key_name
from lightning_offrl.data.episodes import Episodes, leaves
from lightning_offrl.data.sources.logs.units import conversion
from lightning_offrl.errors import InputError

MOST_VALUES = 12
"""A column with more different numbers than this is cut into quarters of the episodes."""


def labels_of(episodes: Episodes, column: str, table: str | Path | None = None) -> list[str]:
    """One label per episode.

    Args:
        episodes: logged data.
        column: a column of ``table``; else a column of the data (its value at the first step of each episode), where
            ``observation.3`` is the fourth number of the observation; of an imported log also by the name that the log
            gave it (groups, times, observations). Labels must be known when an episode begins: groups by what
            happened later (length, return) answer another question.
        table: CSV file with a header and one line per episode, in order.

    Returns:
        ``[E]`` labels; numbers with many values as quarters: ``1.5 to 2.25``; ``missing`` where the log had none.

    Raises:
        InputError: no such column, or not one value per episode.
    """
    if table is not None:
        return _from_csv(Path(table), column, episodes.n_episodes)
    values, names = _column(episodes, column)
    values = values[episodes.start]
    if values.ndim != 1:
        raise InputError(f"the column {column} has {values.shape[1:].numel()} numbers per step; name one: {column}.0")
    known = ~values.isnan()
    if names is not None:
        return [names[int(x)] if ok else "missing" for x, ok in zip(values.tolist(), known.tolist(), strict=True)]
    if len(values[known].unique()) <= MOST_VALUES:
        return [f"{x:g}" if ok else "missing" for x, ok in zip(values.tolist(), known.tolist(), strict=True)]
    edges = values[known].double().quantile(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64))
    place = torch.bucketize(values.double(), edges[1:-1], right=True).tolist()
    quarters = [f"{i + 1}: {edges[i]:.4g} to {edges[i + 1]:.4g}" for i in range(4)]
    return [quarters[i] if ok else "missing" for i, ok in zip(place, known.tolist(), strict=True)]


def elapsed_of(episodes: Episodes, column: str, unit: str | None = None) -> Tensor:
    """Time of each step since its episode began, ``[T]`` float64, from a column of times.

    Args:
        episodes: logged data.
        column: its name, see `labels_of`.
        unit: to count in, where the log says what it counts in (a discount per second differs from one per hour, so
            it must be said there); None: as logged.

    Raises:
        InputError: no such column, times that run backwards, or a unit that is missing or has no meaning.
    """
    values, names = _column(episodes, column)
    if names is not None:
        raise InputError(f"the column {column} holds labels ({', '.join(names[:3])}, ...), not times; name another")
    time = values.double()
    logged = next((one.get("unit") for one in episodes.columns.get("log", []) if one["name"] == column), None)
    if logged is not None and unit is None:
        raise InputError(
            f"the times in {column} are in {logged}, and a discount per {logged} differs from one per hour; say what "
            "--discount counts in: --time-unit s, min, h or d"
        )
    if logged is None and unit is not None:
        raise InputError(
            f"the times in {column} have no unit that is known, so they cannot be counted in {unit}; leave out "
            "--time-unit, or give time.unit in the map and import the log again"
        )
    if time.ndim != 1:
        raise InputError(f"the column of times {column} must hold one number per step")
    elapsed = time - time[episodes.start].repeat_interleave(episodes.length)
    if logged is not None and unit is not None:
        elapsed = elapsed * conversion(logged, unit, f"the column of times {column}")[0]
    inside = torch.ones(len(time), dtype=torch.bool)
    inside[episodes.start] = False
    back = int((elapsed.diff()[inside[1:]] < 0.0).sum())
    if back:
        raise InputError(f"the times in {column} run backwards at {back:,} steps")
    return elapsed


def _column(episodes: Episodes, name: str) -> tuple[Tensor, list[str] | None]:
    """A column ``[T]`` or ``[T, n]``, and the texts that its numbers stand for."""
    found: dict[str, Tensor] = {key_name(path): value for path, value in leaves(episodes.data)}
    logged: list[str] = []
    for key in ("log", "observation"):
        entries = episodes.columns.get(key) or []
        if key not in found or found[key].ndim != 2 or len(entries) != found[key].shape[1]:
            continue
        logged += [str(one.get("column", one["name"])) for one in entries]
        for i, one in enumerate(entries):
            if one["name"] == name:
                return found[key][:, i], one.get("labels")
        choices = [i for i, one in enumerate(entries) if one.get("column") == name]
        if choices:  # one number for each category; none is set where the value was missing
            hot = found[key][:, choices]
            texts = [*(str(entries[i]["value"]) for i in choices), "missing"]
            return torch.where(hot.sum(1) > 0, hot.argmax(1), len(choices)), texts
    if name in found:
        return found[name], None
    stem, _, last = name.rpartition(".")
    if stem in found and last.isdigit() and found[stem].ndim == 2 and int(last) < found[stem].shape[1]:
        return found[stem][:, int(last)], None
    named = f"{', '.join(dict.fromkeys(logged))}, and " if logged else ""
    near = difflib.get_close_matches(name, [*logged, *found], 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(
        f"{episodes.name} has no column {name!r}; {hint}it has {named}{', '.join(sorted(found))} (observation.0 is its "
        "first number); or give a table of labels, one line per episode, or import the log with groups in the map"
    )


def _from_csv(path: Path, column: str, n: int) -> list[str]:
    try:
        with path.open(newline="") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise InputError(f"the labels in {path} cannot be read as CSV ({problem})") from problem
    if not rows or column not in rows[0]:
        raise InputError(f"{path} has no column {column!r}; it has {', '.join(rows[0]) if rows else 'no lines'}")
    if len(rows) != n:
        raise InputError(f"{path} has {len(rows):,} lines of labels, but there are {n:,} episodes: one line for each")
    return [str(row[column]) for row in rows]
