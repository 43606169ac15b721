"""Episodes written as a local Minari dataset, whole or not at all, whatever happens to the process."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lightning_offrl.data.writers.staging import clear, staging
from lightning_offrl.errors import InputError

HALF_WRITTEN = ".converting"
"""How the folders of datasets that are being written begin; Minari passes over names that begin with a dot."""


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
    return [f"removed what a killed import or convert had left half written in {parent}: {', '.join(gone)}{again}"]


def _put_back(folder: Path) -> list[str]:
    """Give a dataset that was being replaced its name again, where that is free."""
    old = [path for path in (folder / "replaced").glob("*") if not (folder.parent / path.name).exists()]
    for path in old:
        path.rename(folder.parent / path.name)
    return [path.name for path in old]
