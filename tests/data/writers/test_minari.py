"""Where datasets are written, and that one is there whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer

from lightning_offrl.data.writers.minari import HALF_WRITTEN, dataset_path, free_path, store
from lightning_offrl.errors import InputError

BOX = spaces.Box(-1.0, 1.0, (1,), np.float32)


def buffers(rewards: list[float], fail: bool = False) -> Any:
    for i, reward in enumerate(rewards):
        yield EpisodeBuffer(
            id=i,
            observations=np.zeros((3, 1), np.float32),
            actions=np.zeros((2, 1), np.float32),
            rewards=np.array([0.0, reward]),
            terminations=np.array([False, True]),
            truncations=np.zeros(2, bool),
        )
    if fail:
        raise KeyboardInterrupt


def write(name: str, rewards: list[float], **settings: Any) -> Path:
    target, _ = free_path(name, overwrite=True)
    store(buffers(rewards, **settings), BOX, BOX, None, name, target, lambda: {"algorithm_name": "test"})
    return target


def stored(name: str) -> list[float]:
    return [float(episode.rewards[-1]) for episode in minari.load_dataset(name)]


def test_a_dataset_is_written_and_replaced() -> None:
    target = write("test/walk-v0", [1.0, 2.0])
    assert target == dataset_path("test/walk-v0") and stored("test/walk-v0") == [1.0, 2.0]
    write("test/walk-v0", [3.0])
    assert stored("test/walk-v0") == [3.0]
    with pytest.raises(InputError, match="'test/walk-v0' already exists in .*overwrite"):
        free_path("test/walk-v0", overwrite=False)


def test_an_interruption_leaves_what_was_there() -> None:
    target = write("test/walk-v0", [1.0])
    with pytest.raises(KeyboardInterrupt):
        write("test/walk-v0", [2.0], fail=True)
    with pytest.raises(KeyboardInterrupt):
        write("test/new-v0", [2.0], fail=True)
    assert stored("test/walk-v0") == [1.0]
    assert [path.name for path in target.parent.iterdir() if path.is_dir()] == ["walk-v0"]


def test_a_rename_that_fails_puts_the_old_dataset_back(monkeypatch: pytest.MonkeyPatch) -> None:
    target = write("test/walk-v0", [1.0])
    rename = Path.rename

    def refuse(path: Path, other: Path) -> Path:
        if path.name == "dataset":
            raise OSError(28, "No space left on device")
        return rename(path, other)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(InputError, match="cannot be written below .*No space left"):
        write("test/walk-v0", [2.0])
    assert stored("test/walk-v0") == [1.0] and not list(target.parent.glob(f"{HALF_WRITTEN}*"))


@pytest.mark.parametrize("name", ["x/name-v0", "name", "test/name", "test/na me-v0", "", "../up-v0"])
def test_what_is_no_id(name: str) -> None:
    with pytest.raises(InputError, match="is not a dataset id"):
        dataset_path(name)
