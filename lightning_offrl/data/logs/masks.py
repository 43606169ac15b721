"""Which actions were legal, by the log: a column of flags for each action, or one column that lists the legal ones."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_offrl.data.logs.settings import (
    Column,
    action_count,
    action_labels,
    category_text,
    choice,
    only,
    text,
)
from lightning_offrl.errors import InputError

if TYPE_CHECKING:
    from lightning_offrl.data.logs.files import Chunk, Lists
    from lightning_offrl.data.logs.mapping import LogMap
    from lightning_offrl.data.logs.tables import Log, Table
    from lightning_offrl.data.logs.values import Reader

ROLE = "action_mask"
_SEPARATORS = (";", "|", ",", "/", "+", " ")


@dataclass(frozen=True)
class LegalActions:
    """The setting ``action_mask`` of a map: ``columns``, or ``column``.

    Attributes:
        columns: headers of flags, yes where the action was legal.
        actions: the action that each of these is about; None: all actions, in their order.
        column: header of the lists of legal actions.
        separator: between the actions in a text of that column.
        missing: what a row without a mask means: "error", or "all" for all actions being legal.
    """

    columns: tuple[str, ...] = ()
    actions: tuple[str, ...] | None = None
    column: str | None = None
    separator: str = ";"
    missing: str = "error"

    @property
    def names(self) -> tuple[str, ...]:
        """Headers of all columns that are read."""
        return self.columns if self.column is None else (self.column,)


# -- the setting -------------------------------------------------------------------------------------------------------


def read_mask(value: Any, action: tuple[Column, ...], file: str) -> LegalActions | None:
    """The setting, checked.

    Raises:
        InputError: naming the file, for actions that are numbers, or columns that do not fit the actions.
    """
    if value is None:
        return None
    if any(column.categories is None for column in action):
        raise InputError(
            f"{ROLE} in {file} is for actions that are a choice, but {action[0].name} is a number; give the action "
            "categories, or leave the mask out"
        )
    if isinstance(value, str):
        return LegalActions(column=text(value, ROLE, file))
    settings: Mapping[Any, Any] = {"columns": value} if isinstance(value, list) else value
    if not isinstance(settings, Mapping) or ("column" in settings) == ("columns" in settings):
        raise InputError(
            f"{ROLE} in {file} must be a list of columns, one for each action, or settings with either columns or "
            f"column (which lists the legal actions), got {value!r}"
        )
    only(
        settings,
        {"column", "separator", "missing"} if "column" in settings else {"columns", "missing"},
        f"{ROLE} in {file}",
    )
    missing = choice(settings.get("missing", "error"), ("error", "all"), f"{ROLE}.missing", file)
    if "column" in settings:
        separator = text(settings.get("separator", ";"), f"{ROLE}.separator", file)
        return LegalActions(
            column=text(settings["column"], f"{ROLE}.column", file), separator=separator, missing=missing
        )
    found = _columns(settings["columns"], file)
    out = LegalActions(tuple(found.values()), tuple(found), missing=missing)
    if isinstance(settings["columns"], list):
        if any(column.categories == () for column in action):
            raise InputError(
                f"{ROLE} in {file} lists columns in the order of the actions, which the map leaves open; list the "
                "categories of the action, or name the action of each column: columns: {ACTION: COLUMN, ...}"
            )
        out = LegalActions(out.columns, missing=missing)
    if all(column.categories for column in action):
        places(out, action, file)
    return out


def _columns(value: Any, file: str) -> dict[str, str]:
    """Headers by action; by position where they are a list."""
    if not isinstance(value, list | Mapping) or not value:
        raise InputError(
            f"{ROLE}.columns in {file} must be a list of columns in the order of the actions, or settings with the "
            f"column of each action, got {value!r}"
        )
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
    found = {category_text(action): text(header, f"{ROLE}.columns", file) for action, header in pairs}
    headers = list(found.values())
    twice = sorted({header for header in headers if headers.count(header) > 1})
    if twice:
        raise InputError(f"{ROLE}.columns in {file} has the column {twice[0]!r} twice; every action needs its own")
    return found


def places(mask: LegalActions, action: tuple[Column, ...], file: str) -> list[int]:
    """The number of the action that each column of flags is about.

    Raises:
        InputError: for too few or too many columns, or one of an action that does not exist.
    """
    count = action_count(action, file)
    if mask.actions is None:
        if len(mask.columns) != count:
            raise InputError(
                f"{ROLE} in {file} lists {len(mask.columns)} columns, but there are {count} actions "
                f"({_listing(action_labels(action))}); give one column for each, in this order"
            )
        return list(range(count))
    number = {label: i for i, label in enumerate(action_labels(action))}
    for name in mask.actions:
        if name not in number:
            raise InputError(f"{ROLE} in {file} names the action {name!r}, {_none_of(name, number)}")
    lacking = [label for label in number if label not in mask.actions]
    if lacking:
        raise InputError(
            f"{ROLE} in {file} names no column for the action {lacking[0]!r}; every action needs one: "
            f"{_listing(list(number))}"
        )
    return [number[name] for name in mask.actions]


def _listing(labels: list[str]) -> str:
    return "; ".join(labels[:12]) + ("; ..." if len(labels) > 12 else "")


def _none_of(name: str, number: Mapping[str, int]) -> str:
    near = difflib.get_close_matches(name, list(number), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {_listing(list(number))}"
    return f"which is none of the actions; {hint} (one that was never taken has to be among the action's categories)"


# -- cells -------------------------------------------------------------------------------------------------------------


def read(reader: Reader, chunk: Chunk, settings: LogMap) -> np.ndarray:
    """``[n, N]`` int8: 1 for a legal action, 0 for another, all -1 in a row without a mask; N = 0 without the setting.

    Raises:
        InputError: for cells that cannot be read, naming file, row and column.
    """
    mask = settings.action_mask
    if mask is None:
        return np.empty((len(chunk), 0), dtype=np.int8)
    if mask.column is None:
        found = _flags(reader, chunk, settings, mask)
    else:
        number = {label: i for i, label in enumerate(action_labels(settings.action))}
        lists = chunk.lists.get(mask.column)
        if lists is None:
            found = _of_texts(reader, chunk, mask, number)
        else:
            found = _of_lists(reader, chunk, mask, number, lists)
    if mask.missing == "all":
        found[found[:, 0] < 0] = 1
    return found


def _flags(reader: Reader, chunk: Chunk, settings: LogMap, mask: LegalActions) -> np.ndarray:
    out = np.empty((len(chunk), len(mask.columns)), dtype=np.int8)
    for place, name in zip(places(mask, settings.action, settings.path), mask.columns, strict=True):
        out[:, place] = reader.yes_or_no(chunk, name, ROLE, "write 1 where the action was legal, else 0")
    absent = out < 0
    some = np.flatnonzero(absent.any(1) & ~absent.all(1))
    if len(some):
        name = next(n for n in mask.columns if reader.yes_or_no(chunk, n, ROLE, "")[some[0]] < 0)
        raise reader.error(
            chunk, some[0], name, "the flag is missing beside others of its row; write 0 where the action was not legal"
        )
    return out


def _of_texts(reader: Reader, chunk: Chunk, mask: LegalActions, number: dict[str, int]) -> np.ndarray:
    assert mask.column is not None
    cells, place = np.unique(reader.texts(chunk, mask.column, tuple(number)), return_inverse=True)
    table = np.zeros((len(cells), len(number)), dtype=np.int8)
    for i, cell in enumerate(cells.tolist()):
        for name in _names(cell, mask.separator, number):
            if name not in number:
                row = int(np.flatnonzero(place.ravel() == i)[0])
                other = next(
                    (s for s in _SEPARATORS if s in name and all(n in number for n in _names(name, s, {}))), ""
                )
                why = f"are separated by {other!r}, not {mask.separator!r}: set {ROLE}.separator in the map"
                what = why if other else f"hold {name!r}, {_none_of(name, number)}"
                raise reader.error(chunk, row, mask.column, f"the legal actions {cell!r} {what}")
            table[i, number[name]] = 1
        if cell == "":
            table[i] = -1
    return table[place.ravel()]


def _names(cell: str, separator: str, number: Mapping[str, int]) -> list[str]:
    """The actions in a text, also in one that a list was printed to (``['a', 'b']``)."""
    if cell in number:
        return [cell]
    if cell.startswith("[") and cell.endswith("]"):
        cell = cell[1:-1]
    parts = (part.strip() for part in cell.split(separator))
    return [part if part in number else part.strip("'\"") for part in parts if part]


def _of_lists(reader: Reader, chunk: Chunk, mask: LegalActions, number: dict[str, int], lists: Lists) -> np.ndarray:
    assert mask.column is not None
    size, count = lists.length.clip(min=0), len(number)
    row = np.repeat(np.arange(len(size)), size)
    out = np.zeros((len(size), count), dtype=np.int8)
    out[lists.length < 0] = -1
    if lists.values.dtype.kind == "b":
        wrong = np.flatnonzero((lists.length >= 0) & (size != count))
        if len(wrong):
            raise reader.error(
                chunk,
                wrong[0],
                mask.column,
                f"the mask has {size[wrong[0]]} flags, but there are {count} actions ({_listing(list(number))})",
            )
        out[lists.length >= 0] = lists.values.reshape(-1, count)
        return out
    names = reader.plain_texts(lists.values)
    for value in np.unique(names).tolist():
        here = row[names == value]
        if value not in number:
            what = f"hold {value!r}, {_none_of(value, number)}" if value else "hold a missing value; leave it out"
            raise reader.error(chunk, here[0], mask.column, f"the legal actions {what}")
        out[here, number[value]] = 1
    return out


# -- episodes ----------------------------------------------------------------------------------------------------------


def is_missing(legal: np.ndarray) -> bool:
    """Whether a row of `read` holds no mask, although the map names one."""
    return bool((legal < 0).any())


def checked(log: Log, table: Table, action: np.ndarray, terminal: bool) -> np.ndarray | None:
    """Masks of the L + 1 observations of an episode, ``[L + 1, N]`` bool, or None without the setting.

    Of the observation after a terminal step any mask does, and none: where the log has no row of it, the last one
    stands in, as for the observation.

    Args:
        log: for messages.
        table: its rows, L or L + 1.
        action: ``[L]`` int64.
        terminal: whether the last step is.

    Raises:
        InputError: naming the row, for a mask that is missing or allows nothing, or an action that it forbids.
    """
    mask, legal, steps = log.settings.action_mask, table.legal, len(action)
    if mask is None:
        return None
    column = ", ".join(mask.names[:3]) + (", ..." if len(mask.names) > 3 else "")
    onward = np.arange(len(table)) < steps + (not terminal)
    for wrong, what in (
        (
            onward & (legal[:, 0] < 0),
            "the mask of legal actions is missing; fill it in, or set missing: all in action_mask if all were legal",
        ),
        (onward & ~(legal == 1).any(1), "the mask allows no action, but the episode goes on; name what was legal"),
    ):
        if wrong.any():
            raise log.error(table, int(np.flatnonzero(wrong)[0]), column, what)
    forbidden = np.flatnonzero(legal[np.arange(steps), action] != 1)
    if len(forbidden):
        row, labels = int(forbidden[0]), action_labels(log.settings.action)
        allowed = [labels[i] for i in np.flatnonzero(legal[row] == 1)]
        raise log.error(
            table,
            row,
            column,
            f"the action {labels[action[row]]!r} was taken, which the mask of its row forbids (legal: "
            f"{_listing(allowed)}); the mask is what was known before the action",
        )
    out = legal == 1
    return out if len(out) > steps else np.concatenate([out, out[-1:]])
