"""Sources of data: `load` turns a Minari id, a file, arrays, or a list of these into `Episodes`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_offrl.data import cache
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers.reference_returns import with_known_references
from lightning_offrl.errors import InputError

HDF5 = (".hdf5", ".h5")


def load(source: Any, *, cache_dir: str | Path | None = None, use_cache: bool = True) -> Episodes:
    """Episodes from wherever they are.

    Args:
        source: a Minari id (``hopper/medium-v0``; downloaded by Minari if it is not in its local store), the directory
            of a Minari dataset, the path of a D4RL-layout ``.hdf5`` or of an ``.npz`` with the same arrays, `Episodes`,
            a dictionary of arrays (see `lightning_offrl.data.readers.arrays.NAMES`), or a list of these, joined.
        cache_dir: where the memory-mapped cache lies; None: see `lightning_offrl.data.cache.directory`.
        use_cache: False reads the source again, into RAM, and writes nothing.

    Raises:
        InputError: with one sentence, for anything that cannot be found, read or used.
    """
    if isinstance(source, Episodes):
        return source
    if isinstance(source, Mapping):
        from lightning_offrl.data.readers import arrays

        return with_known_references(arrays.read(source))
    if isinstance(source, list | tuple):
        return Episodes.join([load(one, cache_dir=cache_dir, use_cache=use_cache) for one in source])
    if not isinstance(source, str | Path):
        raise InputError(
            "a data source is a Minari id, a path, Episodes, a dictionary of arrays or a list of these, got "
            f"{type(source).__name__}"
        )
    place = locate(source)
    episodes = cache.cached(place.files, place.read, place.reader, cache_dir) if use_cache else place.read()
    if place.name is not None:
        # The cache goes by content: a copy of the file may have been read first.
        episodes = replace(episodes, name=place.name)
    return with_known_references(episodes)


class DataSource:
    """A source on disk: its files, and how they are read.

    Attributes:
        path: of the file or directory.
        files: all files whose content matters.
        reader: name and version of the reader; part of the cache's key.
        name: of the dataset, where it is not in the content.
    """

    def __init__(self, kind: str, path: Path) -> None:
        self.kind, self.path = kind, path
        self.files, self.name = [path], path.stem if kind != "minari" else None
        if kind == "minari":
            from lightning_offrl.data.readers import minari

            self.files, version = minari.files(path), minari.VERSION
        elif kind == "d4rl":
            from lightning_offrl.data.readers import d4rl

            version = d4rl.VERSION
        else:
            version = 2
        self.reader = f"{kind}-{version}"

    def read(self, environment: str | None = None, *, ask: bool = False) -> Episodes:
        """Read everything into RAM.

        Args:
            environment: Gymnasium id that the user gives in place of what a file says; a Minari dataset keeps its own.
            ask: make the environment where a file does not store the bounds of its actions. False: no environment is
                made, whatever the file names.
        """
        who: Any = "nobody" if not ask else "file" if environment is None else "typed"
        if self.kind == "minari":
            from lightning_offrl.data.readers import minari

            return minari.read(self.path)
        if self.kind == "d4rl":
            from lightning_offrl.data.readers import d4rl

            return d4rl.read(self.path, environment, who)
        from lightning_offrl.data.readers import arrays

        return arrays.read_npz(self.path, environment, who)


def locate(source: str | Path) -> DataSource:
    """Find a source on disk, or let Minari download it.

    Raises:
        InputError: if there is nothing of that name, with the nearest names that exist.
    """
    from lightning_offrl.data.readers import minari

    path = Path(source).expanduser()
    if path.is_file():
        return DataSource("npz" if path.suffix == ".npz" else "d4rl", path)
    directory = minari.data_directory(source)
    if directory is not None:
        return DataSource("minari", directory)
    if isinstance(source, str) and minari.is_id(source) and not path.exists():
        return DataSource("minari", minari.download(source))
    if path.is_dir():
        raise InputError(f"{path} is a directory without a Minari dataset; give its file, or a Minari id")
    if path.suffix in (*HDF5, ".npz") or isinstance(source, Path):
        siblings = (
            [p.name for p in path.parent.glob("*") if p.suffix in (*HDF5, ".npz")] if path.parent.is_dir() else []
        )
        near = difflib.get_close_matches(path.name, siblings, 3, cutoff=0.5) or sorted(siblings)[:5]
        hint = f"{path.parent} has {', '.join(near)}" if near else f"{path.parent} holds no dataset"
        raise InputError(f"there is no file {path}; {hint}")
    raise InputError(
        f"{str(source)!r} is neither a file nor a Minari id (namespace/name-v0); in {minari.root()}, "
        f"{minari.nearest(str(source))}"
    )
