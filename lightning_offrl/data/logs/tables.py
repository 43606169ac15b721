"""Rows of a log as numbers, and what has to be known of the whole log first: means, categories, bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lightning_offrl.data.logs import masks
from lightning_offrl.data.logs.files import Chunk, chunks, where
from lightning_offrl.data.logs.mapping import LogMap
from lightning_offrl.data.logs.settings import Column, category_text
from lightning_offrl.data.logs.values import Reader, is_number
from lightning_offrl.errors import InputError

MOST_CATEGORIES = 1000


@dataclass(frozen=True)
class Table:
    """Rows, ``[n]`` each unless said otherwise.

    Attributes:
        key: uint64, the same for the rows of an episode.
        time: float64 seconds, or zeros without a time column.
        observation: ``[n, C]`` float64, one column per observation of the map (a category's number), nan where missing.
        action: ``[n, A]`` float64, likewise.
        reward: float64, nan where missing.
        terminated: bool.
        truncated: bool.
        log_density: float64, nan where missing or not logged.
        group: ``[n, G]`` float64: numbers, or the numbers of labels; nan where missing.
        legal: ``[n, N]`` int8, which of N discrete actions were legal, see `masks.read`; N = 0: not logged.
        file: int32, the number of the file.
        row: int64, the row in the file, from 1.
    """

    key: np.ndarray
    time: np.ndarray
    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    log_density: np.ndarray
    group: np.ndarray
    legal: np.ndarray
    file: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.key)

    def take(self, rows: slice | np.ndarray) -> Table:
        """These rows."""
        return Table(**{name: getattr(self, name)[rows] for name in Table.__dataclass_fields__})

    @staticmethod
    def join(parts: Sequence[Table]) -> Table:
        """Rows of all parts."""
        if len(parts) == 1:
            return parts[0]
        names = Table.__dataclass_fields__
        return Table(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


@dataclass
class Log:
    """Files with their map; the map is completed (categories, bounds, means) by `survey`.

    Attributes:
        files: in order.
        settings: the map.
        means: of the observations that need one, by position.
        notes: what was taken from the data.
        unseen: values of flags that no row had, by their role in the map. Known when all rows were read.
        in_seconds: whether times are counted in seconds; False: in what the log counts. Known when rows were read.
    """

    files: list[Path]
    settings: LogMap
    means: dict[int, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unseen: dict[str, set[str]] = field(default_factory=dict)
    in_seconds: bool = False

    def tables(self) -> Iterator[Table]:
        """All rows, a piece at a time."""
        reader, settings = Reader(self.settings), self.settings
        mask = settings.action_mask
        lists = () if mask is None or mask.column is None else (mask.column,)
        self.in_seconds, self.unseen = settings.time_in_seconds, reader.unseen
        for number, path in enumerate(self.files):
            for chunk in chunks(path, settings.columns, settings.delimiter, settings.path, lists):
                rows = len(chunk)
                none = np.full(rows, math.nan)
                time = reader.times(chunk) if settings.time is not None else np.zeros(rows)
                self.in_seconds |= reader.moments
                yield Table(
                    key=reader.keys(chunk),
                    time=time,
                    observation=_side_by_side(reader, chunk, settings.observation),
                    action=_side_by_side(reader, chunk, settings.action),
                    reward=reader.numbers(chunk, settings.reward),
                    terminated=reader.flags(chunk, settings.terminated),
                    truncated=reader.flags(chunk, settings.truncated),
                    log_density=reader.log_densities(chunk) if settings.propensity is not None else none,
                    group=_side_by_side(reader, chunk, settings.groups),
                    legal=masks.read(reader, chunk, settings),
                    file=np.full(rows, number, dtype=np.int32),
                    row=np.arange(chunk.first, chunk.first + rows, dtype=np.int64),
                )

    def error(self, table: Table, row: int, column: str | None, what: str) -> InputError:
        """One sentence that names file, row and column."""
        place = where(self.files[int(table.file[row])], int(table.row[row]))
        return InputError(f"{place}{f', column {column!r}' if column else ''}: {what}")


def _side_by_side(reader: Reader, chunk: Chunk, columns: tuple[Column, ...]) -> np.ndarray:
    out = np.empty((len(chunk), len(columns)))
    for i, column in enumerate(columns):
        if column.categories is None:
            out[:, i] = reader.numbers(chunk, column)
        else:
            out[:, i] = reader.categories(chunk, column, column.categories)
    return out


def survey(log: Log) -> None:
    """Read the log once for what the map leaves open (means, categories, bounds, labels), if it does.

    Raises:
        InputError: for cells that cannot be read, or a column without any value.
    """
    settings, reader = log.settings, Reader(log.settings)
    means = {i: (0.0, 0) for i, c in enumerate(settings.observation) if c.categories is None and "mean" in c.fill}
    observed = {i for i, c in enumerate(settings.observation) if c.categories == ()}
    chosen = {i for i, c in enumerate(settings.action) if c.categories == ()}
    open_ends = {i for i, c in enumerate(settings.action) if c.categories is None and (c.low is None or c.high is None)}
    needed = [
        *(settings.observation[i] for i in [*means, *observed]),
        *(settings.action[i] for i in chosen | open_ends),
        *(labels := {column: _Labels() for column in settings.groups if column.categories == ()}),
    ]
    if not needed:
        return
    names = tuple(dict.fromkeys(column.name for column in needed))
    values: dict[Column, set[str]] = {column: set() for column in needed if column.categories == ()}
    for column in labels:
        del values[column]
    bounds = {i: (math.inf, -math.inf) for i in open_ends}
    for path in log.files:
        for chunk in chunks(path, names, settings.delimiter, settings.path):
            for column, seen in values.items():
                seen |= set(np.unique(reader.texts(chunk, column.name)).tolist()) - {""}
                if len(seen) > MOST_CATEGORIES:
                    raise InputError(
                        f"{path}, column {column.name!r}: {column.role} has more than {MOST_CATEGORIES} different "
                        "values; is it a number? Then leave out categories, else list them"
                    )
            for column, found in labels.items():
                found.add(reader, chunk, column)
            for i, (total, count) in means.items():
                number = reader.numbers(chunk, settings.observation[i])
                means[i] = (total + float(np.nansum(number)), count + int((~np.isnan(number)).sum()))
            for i, (low, high) in bounds.items():
                number = reader.numbers(chunk, settings.action[i])
                if not np.isnan(number).all():
                    bounds[i] = (min(low, float(np.nanmin(number))), max(high, float(np.nanmax(number))))
    for i, (total, count) in means.items():
        if count == 0:
            raise InputError(
                f"{log.files[0]}, column {settings.observation[i].name!r}: every value is missing, so it has no mean; "
                "leave it out of the map, or fill it with a number"
            )
        log.means[i] = total / count
    log.settings = replace(
        settings,
        observation=tuple(_completed(c, values, None, log) for c in settings.observation),
        action=tuple(_completed(c, values, bounds.get(i), log) for i, c in enumerate(settings.action)),
        groups=tuple(replace(c, categories=labels[c].categories) if c in labels else c for c in settings.groups),
    )


class _Labels:
    """The labels in a column of groups: numbers, however many, or at most `MOST_CATEGORIES` texts."""

    def __init__(self) -> None:
        self._numbers, self._names = True, set[str]()

    @property
    def categories(self) -> tuple[str, ...] | None:
        """Sorted texts; None: they are numbers."""
        return None if self._numbers and self._names else tuple(sorted(self._names, key=_natural))

    def add(self, reader: Reader, chunk: Chunk, column: Column) -> None:
        raw = chunk.columns[column.name]
        if raw.dtype.kind in "iuf":
            names = {category_text(value) for value in np.unique(raw[~np.isnan(raw)])[: MOST_CATEGORIES + 1].tolist()}
        else:
            names = set(np.unique(reader.texts(chunk, column.name)).tolist()) - {""}
        self._numbers = self._numbers and all(map(is_number, names))
        if len(self._names) <= MOST_CATEGORIES:
            self._names |= names
        if not self._numbers and len(self._names) > MOST_CATEGORIES:
            raise InputError(
                f"{chunk.file}, column {column.name!r}: {column.role} has more than {MOST_CATEGORIES} different "
                "labels, which are too many groups; name a coarser column, or leave it out of groups"
            )


def _completed(column: Column, values: dict[Column, set[str]], bounds: tuple[float, float] | None, log: Log) -> Column:
    if column in values:
        found = tuple(sorted(values[column], key=_natural))
        if not found:
            raise InputError(
                f"{log.files[0]}, column {column.name!r}: every value is missing, so there are no categories"
            )
        if column.role.startswith("action") and len(found) == 1:
            raise InputError(
                f"{log.files[0]}, column {column.name!r}: the action is always {found[0]!r}, so there is nothing to "
                "choose; list all categories in the map, or name another column"
            )
        log.notes.append(f"the categories of {column.name} are those in the log: {', '.join(found[:12])}")
        return replace(column, categories=found)
    if bounds is None:
        return column
    low = bounds[0] if column.low is None else column.low
    high = bounds[1] if column.high is None else column.high
    if not low < high:
        raise InputError(
            f"{log.files[0]}, column {column.name!r}: the action is always {low:g}, so it has no range; give low "
            "and high in the map"
        )
    log.notes.append(
        f"the bounds of the action {column.name} are not in the map: taken from the log, {low:g} to {high:g}"
    )
    return replace(column, low=low, high=high)


def _natural(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text
