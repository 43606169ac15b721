"""Cells of a log as numbers: units converted, categories numbered, missing values marked, all else refused."""

from __future__ import annotations

import difflib
import hashlib
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np

from lightning_offrl.data.logs.files import Chunk, where
from lightning_offrl.data.logs.mapping import MISSING, Flag, LogMap
from lightning_offrl.data.logs.settings import Column, category_text
from lightning_offrl.errors import InputError

_TRUE, _FALSE = ("1", "true", "t", "yes", "y"), ("0", "false", "f", "no", "n")
_ROOM = 3.4e38
"""Beyond this a float32 is infinite."""


class Reader:
    """Turns cells into numbers, by the map.

    Args:
        settings: the map.
    """

    def __init__(self, settings: LogMap) -> None:
        self.settings = settings
        self.moments = False
        """Whether times were points in time, which are counted in seconds."""
        flags = [flag for flag in (settings.terminated, settings.truncated) if flag is not None]
        self.unseen = {flag.role: set(flag.values or ()) for flag in flags}
        """Values of flags that no row had so far, by their role in the map."""
        self._missing = np.array([*MISSING, *settings.missing_values])
        self._sentinels = []
        for value in settings.missing_values:
            try:
                self._sentinels.append(float(value))
            except ValueError:
                continue

    def numbers(self, chunk: Chunk, column: Column) -> np.ndarray:
        """``[n]`` float64 in the map's unit, nan where missing.

        Raises:
            InputError: for a cell that is no number, or an infinite one, naming file, row and column.
        """
        value = self._floats(chunk, column.name, column.role)
        with np.errstate(over="ignore"):
            value = value * column.scale + column.shift if (column.scale, column.shift) != (1.0, 0.0) else value
        bad = np.flatnonzero(np.abs(value) > _ROOM)
        if len(bad):
            got = chunk.columns[column.name][bad[0]]
            raise self.error(chunk, bad[0], column.name, f"{got} is not a finite number (float32); repair it")
        return value

    def _floats(self, chunk: Chunk, name: str, role: str) -> np.ndarray:
        raw = chunk.columns[name]
        value: np.ndarray | None
        if raw.dtype.kind in "iubf":
            value = raw.astype(np.float64)
        elif raw.dtype.kind == "M":
            raise self.error(chunk, 0, name, f"{role} must be a number, but the column holds timestamps")
        else:
            try:
                value = raw.astype(np.float64)  # nothing is missing in most pieces, and this is fast
            except (ValueError, TypeError):
                value = None
        if value is None:
            text = self.texts(chunk, name)
            try:
                value = np.where(text == "", "nan", text).astype(np.float64)
            except ValueError:
                number, cell = next((i, c) for i, c in enumerate(text.tolist()) if not is_number(c))
                hint = " (with a decimal comma? write a point)" if is_number(cell.replace(",", ".")) else ""
                raise self.error(
                    chunk,
                    number,
                    name,
                    f"{role} must be a number, got {cell!r}{hint}; if it means missing, add it to missing_values, "
                    "if the column is a choice, give it categories",
                ) from None
        for sentinel in self._sentinels:
            value = np.where(value == sentinel, np.nan, value)
        return value

    def texts(self, chunk: Chunk, name: str, known: tuple[str, ...] = ()) -> np.ndarray:
        """``[n]`` texts, empty where missing; what is ``known`` (a category called None, say) is not."""
        text = self.plain_texts(chunk.columns[name])
        missing = np.zeros(len(text), dtype=bool)
        for value in self._missing.tolist():
            if value not in known:
                missing |= text == value
        return np.where(missing, "", text)

    @staticmethod
    def plain_texts(raw: np.ndarray) -> np.ndarray:
        """``[n]`` texts of anything, empty for None and nan."""
        if raw.dtype.kind == "U":
            return np.char.strip(raw)
        if raw.dtype.kind == "M":
            return np.where(np.isnat(raw), "", np.datetime_as_string(raw))
        return np.array(["" if _none(cell) else category_text(cell).strip() for cell in raw.tolist()], dtype=str)

    def categories(self, chunk: Chunk, column: Column, known: tuple[str, ...]) -> np.ndarray:
        """``[n]`` float64: the number of each cell's category, nan where missing.

        Raises:
            InputError: for a value that is none of them.
        """
        names, place = np.unique(self.texts(chunk, column.name, known), return_inverse=True)
        number = {name: i for i, name in enumerate(known)}
        code = np.array([math.nan if n == "" else number.get(str(n), -1) for n in names.tolist()], dtype=np.float64)
        found = code[place.ravel()]
        bad = np.flatnonzero(found == -1)
        if len(bad):
            got = str(names[place.ravel()[bad[0]]])
            near = difflib.get_close_matches(got, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known[:12])}"
            if got.lower() in ("yes", "no", "on", "off") and {"true", "false"} & set(known):
                hint += f" (YAML reads {got} as a truth value: write '{got}' in quotes)"
            raise self.error(chunk, bad[0], column.name, f"{got!r} is none of the categories in the map{hint}")
        return found

    def flags(self, chunk: Chunk, flag: Flag | None) -> np.ndarray:
        """``[n]`` bool; missing is False.

        Raises:
            InputError: for a cell that is neither yes nor no, where the map gives no values.
        """
        if flag is None:
            return np.zeros(len(chunk), dtype=bool)
        if flag.values is None:
            hint = f"give the values that mean yes as {flag.role}: {{column: {flag.name}, values: [...]}}"
            return self.yes_or_no(chunk, flag.name, flag.role, hint) == 1
        text = self.texts(chunk, flag.name, flag.values)
        hit = np.isin(text, np.array(flag.values))
        self.unseen[flag.role] -= set(np.unique(text[hit]).tolist())
        return hit

    def yes_or_no(self, chunk: Chunk, name: str, role: str, hint: str) -> np.ndarray:
        """``[n]`` int8: 1 for yes, 0 for no, -1 where missing.

        Raises:
            InputError: for a cell that is none of these, with the hint.
        """
        raw = chunk.columns[name]
        if raw.dtype.kind in "iufb":
            absent = np.isnan(raw)
            if (absent | np.isin(raw, (0, 1))).all():
                return np.where(absent, -1, raw).astype(np.int8)
        text = self.texts(chunk, name)
        lower = np.char.lower(text)
        for value in np.unique(lower).tolist():
            if value not in (*_TRUE, *_FALSE, ""):
                bad = int(np.flatnonzero(lower == value)[0])
                got = f"{role} must be yes or no (true/false, 1/0), got {str(text[bad])!r}"
                raise self.error(chunk, bad, name, f"{got}; {hint}")
        return np.where(lower == "", -1, np.isin(lower, np.array(_TRUE))).astype(np.int8)

    def times(self, chunk: Chunk) -> np.ndarray:
        """``[n]`` float64 seconds.

        Raises:
            InputError: for a missing time, or one that cannot be read.
        """
        settings = self.settings
        assert settings.time is not None
        raw = chunk.columns[settings.time]
        if raw.dtype.kind == "M":
            self.moments = True
            value = np.where(np.isnat(raw), np.nan, raw.astype("datetime64[ns]").astype(np.int64) / 1e9)
        elif raw.dtype.kind in "iubf":
            value = raw.astype(np.float64) * settings.time_unit
        else:
            text = self.texts(chunk, settings.time)
            value = self._parsed(chunk, text)
        bad = np.flatnonzero(~np.isfinite(value))
        if len(bad):
            raise self.error(chunk, bad[0], settings.time, "the time is missing; every row needs one")
        return value

    def _parsed(self, chunk: Chunk, text: np.ndarray) -> np.ndarray:
        settings = self.settings
        if settings.time_format is None:
            try:
                return np.where(text == "", "nan", text).astype(np.float64) * settings.time_unit
            except ValueError:
                pass
        self.moments = True
        out = np.empty(len(text))
        for i, cell in enumerate(text.tolist()):
            if cell == "":
                out[i] = math.nan
                continue
            try:
                if settings.time_format is not None:
                    moment = datetime.strptime(cell, settings.time_format)
                else:
                    moment = datetime.fromisoformat(cell)
            except ValueError:
                wanted = settings.time_format or "a number or an ISO time such as 2024-03-01T12:30:00"
                raise self.error(
                    chunk, i, str(settings.time), f"the time {cell!r} is not {wanted}; give time.format in the map"
                ) from None
            out[i] = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        return out

    def keys(self, chunk: Chunk) -> np.ndarray:
        """``[n]`` uint64: a hash of the columns that name the episode; zeros where the map names none.

        Raises:
            InputError: for a missing name.
        """
        out = np.zeros(len(chunk), dtype=np.uint64)
        for name in self.settings.episode:
            raw = chunk.columns[name]
            if raw.dtype.kind == "f" and np.isfinite(raw).all() and (raw == np.floor(raw)).all():
                raw = raw.astype(np.int64)  # whole numbers are floats in a file where one is missing elsewhere
            if raw.dtype.kind in "iub":
                code = raw.astype(np.int64).view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
                code ^= code >> np.uint64(29)
            else:
                text = self.texts(chunk, name)
                bad = np.flatnonzero(text == "")
                if len(bad):
                    raise self.error(chunk, bad[0], name, "the name of the episode is missing")
                names, place = np.unique(text, return_inverse=True)
                hashed = [hashlib.blake2b(n.encode(), digest_size=8).digest() for n in names.tolist()]
                code = np.frombuffer(b"".join(hashed), dtype=np.uint64)[place.ravel()]
            out = (out ^ code) * np.uint64(0xBF58476D1CE4E5B9)
            out ^= out >> np.uint64(31)
        return out

    def log_densities(self, chunk: Chunk) -> np.ndarray:
        """``[n]`` float64: log probability or density of the logged action in the map's units, nan where missing.

        Raises:
            InputError: for one that cannot be a probability or density.
        """
        settings = self.settings
        assert settings.propensity is not None
        kind = settings.propensity_kind
        value = self._floats(chunk, settings.propensity, "propensity")
        with np.errstate(divide="ignore", invalid="ignore"):
            log = value if kind.startswith("log_") else np.log(value)
            low = np.flatnonzero((value <= 0) & ~kind.startswith("log_") | np.isneginf(value) | np.isposinf(value))
        high = np.flatnonzero(log > 1e-9) if kind.endswith("probability") else np.array([], dtype=int)
        for bad, why in ((low, "above 0"), (high, "at most 1")):
            if len(bad):
                raise self.error(
                    chunk,
                    bad[0],
                    settings.propensity,
                    f"the {kind.replace('_', ' ')} {value[bad[0]]:g} of an action that was taken cannot be: it must be "
                    f"{why if not kind.startswith('log_') else 'finite' if bad is low else 'at most 0'}",
                )
        return log - sum(math.log(abs(column.scale)) for column in settings.action)

    def error(self, chunk: Chunk, number: int, column: str, what: str) -> InputError:
        """One sentence that names file, row and column."""
        return InputError(f"{where(chunk.file, chunk.first + int(number))}, column {column!r}: {what}")


def _none(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def is_number(text: str) -> bool:
    """Whether a text is a number, or empty."""
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True
