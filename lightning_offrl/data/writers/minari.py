"""Episodes written as a local Minari dataset, whole or not at all, whatever happens to the process."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lightning_offrl.data.staging import clear, staging
from lightning_offrl.errors import InputError

HALF_WRITTEN = ".converting"
"""How the folders of datasets that are being written begin; Minari passes over names that begin with a dot."""


def dataset_path(dataset_id: str) -> Path:
    """Where Minari keeps this dataset, whether or not it exists.

    Raises:
        InputError: a malformed id. Minari itself finds that out only after writing, and what it leaves behind breaks
            the listing of all other datasets. Or a store that cannot be made.
    """
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage.datasets_root_dir import get_dataset_path

    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as problem:
        raise InputError(
            f"{dataset_id!r} is not a dataset id: it has the form namespace/name-v0 "
            "(letters, digits, - and _; a namespace of at least two characters; a version at the end)"
        ) from problem
    try:
        return Path(get_dataset_path(dataset_id))
    except OSError as problem:
        raise InputError(
            f"{dataset_id} cannot be written: Minari's store {problem.filename} cannot be made ({problem.strerror}); "
            "set MINARI_DATASETS_PATH to a folder"
        ) from problem


def free_path(dataset_id: str, overwrite: bool) -> tuple[Path, list[str]]:
    """Where the dataset will lie, and a sentence on what killed processes had left there, if they had.

    Raises:
        InputError: for a malformed id, or one that exists already, unless it is to be overwritten.
    """
    target = dataset_path(dataset_id)
    removed = clear_half_written(target.parent)
    if target.exists() and not overwrite:
        raise InputError(
            f"a dataset {dataset_id!r} already exists in {target}; choose another id, or overwrite it (--overwrite)"
        )
    return target, removed


def store(
    buffers: Iterator[Any],
    observation_space: Any,
    action_space: Any,
    env_spec: Any,
    dataset_id: str,
    target: Path,
    metadata: Callable[[], dict[str, Any]],
) -> None:
    """Write episodes as a Minari dataset, whole or not at all; one that is there is replaced.

    Args:
        buffers: Minari's ``EpisodeBuffer``, one for each episode; taken one at a time.
        observation_space: Gymnasium space.
        action_space: Gymnasium space.
        env_spec: of the environment, or None.
        dataset_id: ``namespace/name-v0``.
        target: its directory.
        metadata: gives what is to be stored with it; asked when all episodes are written.

    Raises:
        InputError: if the place cannot be written to.
    """
    import minari
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.dataset.minari_storage import MinariStorage
    from minari.namespace import create_namespace, list_local_namespaces

    namespace = parse_dataset_id(dataset_id)[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if namespace is not None and namespace not in list_local_namespaces():
                create_namespace(namespace)
            target.parent.mkdir(parents=True, exist_ok=True)
            with staging(target.parent, HALF_WRITTEN) as folder:
                fresh, aside = folder / "dataset", folder / "replaced"
                fresh.mkdir()
                aside.mkdir()
                storage = MinariStorage.new(
                    fresh / "data",
                    observation_space=observation_space,
                    action_space=action_space,
                    env_spec=env_spec,
                    data_format="hdf5",
                    jpeg_encoding=False,
                )
                storage.update_episodes(buffers)
                storage.update_metadata({"dataset_id": dataset_id, "minari_version": minari.__version__, **metadata()})
                try:
                    if target.exists():
                        target.rename(aside / target.name)
                    fresh.rename(target)
                except BaseException:
                    _put_back(folder)
                    raise
    except OSError as problem:
        raise InputError(
            f"{dataset_id} cannot be written below {target.parent} ({problem.strerror or problem}); set "
            "MINARI_DATASETS_PATH to a folder with room"
        ) from problem


def clear_half_written(parent: Path) -> list[str]:
    """Remove what killed processes of this computer left in a folder; what one was just replacing is put back.

    Returns:
        A sentence on it, if there was anything.
    """
    back: list[str] = []
    gone = clear(parent, HALF_WRITTEN, lambda folder: back.extend(_put_back(folder)))
    if not gone:
        return []
    again = f", and put back what it was replacing: {', '.join(back)}" if back else ""
    return [f"removed what a killed process had left half written in {parent}: {', '.join(gone)}{again}"]


def _put_back(folder: Path) -> list[str]:
    """Give a dataset that was being replaced its name again, where that is free."""
    old = [path for path in (folder / "replaced").glob("*") if not (folder.parent / path.name).exists()]
    for path in old:
        path.rename(folder.parent / path.name)
    return [path.name for path in old]
