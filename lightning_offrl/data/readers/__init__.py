"""Readers of datasets: `load` turns a Minari id, a file, arrays, or a list of these into `Episodes`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.errors import InputError

READERS = {"d4rl": (".hdf5", ".h5"), "npz": (".npz",), "minari": ()}
"""The readers of what lies on disk, with the suffixes of their files; a reader of directories has none.

Each is a module of this folder with ``VERSION``, ``read(path, environment, ask)`` and ``unread(path)``; one of
directories also has ``files(directory)``. A file with any other suffix is tried with the first.
"""
SUFFIXES = tuple(suffix for suffixes in READERS.values() for suffix in suffixes)


def load(source: Any, *, cache_dir: str | Path | None = None, use_cache: bool = True) -> Episodes:
    """Read a dataset.

    Args:
        source: A Minari id (``hopper/medium-v0``; Minari downloads it if it is not in the local store), the directory
            of a Minari dataset, the path of a D4RL-layout ``.hdf5`` or of an ``.npz`` with the same arrays, `Episodes`,
            a dictionary of arrays (see `lightning_offrl.data.readers.arrays.from_arrays`), or a list of these, which
            are joined.
        cache_dir: The folder of the memory-mapped cache; None: see `lightning_offrl.data.readers.cache.directory`.
        use_cache: False reads the source again, into memory, and writes nothing.

    Raises:
        InputError: with one sentence, for anything that cannot be found, read or used.
    """
    if isinstance(source, Episodes):
        return source
    if isinstance(source, Mapping):
        return _with_references(from_arrays(source))
    if isinstance(source, list | tuple):
        return Episodes.join([load(one, cache_dir=cache_dir, use_cache=use_cache) for one in source])
    if not isinstance(source, str | Path):
        raise InputError(
            "a data source is a Minari id, a path, Episodes, a dictionary of arrays or a list of these, got "
            f"{type(source).__name__}"
        )
    place = locate(source)
    if use_cache:
        from lightning_offrl.data.readers import cache  # only what lies on disk is cached

        episodes = cache.cached(place.files, place.read, place.version, cache_dir)
    else:
        episodes = place.read()
    if place.name is not None:
        # The cache goes by content: a copy of the file may have been read first.
        episodes = replace(episodes, name=place.name)
    return _with_references(episodes)


def _with_references(episodes: Episodes) -> Episodes:
    if episodes.environment is None or episodes.references is not None:
        return episodes
    from lightning_offrl.data.readers.reference_returns import with_known_references

    return with_known_references(episodes)


@dataclass(frozen=True)
class DataSource:
    """A source on disk and its reader.

    Attributes:
        kind: one of `READERS`.
        path: of the file or directory.
    """

    kind: str
    path: Path

    @property
    def reader(self) -> Any:
        """The module that reads it; see `READERS`."""
        return import_module(f"{__name__}.{self.kind}")

    @property
    def version(self) -> str:
        """Name and version of the reader, which are part of the cache's key."""
        return f"{self.kind}-{self.reader.VERSION}"

    @property
    def files(self) -> list[Path]:
        """All files whose content matters."""
        return [self.path] if self.path.is_file() else self.reader.files(self.path)

    @property
    def name(self) -> str | None:
        """Name of the dataset, where it is not in the content."""
        return self.path.stem if READERS[self.kind] else None

    def read(self, environment: str | None = None, *, ask: bool = False) -> Episodes:
        """Read everything into RAM.

        Args:
            environment: Gymnasium id that the user gives in place of what a file says; a Minari dataset keeps its own.
            ask: make the environment where a file does not store the bounds of its actions. False: no environment is
                made, whatever the file names.
        """
        who = "nobody" if not ask else "file" if environment is None else "typed"
        episodes: Episodes = self.reader.read(self.path, environment, who)
        return episodes


def locate(source: str | Path) -> DataSource:
    """Find a source on disk, or let Minari download it.

    Raises:
        InputError: if there is nothing of that name, with the nearest names that exist.
    """
    from lightning_offrl.data.readers import minari

    path = Path(source).expanduser()
    if path.is_file():
        return DataSource(next((kind for kind, known in READERS.items() if path.suffix in known), "d4rl"), path)
    directory = minari.data_directory(source)
    if directory is not None:
        return DataSource("minari", directory)
    if isinstance(source, str) and minari.is_id(source) and not path.exists():
        return DataSource("minari", minari.download(source))
    if path.is_dir():
        raise InputError(f"{path} is a directory without a Minari dataset; give its file, or a Minari id")
    if path.suffix in SUFFIXES or isinstance(source, Path):
        siblings = [p.name for p in path.parent.glob("*") if p.suffix in SUFFIXES] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, 3, cutoff=0.5) or sorted(siblings)[:5]
        hint = f"{path.parent} has {', '.join(near)}" if near else f"{path.parent} holds no dataset"
        raise InputError(f"there is no file {path}; {hint}")
    raise InputError(
        f"{str(source)!r} is neither a file nor a Minari id (namespace/name-v0); in {minari.root()}, "
        f"{minari.nearest(str(source))}"
    )
