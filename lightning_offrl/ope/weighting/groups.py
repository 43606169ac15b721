"""Labels of episodes, for estimates by group, and times, for discounting by time."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lightning_offrl.data.columns import column_of, table_column
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.logs.units import conversion
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
        return table_column(table, column, episodes.n_episodes)
    values, names = column_of(episodes, column)
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
    values, names = column_of(episodes, column)
    if names is not None:
        raise InputError(f"the column {column} holds labels ({', '.join(names[:3])}, ...), not times; name another")
    time = values.double()
    logged = next((one.get("unit") for one in episodes.columns.get("log", []) if one["name"] == column), None)
    if logged is not None and unit is None:
        raise InputError(
            f"the times in {column} are in {logged}, and a discount per {logged} differs from one per hour; say what "
            "--discount counts in: --time_unit s, min, h or d"
        )
    if logged is None and unit is not None:
        raise InputError(
            f"the times in {column} have no unit that is known, so they cannot be counted in {unit}; leave out "
            "--time_unit, or give time.unit in the map and import the log again"
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
