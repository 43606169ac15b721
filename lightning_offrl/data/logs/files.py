"""Logs on disk, a piece at a time: CSV by the standard library, Parquet by pyarrow where it is installed."""

from __future__ import annotations

import csv
import difflib
import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lightning_offrl.errors import InputError

ROWS = 65_536
"""Rows of a piece."""
CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt")
PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class Lists:
    """Some rows of a Parquet column of lists.

    Attributes:
        values: of all rows, one after the other, as in a `Chunk`.
        length: ``[n]`` int64, how many of them are each row's; -1 where the row has no list.
    """

    values: np.ndarray
    length: np.ndarray


@dataclass(frozen=True)
class Chunk:
    """Some rows of a file.

    Attributes:
        file: as the user named it.
        first: number of the first row in the file, from 1; headers do not count.
        columns: ``[n]`` each: float64 (missing is nan), int64, bool, datetime64, or texts (missing is None in an object
            array, or one of the missing values in an array of texts).
        lists: columns of lists, where these were allowed.
    """

    file: Path
    first: int
    columns: dict[str, np.ndarray]
    lists: dict[str, Lists] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def expand(paths: Sequence[str | Path]) -> list[Path]:
    """The files, in order; a directory stands for its logs, sorted by name.

    Raises:
        InputError: for a path that does not exist, an ending that is no log, or a directory without logs.
    """
    if not paths:
        raise InputError("no log was given; give at least one .parquet or .csv file")
    out: list[Path] = []
    for one in paths:
        path = Path(one).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.name.endswith((*CSV, *PARQUET)))
            if not inside:
                raise InputError(f"{path} is a directory without logs; .parquet and .csv files are read")
            out += inside
            continue
        if not path.is_file():
            siblings = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
            near = difflib.get_close_matches(path.name, siblings, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"there is no file {path}{hint}")
        if not path.name.endswith((*CSV, *PARQUET)):
            raise InputError(f"{path} is no log that can be read; .parquet, .csv and .csv.gz files are")
        out.append(path)
    return out


def chunks(
    path: Path, wanted: Sequence[str], delimiter: str, map_file: str, lists: Sequence[str] = ()
) -> Iterator[Chunk]:
    """Pieces of the wanted columns, from the first row to the last; ``lists`` may hold lists in Parquet.

    Raises:
        InputError: for a column that is not there, a damaged file, or a row with too many or too few cells.
    """
    if path.name.endswith(PARQUET):
        yield from _parquet(path, wanted, map_file, ROWS, lists)
    else:
        yield from _csv(path, wanted, "\t" if ".tsv" in path.suffixes else delimiter, map_file, ROWS)


def _pick(path: Path, header: Sequence[str], wanted: Sequence[str], map_file: str) -> list[int]:
    twice = sorted({name for name in wanted if header.count(name) > 1})
    if twice:
        raise InputError(f"{path} has the column {twice[0]!r} twice; rename one of them")
    for name in wanted:
        if name not in header:
            near = difflib.get_close_matches(name, header, 1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            shown = ", ".join(header[:20]) + (", ..." if len(header) > 20 else "")
            raise InputError(f"{path} has no column {name!r}, which the map {map_file} names; {hint}It has {shown}")
    return [header.index(name) for name in wanted]


# -- CSV ---------------------------------------------------------------------------------------------------------------


def _open(path: Path) -> TextIO:
    if path.name.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _csv(path: Path, wanted: Sequence[str], delimiter: str, map_file: str, rows: int) -> Iterator[Chunk]:
    first = 1
    try:
        with _open(path) as file:
            reader = csv.reader(file, delimiter=delimiter)
            header = [name.strip() for name in next(reader, [])]
            if not header:
                raise InputError(f"{path} is empty: it has no header")
            if len(header) == 1 and len(wanted) > 1:
                other = next((sign for sign in (";", "\t", "|", ",") if sign in header[0]), None)
                if other is not None:
                    raise InputError(
                        f"{path} has one column only, {header[0][:60]!r}; its cells seem to be separated by {other!r}: "
                        f"set delimiter in the map {map_file}"
                    )
            place = _pick(path, header, wanted, map_file)
            width = len(header)
            while True:
                block = [row for row in islice(reader, rows) if row]
                if not block:
                    if next(reader, None) is None:
                        return
                    continue
                if any(len(row) != width for row in block):
                    number = next(i for i, row in enumerate(block) if len(row) != width)
                    raise InputError(
                        f"{where(path, first + number)}: there are {len(block[number])} cells, but the header has "
                        f"{width}; a text with {delimiter!r} in it must stand in quotes"
                    )
                cells = list(zip(*block, strict=True))
                columns = {name: np.array(cells[i]) for name, i in zip(wanted, place, strict=True)}
                yield Chunk(path, first, columns)
                first += len(block)
    except UnicodeDecodeError as problem:
        raise InputError(
            f"{path} is not text in UTF-8 (near row {first}); save it in this encoding, or as Parquet"
        ) from problem
    except (csv.Error, OSError, EOFError) as problem:
        raise InputError(f"{path} cannot be read as CSV after row {first - 1} ({problem})") from problem


def where(path: Path, row: int) -> str:
    """``logs.csv, row 17 (line 18)``: the row counted from 1 without the header, and the line of a CSV."""
    if path.name.endswith(PARQUET):
        return f"{path}, row {row}"
    try:
        with _open(path) as file:
            reader = csv.reader(file)
            next(reader)
            found = 0
            for cells in reader:
                found += bool(cells)
                if found == row:
                    return f"{path}, row {row} (line {reader.line_num})"
    except (OSError, csv.Error, StopIteration, UnicodeDecodeError, EOFError):
        pass
    return f"{path}, row {row}"


# -- Parquet -----------------------------------------------------------------------------------------------------------


def _parquet(path: Path, wanted: Sequence[str], map_file: str, rows: int, allowed: Sequence[str]) -> Iterator[Chunk]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as problem:
        raise InputError(
            f"{path} is a Parquet file, and pyarrow, which reads these, is not installed: pip install "
            "'lightning-offrl[logs]', or give a CSV"
        ) from problem
    first = 1
    try:
        # Without these pyarrow holds every row group that it has read, and whole columns of the one it reads.
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            header = list(file.schema_arrow.names)
            _pick(path, header, wanted, map_file)
            for name in wanted:
                kind = file.schema_arrow.field(name).type
                _check_type(path, name, kind.value_type if name in allowed and _is_list(kind) else kind)
            listed = [name for name in wanted if _is_list(file.schema_arrow.field(name).type)]
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(rows, [group], list(wanted), use_threads=False):
                    columns = {name: _array(batch.column(name)) for name in wanted if name not in listed}
                    lists = {name: _lists(batch.column(name)) for name in listed}
                    if batch.num_rows:
                        yield Chunk(path, first, columns, lists)
                    first += batch.num_rows
    except (pa.ArrowException, OSError) as problem:
        line = str(problem).strip().splitlines()[0]
        raise InputError(f"{path} cannot be read as Parquet ({line}); it may be cut short or be another format") from (
            problem
        )


def _check_type(path: Path, name: str, kind: Any) -> None:
    import pyarrow.types as types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    fine = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_temporal, types.is_null)
    texts = (types.is_string, types.is_large_string, getattr(types, "is_string_view", types.is_string))
    if not any(test(kind) for test in (*fine, *texts)) or types.is_duration(kind) or types.is_time(kind):
        raise InputError(
            f"{path}, column {name!r}: values of the type {kind} cannot be used; numbers, true/false, texts and "
            "timestamps can: write lists and structures as a column for each part"
        )


def _is_list(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _lists(column: Any) -> Lists:
    import pyarrow.compute as compute

    length = compute.list_value_length(column).fill_null(-1)
    return Lists(_array(column.flatten()), length.to_numpy(zero_copy_only=False).astype(np.int64))


def _array(column: Any) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.types as types

    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if types.is_date(kind) or types.is_timestamp(kind):
        return column.cast(pa.timestamp("ns")).to_numpy(zero_copy_only=False)
    if types.is_boolean(kind):
        return column.to_numpy(zero_copy_only=False) if not column.null_count else _floats(column.cast(pa.uint8()))
    if types.is_decimal(kind) or types.is_null(kind):
        return _floats(column.cast(pa.float64()))
    if types.is_integer(kind):
        if column.null_count:
            return _floats(column)
        wide = kind if types.is_uint64(kind) else pa.int64()
        return column.cast(wide).to_numpy(zero_copy_only=False)
    if types.is_floating(kind):
        return _floats(column)
    return column.to_numpy(zero_copy_only=False)  # texts: objects, None where missing


def _floats(column: Any) -> np.ndarray:
    import pyarrow as pa

    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
