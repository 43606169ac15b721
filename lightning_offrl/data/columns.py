"""Columns by name: of the data, of what a log was imported with, and of tables with one line per episode."""

from __future__ import annotations

import csv
import difflib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_offrl.batch import key_name
from lightning_offrl.data.episodes import Episodes, leaves
from lightning_offrl.errors import InputError


def column_of(episodes: Episodes, name: str) -> tuple[Tensor, list[str] | None]:
    """A column of the data, by its own name or by the one that an imported log gave it.

    Args:
        episodes: logged data.
        name: such as ``observation.3``, the fourth number of the observation; of an imported log also a group, a time
            or an observation by its header there.

    Returns:
        ``[T]`` or ``[T, n]``, and the texts that its numbers stand for, None where they are numbers.

    Raises:
        InputError: no such column.
    """
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


def table_column(table: str | Path, column: str, n: int) -> list[str]:
    """A column of a CSV file with a header and one line per episode, ``[n]`` texts.

    Raises:
        InputError: a file that cannot be read, no such column, or another number of lines.
    """
    path = Path(table)
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
