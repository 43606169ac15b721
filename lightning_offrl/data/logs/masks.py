"""Cells of a log that say which actions were legal: a flag for each action, or one column that lists the legal ones.

`lightning_offrl.data.readers.action_masks` checks the masks of arrays; here they are read from text, and an error can
name the file and the row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from lightning_offrl.data.logs.files import Chunk, Lists
from lightning_offrl.data.logs.mapping import LogMap
from lightning_offrl.data.logs.mask_setting import ROLE, LegalActions, listing, none_of, places
from lightning_offrl.data.logs.settings import action_labels
from lightning_offrl.data.logs.values import Reader
from lightning_offrl.errors import InputError

_SEPARATORS = (";", "|", ",", "/", "+", " ")


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
                what = why if other else f"hold {name!r}, {none_of(name, number)}"
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
                f"the mask has {size[wrong[0]]} flags, but there are {count} actions ({listing(list(number))})",
            )
        out[lists.length >= 0] = lists.values.reshape(-1, count)
        return out
    names = reader.plain_texts(lists.values)
    for value in np.unique(names).tolist():
        here = row[names == value]
        if value not in number:
            what = f"hold {value!r}, {none_of(value, number)}" if value else "hold a missing value; leave it out"
            raise reader.error(chunk, here[0], mask.column, f"the legal actions {what}")
        out[here, number[value]] = 1
    return out


def is_missing(legal: np.ndarray) -> bool:
    """Whether a row of `read` holds no mask, although the map names one."""
    return bool((legal < 0).any())


def checked(
    settings: LogMap,
    legal: np.ndarray,
    action: np.ndarray,
    terminal: bool,
    error: Callable[[int, str, str], InputError],
) -> np.ndarray | None:
    """Masks of the L + 1 observations of an episode, ``[L + 1, N]`` bool, or None without the setting.

    Of the observation after a terminal step any mask does, and none: where the log has no row of it, the last one
    stands in, as for the observation.

    Args:
        settings: the map.
        legal: ``[L, N]`` or ``[L + 1, N]`` as of `read`, one row for each row of the log.
        action: ``[L]`` int64.
        terminal: whether the last step is.
        error: makes the error to raise from the number of the row, the column and what is wrong there.

    Raises:
        InputError: naming the row, for a mask that is missing or allows nothing, or an action that it forbids.
    """
    mask, steps = settings.action_mask, len(action)
    if mask is None:
        return None
    column = ", ".join(mask.names[:3]) + (", ..." if len(mask.names) > 3 else "")
    onward = np.arange(len(legal)) < steps + (not terminal)
    for wrong, what in (
        (
            onward & (legal[:, 0] < 0),
            "the mask of legal actions is missing; fill it in, or set missing: all in action_mask if all were legal",
        ),
        (onward & ~(legal == 1).any(1), "the mask allows no action, but the episode goes on; name what was legal"),
    ):
        if wrong.any():
            raise error(int(np.flatnonzero(wrong)[0]), column, what)
    forbidden = np.flatnonzero(legal[np.arange(steps), action] != 1)
    if len(forbidden):
        row, labels = int(forbidden[0]), action_labels(settings.action)
        allowed = [labels[i] for i in np.flatnonzero(legal[row] == 1)]
        raise error(
            row,
            column,
            f"the action {labels[action[row]]!r} was taken, which the mask of its row forbids (legal: "
            f"{listing(allowed)}); the mask is what was known before the action",
        )
    out = legal == 1
    return out if len(out) > steps else np.concatenate([out, out[-1:]])
