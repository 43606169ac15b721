"""The setting ``action_mask`` of a map: which columns of a log say which actions were legal."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_offrl.data.logs.settings import Column, action_count, action_labels, category_text, choice, only, text
from lightning_offrl.errors import InputError

ROLE = "action_mask"


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
                f"({listing(action_labels(action))}); give one column for each, in this order"
            )
        return list(range(count))
    number = {label: i for i, label in enumerate(action_labels(action))}
    for name in mask.actions:
        if name not in number:
            raise InputError(f"{ROLE} in {file} names the action {name!r}, {none_of(name, number)}")
    lacking = [label for label in number if label not in mask.actions]
    if lacking:
        raise InputError(
            f"{ROLE} in {file} names no column for the action {lacking[0]!r}; every action needs one: "
            f"{listing(list(number))}"
        )
    return [number[name] for name in mask.actions]


def listing(labels: list[str]) -> str:
    """The first labels, for messages."""
    return "; ".join(labels[:12]) + ("; ..." if len(labels) > 12 else "")


def none_of(name: str, number: Mapping[str, int]) -> str:
    """Half a sentence on a name that is no action's, with the nearest that is."""
    near = difflib.get_close_matches(name, list(number), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {listing(list(number))}"
    return f"which is none of the actions; {hint} (one that was never taken has to be among the action's categories)"
