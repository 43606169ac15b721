"""One column of the map, and the checks that all settings share; every message names the setting and the file."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_offrl.data.logs.units import conversion
from lightning_offrl.errors import InputError

_FILLS = ("last", "mean", "indicator", "error")


@dataclass(frozen=True)
class Column:
    """One column of the log.

    Attributes:
        name: its header.
        role: where the map has it, for messages.
        unit: after conversion, or None.
        scale: factor of its numbers.
        shift: added after scaling.
        categories: its values, if it is no number; empty: those in the log, sorted; None: it is a number.
        fill: what stands in for missing values, tried in this order: "last" (of the episode), "mean" (of the log), or a
            number, or one of the categories.
        indicator: an observation number more, 1 where the value was missing.
        low: smallest value of a continuous action, or None: the smallest in the log.
        high: largest, likewise.
        clip: cut actions outside of these at the bounds, instead of refusing them.
    """

    name: str
    role: str
    unit: str | None = None
    scale: float = 1.0
    shift: float = 0.0
    categories: tuple[str, ...] | None = None
    fill: tuple[str | float, ...] = ()
    indicator: bool = False
    low: float | None = None
    high: float | None = None
    clip: bool = False


def only(found: Mapping[Any, Any], known: set[str], what: str) -> None:
    """Refuse settings that mean nothing."""
    for name in found:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(f"{what} has the setting {name!r}, which means nothing; {hint}known are {sorted(known)}")


def text(value: Any, name: str, file: str) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise InputError(f"{name} in {file} must be a text, got {value!r}")
    return value


def number(value: Any, name: str, file: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        raise InputError(f"{name} in {file} must be a number, got {value!r}")
    return float(value)


def choice(value: Any, allowed: tuple[str, ...], name: str, file: str) -> str:
    """One of the allowed words."""
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"{name} in {file} must be one of {', '.join(allowed)}, got {value!r}{hint}")
    return str(value)


def read_column(value: Any, role: str, file: str) -> Column:
    """A column's name, or its settings, checked."""
    kind = role.split("[")[0]
    # Whether labels are numbers or texts is seen in the log.
    default = () if kind == "groups" else None
    if isinstance(value, str):
        return Column(text(value, role, file), role, categories=default)
    if not isinstance(value, Mapping):
        quotes = "; a header that is a number stands in quotes" if isinstance(value, int | float) else ""
        raise InputError(
            f"{role} in {file} must be the name of a column, or settings with a column, got {value!r}{quotes}"
        )
    known = {"column", "unit", "to", "scale", "shift", "categories", "missing"}
    known |= {"low", "high", "clip"} if kind == "action" else set()
    known = {"column", "categories"} if kind == "groups" else known
    only(value, known, f"{role} in {file}")
    name = text(value.get("column"), f"{role}.column", file)
    unit = None if value.get("unit") is None else text(value["unit"], f"{role}.unit", file)
    scale = number(value.get("scale", 1.0), f"{role}.scale", file)
    shift = number(value.get("shift", 0.0), f"{role}.shift", file)
    if scale == 0.0:
        raise InputError(f"{role}.scale in {file} must not be 0")
    if value.get("to") is not None:
        if unit is None or "scale" in value or "shift" in value:
            raise InputError(
                f"{role} in {file} has 'to' without 'unit', or with scale or shift: give unit and to alone"
            )
        new = text(value["to"], f"{role}.to", file)
        scale, shift = conversion(unit, new, f"{role} in {file}")
        unit = new
    categories = _categories(value["categories"], role, file) if "categories" in value else default
    if categories is not None and (scale, shift) != (1.0, 0.0):
        raise InputError(f"{role} in {file} has categories, which cannot be scaled")
    fill, indicator = _fill(value.get("missing"), kind, categories, role, file)
    low = None if value.get("low") is None else number(value["low"], f"{role}.low", file)
    high = None if value.get("high") is None else number(value["high"], f"{role}.high", file)
    if low is not None and high is not None and not low < high:
        raise InputError(f"{role} in {file} has the bounds low {low:g} and high {high:g}; low must be the smaller one")
    if categories is not None and (low is not None or high is not None):
        raise InputError(f"{role} in {file} has categories and bounds; an action is one or the other")
    clip = value.get("clip", False)
    if not isinstance(clip, bool):
        raise InputError(f"{role}.clip in {file} must be true or false, got {clip!r}")
    return Column(name, role, unit, scale, shift, categories, fill, indicator, low, high, clip)


def _categories(value: Any, role: str, file: str) -> tuple[str, ...]:
    if value == "auto":
        return ()
    if not isinstance(value, list) or not value:
        raise InputError(f"{role}.categories in {file} must be a list of values, or auto, got {value!r}")
    names = tuple(category_text(v) for v in value)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{role}.categories in {file} has {twice[0]!r} twice")
    return names


def category_text(value: Any) -> str:
    """A category as it is compared: 1, 1.0 and "1" are the same, true is "true"."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def action_count(action: Sequence[Column], file: str) -> int:
    """Number of discrete actions: every combination of categories is one.

    Raises:
        InputError: for more than 10,000.
    """
    total = math.prod(len(column.categories or ()) for column in action)
    if total > 10_000:
        raise InputError(
            f"the actions in {file} have {total:,} combinations, too many to learn values of each; leave out what is "
            "not chosen, or make it numbers"
        )
    return total


def action_labels(action: Sequence[Column]) -> list[str]:
    """What each discrete action is called, in their order: ``full``, or ``low, on`` of two columns."""
    labels = [""]
    for column in action:
        labels = [f"{label}, {value}" if label else value for label in labels for value in column.categories or ()]
    return labels


def _fill(
    value: Any, kind: str, categories: tuple[str, ...] | None, role: str, file: str
) -> tuple[tuple[str | float, ...], bool]:
    if value is None:
        return (), False
    fill: list[str | float] = []
    indicator = False
    for one in value if isinstance(value, list) else [value]:
        if one == "indicator":
            indicator = True
        elif one == "error":
            continue
        elif one in ("last", "mean"):
            fill.append(one)
        elif categories:
            name = category_text(one)
            if name not in categories:
                near = difflib.get_close_matches(name, [*categories, *_FILLS], 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise InputError(f"{role}.missing in {file} has {one!r}, which is none of its categories{hint}")
            fill.append(name)
        elif isinstance(one, int | float) and not isinstance(one, bool):
            fill.append(number(one, f"{role}.missing", file))
        else:
            near = difflib.get_close_matches(str(one), _FILLS, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise InputError(
                f"{role}.missing in {file} must be last, mean, indicator, error, a number, or a list of these, got "
                f"{one!r}{hint}"
            )
    if kind != "observation" and (indicator or "mean" in fill):
        raise InputError(f"{role}.missing in {file} may be last or a number; mean and indicator are for observations")
    if categories is not None and "mean" in fill:
        raise InputError(f"{role}.missing in {file} is mean, but categories have none")
    if indicator and not fill:
        # Something has to stand there; the indicator says that it means nothing.
        fill.append("mean" if categories is None else "none")
    return tuple(fill), indicator
