"""What a user can get wrong, and the sentence for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from lightning_offrl.data.episodes import EpisodeFilter
from lightning_offrl.data.readers import load
from lightning_offrl.errors import InputError

Change = Callable[[dict[str, Any]], Any]


def put(key: str, index: Any, value: float) -> Change:
    """Change one number of one array."""

    def change(arrays: dict[str, Any]) -> None:
        arrays[key] = arrays[key].copy()
        arrays[key][index] = value

    return change


def use(**values: Any) -> Change:
    """Replace arrays; None removes."""

    def change(arrays: dict[str, Any]) -> None:
        for key, value in values.items():
            arrays.pop(key, None)
            if value is not None:
                arrays[key] = value

    return change


# Six episodes of 20 steps: row 47 is episode 2, step 7.
CASES: dict[str, tuple[Change, str]] = {
    "NaN reward": (put("rewards", 47, np.nan), r"rewards of arrays holds nan at episode 2, step 7 \(row 47\)"),
    "infinite observation": (
        put("observations", (60, 1), np.inf),
        r"observations of arrays holds inf at episode 3, step 0 \(row 60\)",
    ),
    "NaN next observation": (
        put("next_observations", (0, 0), np.nan),
        "next_observations of arrays holds nan at episode 0",
    ),
    "NaN action": (put("actions", (119, 1), np.nan), r"actions of arrays holds nan at episode 5, step 19"),
    "infinite log density": (
        use(behavior_log_prob=np.full(120, -np.inf)),
        "behavior_log_prob of arrays holds -inf at episode 0, step 0 .*120 values that are not finite",
    ),
    "action out of range": (
        put("actions", (47, 1), 1.5),
        r"actions of arrays holds 1.5 in dimension 1 at episode 2, step 7 \(row 47\), outside of the bounds \[-1, 1\]",
    ),
    "action just out of range": (put("actions", (3, 0), -1.001), "holds -1.001 in dimension 0 at episode 0, step 3"),
    "discrete action out of range": (
        use(actions=np.full(120, 3), action_space=spaces.Discrete(3)),
        "actions of arrays holds 3 at episode 0, step 0 .*whole number from 0 to 2",
    ),
    "half a discrete action": (
        use(actions=np.full(120, 0.5), action_space=spaces.Discrete(3)),
        "actions of arrays holds 0.5",
    ),
    "negative discrete action": (use(actions=np.full(120, -1)), "actions of arrays holds -1"),
    "several discrete actions": (use(actions=np.ones((120, 2), dtype=int)), "several discrete actions per step"),
    "MultiDiscrete": (use(action_space=spaces.MultiDiscrete([2, 2])), "action space MultiDiscrete is not supported"),
    "Tuple observations": (
        use(observation_space=spaces.Tuple([spaces.Discrete(2)])),
        "observation space Tuple is not supported",
    ),
    "unbounded actions": (use(action_space=spaces.Box(-np.inf, np.inf, (2,))), "must have finite bounds"),
    "action size of the space": (use(action_space=spaces.Box(-1, 1, (3,))), r"shape \[120, 2\], expected \[120, 3\]"),
    "one-dimensional actions": (use(actions=np.zeros(120)), r"actions of arrays has shape \[120\], expected \[T, A\]"),
    "one-dimensional observations": (
        use(observations=np.zeros(120), next_observations=None),
        r"observations of arrays has shape \[120\], expected \[T, D\]: a single feature is written \[T, 1\]",
    ),
    "observation size of the space": (
        use(observation_space=spaces.Box(-1, 1, (4,))),
        r"observations of arrays has shape \[120, 3\], expected \[120, 4\]",
    ),
    "next observations of another size": (
        use(next_observations=np.zeros((120, 2))),
        r"next_observations of arrays has shape \[120, 2\], expected \[120, 3\]",
    ),
    "state beyond the space": (
        use(observations=np.full(120, 4), next_observations=None, observation_space=spaces.Discrete(4)),
        "observations of arrays holds 4 at episode 0, step 0 .* from 0 to 3",
    ),
    "dictionary without a key": (
        use(
            observations={"a": np.zeros((120, 2))},
            next_observations=None,
            observation_space=spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Box(-1, 1, (2,))),
        ),
        r"observations of arrays must have the keys \['a', 'b'\], got \['a'\]",
    ),
    "dictionary for one array": (
        use(observations={"a": np.zeros((120, 3))}, next_observations=None, observation_space=spaces.Box(-1, 1, (3,))),
        r"observations of arrays has the keys \['a'\], expected one array",
    ),
    "dictionary of actions": (use(actions={"a": np.zeros((120, 2))}), "actions of arrays are a dictionary"),
    "too few actions": (use(actions=np.zeros((119, 2))), "actions of arrays has 119 rows but rewards has 120"),
    "too many timeouts": (use(timeouts=np.zeros(121)), "truncated of arrays has 121 rows but rewards has 120"),
    "a single number": (use(behavior_log_prob=1.0), "behavior_log_prob of arrays has shape"),
    "rewards of two columns": (use(rewards=np.zeros((120, 2))), r"rewards of arrays has shape \[120, 2\]"),
    "flags that are no flags": (
        use(terminals=np.full(120, 2)),
        "terminated of arrays must be true or false .*row 0 holds 2",
    ),
    "ragged episodes": (use(rewards=[[1.0], [1.0, 2.0]]), "rewards must be a rectangular array of numbers, got list"),
    "text": (use(observations=np.array(["a"] * 120)), "observations must be a rectangular array of numbers"),
    "missing key": (
        use(rewards=None, terminals=None),
        "lacks rewards or reward; terminated or terminals or terminations",
    ),
    "misspelt key": (
        use(timeout=np.zeros(120)),
        "the key 'timeout', which means nothing here; did you mean 'timeouts'",
    ),
    "a key twice": (use(truncated=np.zeros(120)), "gives truncated twice"),
    "no sign of borders": (
        use(timeouts=None, next_observations=None),
        "has neither timeouts nor next_observations, so it cannot be seen where episodes end",
    ),
    "nothing left": (
        use(timeouts=np.ones(120), terminals=np.zeros(120), next_observations=None),
        "is empty once the last step of each unfinished episode is dropped",
    ),
    "references the wrong way round": (use(references=(1.0, 0.0)), "low < high, got 1 and 0"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_arrays(arrays: dict[str, Any], case: str) -> None:
    change, expected = CASES[case]
    change(arrays)
    with pytest.raises(InputError, match=expected) as caught:
        load(arrays)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_no_transitions() -> None:
    empty = {key: np.zeros((0, 2)) for key in ("observations", "actions")} | {"rewards": [], "terminals": []}
    with pytest.raises(InputError, match="arrays is empty: it has no transitions"):
        load(empty)
    with pytest.raises(InputError, match="the list of sources is empty"):
        load([])
    with pytest.raises(InputError, match="lacks observations"):
        load({})
    with pytest.raises(InputError, match="a data source is a Minari id, a path, .* got int"):
        load(3)


def test_filters_that_keep_nothing(arrays: dict[str, Any]) -> None:
    episodes = load(arrays)
    with pytest.raises(InputError, match=r"filter \(min_return=1000000.0, min_length=2\) keeps none of the 6 episodes"):
        episodes.filter(EpisodeFilter(min_return=1e6, min_length=2))
    with pytest.raises(InputError, match="the filter asks for episode 6, but arrays has 6 episodes, numbered 0 to 5"):
        episodes.filter(EpisodeFilter(indices=[0, 6]))
    for fraction in (0.0, 1.5):
        with pytest.raises(InputError, match="top_fraction must be in"):
            episodes.filter(EpisodeFilter(top_fraction=fraction))
    with pytest.raises(InputError, match="no episode of arrays was selected"):
        episodes.select([])
    with pytest.raises(InputError, match="arrays has episodes 0 to 5"):
        episodes.select([6])


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, arrays: dict[str, Any]) -> Path:
    path = tmp_path / "hopper-medium.hdf5"
    with h5py.File(path, "w") as out:
        for key, value in arrays.items():
            out[key] = value
    return path


def test_a_missing_file_names_its_neighbors(file: Path) -> None:
    with pytest.raises(InputError, match="there is no file .*hopper-medum.hdf5; .* has hopper-medium.hdf5"):
        load(str(file.with_name("hopper-medum.hdf5")))
    with pytest.raises(InputError, match="there is no file .*nowhere/x.hdf5; .*nowhere holds no dataset"):
        load(file.parent / "nowhere" / "x.hdf5")
    with pytest.raises(InputError, match="is a directory without a Minari dataset"):
        load(file.parent)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file(file: Path, share: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="hopper-medium.hdf5 cannot be read, it seems to be cut short or damaged"):
        load(file)


def test_not_an_hdf5_file(file: Path) -> None:
    for content in (b"", b"observations,actions\n1,2\n"):
        file.write_bytes(content)
        with pytest.raises(InputError, match="hopper-medium.hdf5 is not an HDF5 file"):
            load(file)


def test_another_layout(file: Path) -> None:
    with h5py.File(file, "w") as out:
        out["episode_0/obs"] = np.zeros((3, 2))
    with pytest.raises(InputError, match=r"is not in D4RL's layout: observations, actions, .* it has \['episode_0'\]"):
        load(file)


def test_missing_arrays_in_a_file(file: Path) -> None:
    with h5py.File(file, "a") as out:
        del out["rewards"], out["actions"]
    with pytest.raises(InputError, match="hopper-medium lacks actions or action; rewards or reward"):
        load(file)


def test_a_bad_number_in_a_file(file: Path) -> None:
    with h5py.File(file, "a") as out:
        out["rewards"][47] = np.nan
    with pytest.raises(InputError, match=r"rewards of hopper-medium holds nan at episode 2, step 7"):
        load(file)


def test_a_bad_npz(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match="x.npz cannot be read as an .npz of numeric arrays"):
        load(path)
    np.savez(path, observations=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="x.npz cannot be read as an .npz of numeric arrays"):
        load(path)
