"""Labels of episodes, for estimates by group, and times, for discounting by time."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_offrl.batch import key_name
from lightning_offrl.data.episodes import Episodes, leaves
from lightning_offrl.errors import InputError

MOST_VALUES = 12
"""A column with more different numbers than this is cut into quarters of the episodes."""


def labels_of(episodes: Episodes, column: str, table: str | Path | None = None) -> list[str]:
    """One label per episode.

    Args:
        episodes: logged data.
        column: a column of ``table``; else a column of the data (its value at the first step of each episode), where
            ``observation.3`` is the fourth number of the observation. Labels must be known when an episode begins:
            groups by what happened later (length, return) answer another question.
        table: CSV file with a header and one line per episode, in order.

    Returns:
        ``[E]`` labels; numbers with many values as quarters: ``1.5 to 2.25``.

    Raises:
        InputError: no such column, or not one value per episode.
    """
    if table is not None:
        return _from_csv(Path(table), column, episodes.n_episodes)
    values = _column(episodes, column)[episodes.start]
    if values.ndim != 1:
        raise InputError(f"the column {column} has {values.shape[1:].numel()} numbers per step; name one: {column}.0")
    if len(values.unique()) <= MOST_VALUES:
        return [f"{x:g}" for x in values.tolist()]
    edges = values.double().quantile(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64))
    place = torch.bucketize(values.double(), edges[1:-1], right=True).tolist()
    return [f"{i + 1}: {edges[i]:.4g} to {edges[i + 1]:.4g}" for i in place]


def elapsed_of(episodes: Episodes, column: str) -> Tensor:
    """Time of each step since its episode began, ``[T]`` float64, from a column of times.

    Raises:
        InputError: no such column, or times that run backwards.
    """
    time = _column(episodes, column).double()
    if time.ndim != 1:
        raise InputError(f"the column of times {column} must hold one number per step")
    elapsed = time - time[episodes.start].repeat_interleave(episodes.length)
    inside = torch.ones(len(time), dtype=torch.bool)
    inside[episodes.start] = False
    back = int((elapsed.diff()[inside[1:]] < 0.0).sum())
    if back:
        raise InputError(f"the times in {column} run backwards at {back:,} steps")
    return elapsed


def _column(episodes: Episodes, name: str) -> Tensor:
    found: dict[str, Tensor] = {key_name(path): value for path, value in leaves(episodes.data)}
    if name in found:
        return found[name]
    stem, _, last = name.rpartition(".")
    if stem in found and last.isdigit() and found[stem].ndim == 2 and int(last) < found[stem].shape[1]:
        return found[stem][:, int(last)]
    raise InputError(
        f"{episodes.name} has no column {name!r}; it has {', '.join(sorted(found))} (observation.0 is its first "
        "number), or give a table of labels, one line per episode"
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
