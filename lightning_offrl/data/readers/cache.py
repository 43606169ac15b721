"""A memory-mapped copy of what a source holds, found by content, so that the second start takes milliseconds.

Below the cache's directory, ``episodes/KEY/`` holds ``table.npy`` with the float32 columns side by side, so that a
transition lies in one place and is read at once, one ``.npy`` file for every other column, and ``episodes.json``. KEY
is the hash of the source's bytes and of the reader's version; ``sources/`` remembers size and times of each source's
files beside their KEY. If these are unchanged the source is not even opened; if they are not it is hashed again: the
same content (a copy, a touched file) finds its entry, other content is read. Columns are mapped copy-on-write: writing
to the loaded table never reaches the file. An entry is written under a temporary name and renamed, so none is ever half
there; what killed processes of this computer left is removed by the next that writes (`lightning_offrl.data.staging`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from lightning_offrl.data.episodes import Episodes, leaves
from lightning_offrl.data.staging import clear, staging
from lightning_offrl.errors import InputError

FORMAT = 2
_ENTRY = "episodes.json"
_TABLE = "table.npy"
_NARROW = 1024
"""Most numbers per row of a column that goes into the table: beyond a page of memory nothing is won."""
_CHUNK = 1 << 18
"""Rows of the table written at a time."""
# A file written so shortly before it was hashed may change again without its time changing.
_RACY_NS = 2_000_000_000
_UNFINISHED = ".tmp"
"""How the folders of entries that are being written begin."""


def directory(cache_dir: str | Path | None = None) -> Path:
    """The given directory, else OFFRL_CACHE, else ``lightning_offrl`` in XDG_CACHE_HOME or ``~/.cache``."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if os.environ.get("OFFRL_CACHE"):
        return Path(os.environ["OFFRL_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightning_offrl"


def cached(
    files: list[Path], read: Callable[[], Episodes], reader: str, cache_dir: str | Path | None = None
) -> Episodes:
    """The episodes of a source, memory-mapped from the cache if it has them, else read and put there.

    A cache that cannot be written costs a warning and the time to read the source.

    Args:
        files: all files of the source.
        read: reads the source into RAM.
        reader: name and version of the reader.
        cache_dir: see `directory`.
    """
    base = directory(cache_dir)
    key = _remembered(base, files, reader)
    if key is not None:
        found = _open(base / "episodes" / key)
        if found is not None:
            return found
    began = time.time_ns()
    stamp = _stamp(files)
    key = _content_key(files, reader)
    entry = base / "episodes" / key
    found = _open(entry)
    if found is not None:
        _remember(base, files, reader, key, stamp, began)
        return found
    episodes = read()
    if _stamp(files) != stamp:  # written to while it was read: what was read may be neither the old nor the new
        return episodes
    try:
        _write(entry, episodes)
    except OSError as problem:
        warnings.warn(
            f"the data cache {base} cannot be written ({problem.strerror or problem}), so the source is read into "
            "memory at every start; name another place with OFFRL_CACHE",
            stacklevel=3,
        )
        return episodes
    _remember(base, files, reader, key, stamp, began)
    return _open(entry) or episodes


def entry_of(files: list[Path], reader: str, cache_dir: str | Path | None = None) -> Path | None:
    """Where the cache keeps this source in its present state, or None if it does not."""
    base = directory(cache_dir)
    key = _remembered(base, files, reader) or _content_key(files, reader)
    entry = base / "episodes" / key
    return entry if (entry / _ENTRY).is_file() else None


def _stamp(files: list[Path]) -> list[list[Any]]:
    """What a look at the directory tells of each file: path, size, times of change of content and of inode."""
    out = []
    for path in files:
        status = path.stat()
        out.append([str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    return out


def _content_key(files: list[Path], reader: str) -> str:
    digest = hashlib.blake2b(f"{FORMAT} {reader}".encode(), digest_size=16)
    parent = files[0].parent if len(files) > 1 else None
    for path in files:
        if parent is not None:
            digest.update(os.path.relpath(path, parent).encode())
        digest.update(str(path.stat().st_size).encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _memory(base: Path, files: list[Path], reader: str) -> Path:
    names = json.dumps([reader, *(str(path.absolute()) for path in files)])
    return base / "sources" / f"{hashlib.blake2b(names.encode(), digest_size=16).hexdigest()}.json"


def _remembered(base: Path, files: list[Path], reader: str) -> str | None:
    """The key of a source whose files have not changed since it was hashed."""
    try:
        record = json.loads(_memory(base, files, reader).read_text())
        same = record["format"] == FORMAT and record["stamp"] == _stamp(files)
        return str(record["key"]) if same and not record["racy"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(base: Path, files: list[Path], reader: str, key: str, stamp: list[list[Any]], began: int) -> None:
    racy = any(max(mtime, ctime) > began - _RACY_NS for _, _, mtime, ctime in stamp)
    record = {"format": FORMAT, "key": key, "stamp": stamp, "racy": racy}
    from lightning_offrl.training.files import write_atomically  # loads Lightning, which a cached start does not need

    try:
        write_atomically(_memory(base, files, reader), json.dumps(record).encode())
    except InputError:  # a read-only cache: the next start hashes again
        return


def _write(entry: Path, episodes: Episodes) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    clear(entry.parent, _UNFINISHED)
    with staging(entry.parent, _UNFINISHED) as folder:
        fresh = folder / entry.name
        fresh.mkdir()
        columns: list[list[str]] = []
        packed: list[tuple[tuple[str, ...], torch.Tensor]] = []
        for path, value in leaves(episodes.data):
            if value.dtype == torch.float32 and value[:1].numel() <= _NARROW:
                packed.append((path, value))
            else:
                np.save(fresh / f"{len(columns)}.npy", value.numpy())
                columns.append(list(path))
        _write_table(fresh / _TABLE, [value for _, value in packed])
        np.save(fresh / "length.npy", episodes.length.numpy())
        record = {
            "format": FORMAT,
            "columns": columns,
            "packed": [[list(path), list(value.shape[1:])] for path, value in packed],
            "transitions": len(episodes),
            "spec": episodes.spec,
            "name": episodes.name,
            "environment": episodes.environment,
            "references": episodes.references,
            "notes": episodes.notes,
            "names": episodes.columns,
            "fingerprint": episodes.fingerprint,
        }
        (fresh / _ENTRY).write_text(json.dumps(record))
        try:
            fresh.rename(entry)
        except OSError:
            # Another process was faster, or what is there is damaged.
            if _open(entry) is None:
                shutil.rmtree(entry, ignore_errors=True)
                fresh.rename(entry)


def _write_table(file: Path, columns: list[torch.Tensor]) -> None:
    """Columns ``[T, ...]`` side by side, without a copy of all of them in memory."""
    if not columns:
        return
    rows, width = len(columns[0]), sum(column[:1].numel() for column in columns)
    table = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(rows, width))
    for first in range(0, rows, _CHUNK):
        last = min(first + _CHUNK, rows)
        table[first:last] = torch.cat([column[first:last].reshape(last - first, -1) for column in columns], -1).numpy()
    table.flush()


def _open(entry: Path) -> Episodes | None:
    """Map an entry; None if it is not there, of another format, or damaged."""
    try:
        record = json.loads((entry / _ENTRY).read_text())
        if record["format"] != FORMAT:
            return None
        rows = record["transitions"]
        found = [
            (path, torch.from_numpy(np.load(entry / f"{number}.npy", mmap_mode="c", allow_pickle=False)))
            for number, path in enumerate(record["columns"])
        ]
        if record["packed"]:
            table = torch.from_numpy(np.load(entry / _TABLE, mmap_mode="c", allow_pickle=False))
            paths, shapes = zip(*record["packed"], strict=True)
            parts = table.split([math.prod(shape) for shape in shapes], -1)
            found += [
                (path, part.unflatten(-1, shape) if shape else part.squeeze(-1))
                for path, part, shape in zip(paths, parts, shapes, strict=True)
            ]
        data: dict[str, Any] = {}
        for path, column in found:
            if len(column) != rows:
                return None
            place = data
            for name in path[:-1]:
                place = place.setdefault(name, {})
            place[path[-1]] = column
        length = torch.from_numpy(np.load(entry / "length.npy", allow_pickle=False))
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError):
        return None
    return Episodes(
        data=TensorDict(data, batch_size=[rows]),
        start=length.cumsum(0) - length,
        length=length,
        spec=record["spec"],
        name=record["name"],
        environment=record["environment"],
        references=tuple(record["references"]) if record["references"] else None,
        notes=list(record["notes"]),
        columns=record.get("names", {}),
        _fingerprint=record["fingerprint"],
    )
