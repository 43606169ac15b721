"""Files in D4RL's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from lightning_offrl.data.readers import load


@pytest.fixture
def file(tmp_path: Path, arrays: dict[str, Any]) -> Path:
    path = tmp_path / "walk-medium-v2.hdf5"
    with h5py.File(path, "w") as out:
        for key, value in arrays.items():
            out[key] = value
        out["infos/action_log_probs"] = np.linspace(-2, 0, 120, dtype=np.float32)
        out["infos/qpos"] = np.zeros((120, 5))
        out["metadata/env_id"] = "Vanished-v0"
        out["metadata/ref_min_score"], out["metadata/ref_max_score"] = -20.0, 3000.0
        out["metadata/algorithm"] = "SAC"
    return path


def test_a_file_and_its_arrays_are_the_same(file: Path, arrays: dict[str, Any]) -> None:
    episodes = load(file)
    logged = load({**arrays, "behavior_log_prob": np.linspace(-2, 0, 120, dtype=np.float32)})
    assert episodes.fingerprint == logged.fingerprint
    assert episodes.name == "walk-medium-v2" and episodes.environment == "Vanished-v0"
    assert episodes.references == (-20.0, 3000.0) and episodes.notes == []
    assert load(str(file)).fingerprint == episodes.fingerprint


def test_the_bare_minimum(file: Path) -> None:
    """As D4RL's own files: no next observations, no metadata, no log densities."""
    with h5py.File(file, "a") as out:
        for key in ("infos", "metadata", "next_observations"):
            del out[key]
    episodes = load(file)
    # The three truncated episodes lose their last step.
    assert episodes.length.tolist() == [19, 20] * 3
    assert (episodes.environment, episodes.references) == (None, None)
    assert int(episodes.data["next", "truncated"].sum()) == int(episodes.data["next", "terminated"].sum()) == 3
    whole = load(file, use_cache=False)
    assert whole.fingerprint == episodes.fingerprint


def test_missing_timeouts_are_found(file: Path) -> None:
    whole = load(file)
    with h5py.File(file, "a") as out:
        del out["timeouts"]
    found = load(file)
    assert found.fingerprint == whole.fingerprint and "timeouts are not stored" in found.notes[0]


def test_log_densities_that_are_not_finite_are_left_out(file: Path) -> None:
    with h5py.File(file, "a") as out:
        out["infos/action_log_probs"][5] = np.inf
    episodes = load(file)
    assert "behavior_log_prob" not in episodes.data.keys()
    assert "infos/action_log_probs holds 1 values" in episodes.notes[0]


def test_groups_are_dictionaries(file: Path, arrays: dict[str, Any]) -> None:
    with h5py.File(file, "a") as out:
        for key in ("observations", "next_observations"):
            del out[key]
            out[f"{key}/state/position"] = arrays[key][:, :1]
            out[f"{key}/state/speed"] = arrays[key][:, 1:]
    episodes = load(file)
    assert episodes.spec["observation_shape"] == {"state": {"position": [1], "speed": [2]}}
    torch.testing.assert_close(
        episodes.data["observation", "state", "speed"], torch.as_tensor(arrays["observations"][:, 1:])
    )


def test_several_files_are_joined(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "more.hdf5"
    other.write_bytes(file.read_bytes())
    joined = load([file, str(other)])
    assert joined.name == "walk-medium-v2 + more" and joined.n_episodes == 12 and joined.references == (-20.0, 3000.0)
