"""Checks of arrays that a user gave; every sentence names the array, and the episode and step where there is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lightning_offrl.errors import InputError


def column(value: Any, label: str, name: str) -> np.ndarray:
    """One number per row as float64; ``[T, 1]`` is taken as ``[T]``."""
    array = numbers(value, label)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(f"{label} of {name} has shape {list(array.shape)}, expected one number per transition, [T]")
    return array.astype(np.float64)


def flags(value: Any, label: str, rows: int, name: str) -> np.ndarray:
    """``[T]`` bool from booleans, or numbers that are all 0 or 1."""
    array = column(value, label, name)
    check_rows(array, label, rows, name)
    bad = np.flatnonzero((array != 0) & (array != 1))
    if len(bad):
        raise InputError(f"{label} of {name} must be true or false (1 or 0), but row {bad[0]} holds {array[bad[0]]:g}")
    return array.astype(bool)


def numbers(value: Any, label: str) -> np.ndarray:
    """Anything array-like as a rectangular array of numbers or booleans."""
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "fiub":
        raise InputError(
            f"{label} must be a rectangular array of numbers, got {type(value).__name__} of type {array.dtype}; "
            "episodes of different length are put one after the other"
        )
    return array


def as_arrays(value: Any, label: str = "observations") -> Any:
    """An array, or a nested dictionary of arrays with sorted keys."""
    if isinstance(value, Mapping):
        return {key: as_arrays(inner, f"{label}.{key}") for key, inner in sorted(value.items())}
    return numbers(value, label)


def array_leaves(value: Any, label: str) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays of a nested dictionary with their dotted names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from array_leaves(inner, f"{label}.{key}")
    else:
        yield label, value


def take(value: Any, rows: np.ndarray) -> Any:
    """Rows of an array or of a nested dictionary of arrays; None stays None."""
    if isinstance(value, dict):
        return {key: take(inner, rows) for key, inner in value.items()}
    return None if value is None else value[rows]


def check_rows(array: np.ndarray, label: str, rows: int, name: str) -> None:
    """One row per transition, else `InputError`."""
    if array.ndim == 0 or len(array) != rows:
        got = "is a single number" if array.ndim == 0 else f"has {len(array)} rows"
        raise InputError(f"{label} of {name} {got} but rewards has {rows}: all arrays need one row per transition")


def place(row: int, ends: np.ndarray) -> str:
    """Which episode and step a row is, both counted from 0."""
    before = np.flatnonzero(ends[:row])
    step = row - (int(before[-1]) + 1 if len(before) else 0)
    return f"episode {len(before)}, step {step} (row {row})"


def check_finite(array: np.ndarray, label: str, ends: np.ndarray, name: str) -> None:
    """No NaN and no infinity, else `InputError` for the first one; ``ends`` is True at the last step of an episode."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    bad = ~np.isfinite(array)
    row = int(np.flatnonzero(bad.reshape(len(array), -1).any(1))[0])
    value = array[row][bad[row]].reshape(-1)[0] if array.ndim > 1 else array[row]
    raise InputError(
        f"{label} of {name} holds {value} at {place(row, ends)}, and {int(bad.sum())} values that are not finite in "
        "all; repair or drop these episodes"
    )


def usable_log_prob(value: Any, source: str, notes: list[str]) -> np.ndarray | None:
    """Log densities that a file happens to carry: left out with a note, rather than refused, if one is not finite."""
    array = np.asarray(value)
    bad = int((~np.isfinite(array)).sum()) if array.dtype.kind == "f" else 0
    if bad:
        notes.append(
            f"{source} holds {bad:,} values that are not finite: the logged behavior log densities are left out"
        )
    return None if bad else array


def ends_of(lengths: np.ndarray, flagged: np.ndarray, name: str) -> np.ndarray:
    """Last steps by the source's own lengths, ``[T]`` bool; a flag anywhere else is an `InputError`."""
    if int(lengths.sum()) != len(flagged) or (lengths < 1).any():
        raise InputError(
            f"the episode lengths of {name} add up to {int(lengths.sum())}, but there are {len(flagged)} transitions"
        )
    ends = np.zeros(len(flagged), dtype=bool)
    ends[lengths.cumsum() - 1] = True
    inside = np.flatnonzero(flagged & ~ends)
    if len(inside):
        raise InputError(
            f"{name} sets terminated or truncated at {place(int(inside[0]), ends)}, before the last step of "
            "the episode; only the last step may end it: split the episode there"
        )
    return ends


def count(number: int, what: str) -> str:
    """``3 episodes``, ``1 episode``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
