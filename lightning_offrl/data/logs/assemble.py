"""From rows to episodes: where they begin and end, what is missing filled in, and what cannot be used refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lightning_offrl.data.logs import masks
from lightning_offrl.data.logs.notes import ImportNotes
from lightning_offrl.data.logs.order import KeySet, in_order
from lightning_offrl.data.logs.settings import Column
from lightning_offrl.data.logs.tables import Log, Table

MANY = 65_536
"""Rows beyond four pieces of ``max_length`` that are held before the pieces are given out."""


@dataclass(frozen=True)
class LogEpisode:
    """One episode of L steps.

    Attributes:
        observation: ``[L + 1, D]`` float32.
        action: ``[L, A]`` float64 in the map's units, or ``[L]`` int64.
        reward: ``[L]`` float64.
        terminated: whether it ended in a terminal state; else it was cut.
        log_density: ``[L]`` float64 of the actions in the map's units, or None.
        time: ``[L]`` float64 of the rows that the actions stand in (seconds, or what the log counts); zeros without.
        group: ``[G]`` float64: the number, or the number of the label, in each column of groups; nan where missing.
        action_mask: ``[L + 1, N]`` bool, which actions were legal for each observation, or None.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: bool
    log_density: np.ndarray | None
    time: np.ndarray
    group: np.ndarray
    action_mask: np.ndarray | None = None


def episodes(log: Log, tally: ImportNotes) -> Iterator[LogEpisode]:
    """All episodes of a log, one after the other; memory holds one piece of the log and the longest episode.

    Raises:
        InputError: for rows out of order, values that are missing where the map does not say what to do, and all that
            reading raises; it names file, row and column.
    """
    settings = log.settings
    held = _Held(log, tally)
    seen = KeySet()
    checked = settings.order == "checked" and bool(settings.episode)
    for table in in_order(log) if settings.order == "sort" else log.tables():
        previous = held.rows[-1].take(slice(-1, None)) if held.rows else None
        if settings.episode:
            first = previous is None or previous.key[0] != table.key[0]
            begins = np.append(first, table.key[1:] != table.key[:-1])
        else:
            ends = table.terminated | table.truncated
            first = previous is None or bool((previous.terminated | previous.truncated)[0])
            begins = np.append(first, ends[:-1])
        starts = np.flatnonzero(begins)
        if checked:
            _check_contiguous(log, table, starts, seen)
        borders = np.unique([0, *starts.tolist(), len(table)]).tolist()
        for low, high in zip(borders[:-1], borders[1:], strict=True):
            if begins[low]:
                yield from held.finish()
            held.rows.append(table.take(slice(low, high)))
        yield from held.early()
    yield from held.finish()


class _Held:
    """The rows of the episode that is being read."""

    def __init__(self, log: Log, tally: ImportNotes) -> None:
        self.log, self.tally = log, tally
        self.rows: list[Table] = []
        self.before: Table | None = None
        """What was last known, as one row, where the beginning was given out already."""

    def finish(self) -> Iterator[LogEpisode]:
        """The episode is over."""
        if self.rows:
            yield from _episode(self.log, self.tally, Table.join(self.rows), self.before, cut=False)
        self.rows, self.before = [], None

    def early(self) -> Iterator[LogEpisode]:
        """Give out what fills whole pieces of ``max_length`` steps, if much is held."""
        limit = self.log.settings.max_length
        held = sum(len(table) for table in self.rows)
        if limit is None or held <= 4 * limit + MANY:
            return
        whole = Table.join(self.rows)
        ready = (held - 1) // limit * limit
        yield from _episode(self.log, self.tally, whole.take(slice(0, ready + 1)), self.before, cut=True)
        self.tally.pieces += 1
        known = (
            whole.take(slice(0, ready))
            if self.before is None
            else Table.join([self.before, whole]).take(slice(0, ready + 1))
        )
        self.before = replace(
            known.take(slice(-1, None)),
            observation=_last(known.observation),
            action=_last(known.action),
            group=_last(known.group),
        )
        self.rows = [whole.take(slice(ready, None))]


def _last(values: np.ndarray) -> np.ndarray:
    """The last value of each column that is not missing, ``[1, C]``."""
    row = np.where(np.isnan(values), -1, np.arange(len(values))[:, None]).max(0)
    return np.where(row >= 0, values[row.clip(min=0), np.arange(values.shape[1])], math.nan)[None]


def _check_contiguous(log: Log, table: Table, fresh: np.ndarray, seen: KeySet) -> None:
    """No episode may begin twice; ``fresh`` are the rows where one begins."""
    again = np.flatnonzero(seen.holds(table.key[fresh]))
    inside, place = np.unique(table.key[fresh], return_index=True)
    twice = np.setdiff1d(np.arange(len(fresh)), place)
    if len(again) or len(twice):
        row = int(fresh[min([*again.tolist(), *twice.tolist()])])
        raise log.error(
            table,
            row,
            " and ".join(log.settings.episode),
            "the rows of this episode do not stand together: it appeared before, with other episodes in between; set "
            "order: sort in the map",
        )
    seen.add(inside)


def _episode(log: Log, tally: ImportNotes, table: Table, before: Table | None, *, cut: bool) -> Iterator[LogEpisode]:
    """The rows of one episode, as one or more pieces; ``cut``: more rows of it follow; ``before``: what was known."""
    settings = log.settings
    table = _with_groups(tally, table, before)
    borders = [0, len(table)]
    if settings.time is not None:
        borders = _check_times(log, tally, table)
    for first, last in zip(borders[:-1], borders[1:], strict=True):
        piece = table.take(slice(first, last))
        goes_on = cut or last < len(table)
        known = before if first == 0 else None  # a gap forgets
        observation = _filled_observations(log, tally, piece, known)
        yield from _pieces(log, tally, piece, observation, known, goes_on)


def _with_groups(tally: ImportNotes, table: Table, before: Table | None) -> Table:
    """Labels carried on within the episode, as logs often name them in its first row only."""
    group = table.group
    missing = np.isnan(group)
    if missing.any():
        row = np.maximum.accumulate(np.where(missing, -1, np.arange(len(table))[:, None]), axis=0)
        known = np.full(group.shape[1], math.nan) if before is None else before.group[0]
        group = np.where(row >= 0, np.take_along_axis(group, row.clip(min=0), axis=0), known)
        table = replace(table, group=group)
    tally.changing += bool(((group != group[0]) & ~np.isnan(group)).any())
    return table


def _check_times(log: Log, tally: ImportNotes, table: Table) -> list[int]:
    """Borders between the pieces that long gaps leave."""
    settings = log.settings
    step = np.diff(table.time)
    wrong = np.flatnonzero(step < 0 if settings.ties == "keep" else step <= 0)
    if len(wrong):
        row = int(wrong[0])
        same = step[row] == 0
        raise log.error(
            table,
            row + 1,
            settings.time,
            "the time is that of the row before, in the same episode; keep both with time.ties: keep"
            if same
            else "the time is earlier than in the row before, in the same episode; set order: sort in the map",
        )
    powers, number = np.unique(np.round(64 * np.log2(step[step > 0])).astype(int), return_counts=True)
    for power, times in zip(powers.tolist(), number.tolist(), strict=True):
        tally.steps[power] = tally.steps.get(power, 0) + times
    if settings.gap is None or settings.at_gap == "keep":
        return [0, len(table)]
    long = np.flatnonzero(step > settings.gap)
    if len(long) and settings.at_gap == "error":
        row = int(long[0]) + 1
        raise log.error(
            table,
            row,
            settings.time,
            f"{step[row - 1]:g} s after the row before, more than the gap of {settings.gap:g} s",
        )
    tally.gaps += len(long)
    return [0, *(long + 1).tolist(), len(table)]


def _pieces(
    log: Log, tally: ImportNotes, table: Table, observation: np.ndarray, before: Table | None, goes_on: bool
) -> Iterator[LogEpisode]:
    settings = log.settings
    late = settings.outcome_row == "next"
    terminated, truncated = table.terminated, table.truncated
    tally.both += int((terminated & truncated).sum())
    ended = np.flatnonzero(terminated | truncated)
    if len(ended) and ended[0] < len(table) - 1 or len(ended) and goes_on:
        row = int(ended[0])
        raise log.error(
            table,
            row,
            settings.terminated.name if terminated[row] and settings.terminated else None,
            "the episode ends here, but more rows of it follow; leave them out, or name episodes by another column",
        )
    terminal = bool(terminated[-1])
    flagged = terminal or bool(truncated[-1])
    if not flagged and not goes_on:
        if settings.last_row == "error":
            raise log.error(table, len(table) - 1, None, "the episode stops here without an end (last_row: error)")
        if settings.last_row == "drop":
            tally.dropped += 1
            return
        tally.unfinished += 1
        terminal = settings.last_row == "terminated"
    elif flagged and not terminal and not late:
        tally.truncated += 1
    if not terminal and masks.is_missing(table.legal[-1]):
        tally.maskless += 1
        table, observation = table.take(slice(0, -1)), observation[:-1]
    # The observation after a terminal step is not in the log unless outcomes stand one row later; nothing is
    # bootstrapped from it, so the last one stands in.
    steps = len(table) if terminal and not late else len(table) - 1
    if steps < 1:
        tally.lonely += 1
        return
    outcome = slice(1, steps + 1) if late else slice(0, steps)
    action = _actions(log, tally, table, steps, before)
    reward = _rewards(log, tally, table, outcome)
    density = _densities(log, table, steps)
    mask = masks.checked(settings, table.legal, action, terminal, partial(log.error, table))
    if steps == len(table):
        observation = np.concatenate([observation, observation[-1:]])
    limit = settings.max_length or steps
    for first in range(0, steps, limit):
        last = min(first + limit, steps)
        tally.pieces += last < steps
        yield LogEpisode(
            observation=observation[first : last + 1],
            action=action[first:last],
            reward=reward[first:last],
            terminated=terminal and last == steps,
            log_density=None if density is None else density[first:last],
            time=table.time[first:last],
            group=table.group[first],
            action_mask=None if mask is None else mask[first : last + 1],
        )


def _filled_observations(log: Log, tally: ImportNotes, table: Table, before: Table | None) -> np.ndarray:
    """``[n, D]`` float32 with categories spread out, and indicators behind."""
    columns = log.settings.observation
    out, indicators = [], []
    for i, column in enumerate(columns):
        value = table.observation[:, i]
        missing = np.isnan(value)
        if column.indicator:
            indicators.append(missing)
        if missing.any():
            known = math.nan if before is None else float(before.observation[0, i])
            value = _fill(log, tally, table, value, column, known, log.means.get(i))
        if column.categories is None:
            out.append(value[:, None])
        else:  # a number beyond the categories stands for none of them
            out.append(np.eye(len(column.categories) + 1)[value.astype(int)][:, : len(column.categories)])
    with np.errstate(over="ignore"):
        return np.concatenate([*out, *(one[:, None] for one in indicators)], axis=1).astype(np.float32)


def _fill(
    log: Log,
    tally: ImportNotes,
    table: Table,
    value: np.ndarray,
    column: Column,
    known: float,
    mean: float | None = None,
) -> np.ndarray:
    """Missing values of one column filled as the map says; ``known`` is what stood before the first row, or nan."""
    name, fill, categories = column.name, column.fill, column.categories
    value = value.copy()
    before = np.isnan(value)
    for how in fill:
        missing = np.isnan(value)
        if not missing.any():
            break
        if how == "last":
            last = np.maximum.accumulate(np.where(missing, -1, np.arange(len(value))))
            value = np.where(last >= 0, value[last.clip(min=0)], known)
        elif how == "mean":
            assert mean is not None
            value[missing] = mean
        elif categories is not None:
            value[missing] = categories.index(str(how)) if how in categories else len(categories)
        else:
            value[missing] = float(how)
    left = np.flatnonzero(np.isnan(value))
    if len(left):
        tried = ", ".join(map(str, fill))
        raise log.error(
            table,
            int(left[0]),
            name,
            f"the value is missing, and {tried} has nothing to offer here (the first rows of an episode?); add mean "
            "or a number to missing in the map"
            if fill
            else "the value is missing; say in the map what then: missing: last, mean, a number, or a list of these",
        )
    tally.filled[name] = tally.filled.get(name, 0) + int(before.sum())
    return value


def _actions(log: Log, tally: ImportNotes, table: Table, steps: int, before: Table | None) -> np.ndarray:
    settings = log.settings
    part = table.take(slice(0, steps))
    columns = []
    for i, column in enumerate(settings.action):
        value = part.action[:, i]
        if np.isnan(value).any():
            known = math.nan if before is None else float(before.action[0, i])
            value = _fill(log, tally, part, value, column, known)
        if column.categories is None:
            assert column.low is not None and column.high is not None
            outside = (value < column.low) | (value > column.high)
            if outside.any():
                if not column.clip:
                    row = int(np.flatnonzero(outside)[0])
                    raise log.error(
                        part,
                        row,
                        column.name,
                        f"the action {value[row]:g} is outside of the bounds {column.low:g} to {column.high:g}; "
                        f"correct "
                        "low and high in the map, or set clip: true",
                    )
                tally.clipped += int(outside.sum())
                value = value.clip(column.low, column.high)
        columns.append(value)
    if not settings.discrete:
        return np.stack(columns, axis=1)
    sizes = [len(column.categories or ()) for column in settings.action]
    return np.ravel_multi_index([value.astype(np.int64) for value in columns], sizes)


def _rewards(log: Log, tally: ImportNotes, table: Table, outcome: slice) -> np.ndarray:
    part = table.take(outcome)
    reward = part.reward
    if np.isnan(reward).any():
        reward = _fill(log, tally, part, reward, log.settings.reward, math.nan)
    return reward


def _densities(log: Log, table: Table, steps: int) -> np.ndarray | None:
    name = log.settings.propensity
    if name is None:
        return None
    value = table.log_density[:steps]
    missing = np.flatnonzero(np.isnan(value))
    if len(missing):
        raise log.error(
            table, int(missing[0]), name, "the propensity is missing; leave propensity out of the map, or fill it in"
        )
    return value
