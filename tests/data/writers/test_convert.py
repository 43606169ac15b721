"""Minari datasets: written from files and arrays, read back as the same episodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers import load
from lightning_offrl.data.readers import minari as source
from lightning_offrl.data.writers.convert import convert
from lightning_offrl.errors import InputError
from lightning_offrl.ope.weighting.groups import elapsed_of, labels_of


def same(one: Episodes, other: Episodes) -> None:
    assert one.spec == other.spec
    assert torch.equal(one.length, other.length)
    assert (one.data == other.data).all()
    assert one.fingerprint == other.fingerprint


def test_arrays_there_and_back(arrays: dict[str, Any], tmp_path: Path) -> None:
    logged = {**arrays, "behavior_log_prob": np.linspace(-3, 1, 120), "references": (-1.0, 2.0)}
    done = convert(logged, "test/walk-v0")
    assert (done.dataset_id, done.episodes, done.transitions) == ("test/walk-v0", 6, 120)
    assert done.path == tmp_path / "minari" / "test" / "walk-v0" and "120 transitions" in str(done)
    episodes = load("test/walk-v0")
    same(episodes, load(logged))
    assert episodes.name == "test/walk-v0" and episodes.references == (-1.0, 2.0) and episodes.environment is None
    same(load(done.path), episodes)
    assert [path.name for path in done.path.parent.iterdir() if path.is_dir()] == ["walk-v0"]


@pytest.mark.parametrize("seed", range(3))
def test_any_bounds_come_back_bit_for_bit(make_arrays: Callable[..., Any], seed: int) -> None:
    space = spaces.Box(np.array([-0.3, 0.0]), np.array([0.1, 7.7]), dtype=np.float64)
    arrays = make_arrays(seed=seed)
    rng = np.random.default_rng(seed)
    arrays["actions"] = rng.uniform(space.low, space.high, (120, 2))
    logged = {**arrays, "action_space": space, "behavior_log_prob": rng.normal(size=120)}
    convert(logged, "test/bounds-v0")
    same(load("test/bounds-v0"), load(logged))


def test_discrete_actions_and_observations(make_arrays: Callable[..., Any]) -> None:
    arrays = make_arrays(episodes=2, length=3)
    states = np.array([[0, 1, 2, 3], [1, 1, 0, 2]])
    arrays["observations"], arrays["next_observations"] = states[:, :-1].ravel(), states[:, 1:].ravel()
    arrays["actions"] = np.array([0, 1, 1, 2, 0, 1])
    arrays |= {"observation_space": spaces.Discrete(4), "action_space": spaces.Discrete(3)}
    convert(arrays, "test/grid-v0")
    same(load("test/grid-v0"), load(arrays))


def test_dictionaries_with_pictures(make_arrays: Callable[..., Any]) -> None:
    arrays, rng = make_arrays(episodes=2, length=3), np.random.default_rng(0)
    camera = rng.integers(0, 256, (2, 4, 8, 8, 3), dtype=np.uint8)
    state = rng.normal(size=(2, 4, 2))
    for key, rows in (("observations", slice(0, 3)), ("next_observations", slice(1, 4))):
        arrays[key] = {
            "camera": camera[:, rows].reshape(6, 8, 8, 3),
            "robot": {"state": state[:, rows].reshape(6, 2)},
        }
    convert(arrays, "test/pictures-v0")
    episodes = load("test/pictures-v0")
    same(episodes, load(arrays))
    assert episodes.data["observation", "camera"].dtype == torch.uint8
    same(load("test/pictures-v0"), episodes)


def test_files(arrays: dict[str, Any], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "walk.hdf5", "w") as file:
        for key, value in arrays.items():
            file[key] = value
    np.savez(tmp_path / "walk.npz", **arrays)
    for name in ("walk.hdf5", "walk.npz"):
        convert(str(tmp_path / name), "test/file-v0", overwrite=True)
        same(load("test/file-v0"), load(arrays))
        same(load(tmp_path / name), load(arrays))


def test_the_environment_gives_the_bounds(arrays: dict[str, Any], tmp_path: Path) -> None:
    arrays["actions"] = 2.0 * arrays["actions"][:, :1]
    np.savez(tmp_path / "swing.npz", **arrays)
    convert(tmp_path / "swing.npz", "test/swing-v0", environment="Pendulum-v1")
    episodes = load("test/swing-v0")
    assert episodes.environment == "Pendulum-v1" and episodes.spec["action_high"] == [2.0]
    torch.testing.assert_close(episodes.data["action"], torch.as_tensor(arrays["actions"] / 2))
    import minari

    assert minari.load_dataset("test/swing-v0").recover_environment().spec.id == "Pendulum-v1"
    assert list(minari.list_local_datasets()) == ["test/swing-v0"]


def test_an_environment_that_cannot_be_made_is_left_out_with_a_note(arrays: dict[str, Any]) -> None:
    done = convert({**arrays, "environment": "Vanished-v0"}, "test/walk-v0")
    assert "the environment was left out" in done.notes[-1]
    assert load("test/walk-v0").environment is None


def test_bad_targets(arrays: dict[str, Any], tmp_path: Path) -> None:
    for bad in ("walk", "a/walk-v0", "test/walk", "test/wa lk-v0"):
        with pytest.raises(InputError, match="is not a dataset id"):
            convert(arrays, bad)
    convert(arrays, "test/walk-v0")
    with pytest.raises(InputError, match="'test/walk-v0' already exists"):
        convert(arrays, "test/walk-v0")
    convert({**arrays, "rewards": arrays["rewards"] * 2}, "test/walk-v0", overwrite=True)
    torch.testing.assert_close(load("test/walk-v0").returns(), 2 * load(arrays).returns())
    with pytest.raises(InputError, match="did you mean|nearest|no environment|unknown"):
        convert(arrays, "test/other-v0", environment="Pendulun-v1")
    with pytest.raises(InputError, match="Pendulum-v1 does not fit the data: its actions are box of size 1"):
        convert(arrays, "test/other-v0", environment="Pendulum-v1")
    with pytest.raises(InputError, match="action bounds"):
        convert(load({**arrays, "actions": arrays["actions"][:, :1]}), "test/other-v0", environment="Pendulum-v1")
    assert source.local_ids() == ["test/walk-v0"]


def test_a_failed_write_leaves_the_old_dataset(arrays: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from minari.dataset.minari_storage import MinariStorage

    convert(arrays, "test/walk-v0")
    before = load("test/walk-v0").fingerprint

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MinariStorage, "update_metadata", full)
    with pytest.raises(InputError, match="No space left on device"):
        convert({**arrays, "rewards": arrays["rewards"] * 2}, "test/walk-v0", overwrite=True)
    assert load("test/walk-v0").fingerprint == before


def test_steps_that_do_not_follow_each_other_cannot_be_stored(arrays: dict[str, Any]) -> None:
    episodes = load(arrays)
    episodes.data["next", "observation"][24] += 1
    with pytest.raises(
        InputError, match="next observation of episode 1, step 4 is not the observation of the following"
    ):
        convert(episodes, "test/walk-v0")


# -- what is kept, and what is said of the rest ------------------------------------------------------------------------


def logged(path: Path) -> str:
    """An imported log with all that an imported log can have."""
    from lightning_offrl.data.logs.import_logs import import_logs
    from tests.data.logs.log_files import table

    rng = np.random.default_rng(0)
    log = []
    for e in range(5):
        for t in range(6):
            arm = ["none", "half", "full"][rng.integers(3)]
            ward, age = ("north", 61) if e % 2 else ("", 40 + e)
            mask = ";".join(sorted({arm, "none"}))
            end = int(t == 5 and e % 2)
            log.append([e, 0.5 * t, rng.normal(), rng.choice(["x", "y"]), arm, 0.5, t, end, mask, ward, age])
    settings = {
        "episode": "e",
        "time": {"column": "t", "unit": "h"},
        "observation": [{"column": "o", "unit": "mmol/l"}, {"column": "kind", "categories": ["x", "y"]}],
        "action": {"column": "arm", "categories": ["none", "half", "full"]},
        "action_mask": "legal",
        "reward": {"column": "r", "unit": "points"},
        "propensity": "p",
        "terminated": "end",
        "groups": ["ward", "age"],
        "references": [0, 20],
    }
    path = table(path / "log.csv", "e t o kind arm p r end legal ward age", log)
    return import_logs(path, settings, "test/log-v0").dataset_id


def test_all_of_an_imported_log_is_kept(tmp_path: Path) -> None:
    """Times, groups (missing ones too), masks, probabilities, names and units: from an id, a path, memory, a part."""
    name = logged(tmp_path)
    first = load(name)
    keys = {"observation", "action", "next", "behavior_log_prob", "action_mask", "log"}
    assert set(first.data.keys()) == keys and bool(first.data["log"].isnan().any())
    for given in (name, tmp_path / "minari" / "test" / "log-v0", first):
        done = convert(given, "test/copy-v0", overwrite=True)
        copy = load("test/copy-v0")
        assert copy.fingerprint == first.fingerprint and copy.spec == first.spec
        assert set(copy.data.keys(True, True)) == set(first.data.keys(True, True))
        assert copy.columns == first.columns and copy.references == first.references == (0.0, 20.0)
        assert not any("left out" in note for note in done.notes)
        assert labels_of(copy, "ward") == labels_of(first, "ward") == ["missing", "north"] * 2 + ["missing"]
        assert elapsed_of(copy, "t", "h")[:6].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 0.0]
    convert(first.select([3, 0]), "test/part-v0")
    part = load("test/part-v0")
    assert part.fingerprint == first.select([3, 0]).fingerprint and part.columns == first.columns


def test_what_files_hold_beside_is_named(arrays: dict[str, Any], tmp_path: Path) -> None:
    beside = {"infos/qpos": np.zeros(120), "infos/goal": np.ones(120)}
    full = {**arrays, "infos/action_log_probs": np.linspace(-3, 1, 120), **beside}
    with h5py.File(tmp_path / "walk.hdf5", "w") as file:
        for key, value in {**full, "metadata/policy/weights": np.zeros(3)}.items():
            file[key] = value
    np.savez(tmp_path / "walk.npz", **full)
    infos = {key.removeprefix("infos/"): value[:2] for key, value in beside.items()}
    write("test/beside-v0", [buffer(2, terminated=True, infos=infos)], **BOXES)
    named = "left out of the new dataset: infos/goal, infos/qpos"
    for source_, said in (
        (tmp_path / "walk.hdf5", f"{named}, metadata/policy/weights"),
        (tmp_path / "walk.npz", named),
        ("test/beside-v0", named),
        (full, named),
    ):
        done = convert(source_, "test/file-v0", overwrite=True)
        assert [note for note in done.notes if "left out" in note] == [said] and said in str(done)
        if source_ != "test/beside-v0":
            same(load("test/file-v0"), load(full))


def test_columns_without_a_place_are_named(arrays: dict[str, Any]) -> None:
    episodes = load({**arrays, "behavior_log_prob": np.zeros(120)})
    episodes.data["timestep"] = torch.zeros(120, dtype=torch.int64)
    episodes.data["log"] = torch.zeros(120, 1, dtype=torch.float64)
    episodes.data["next", "action"] = episodes.data["action"].clone()
    episodes.data["behavior_log_prob"][7] = -torch.inf
    done = convert(episodes, "test/walk-v0")
    assert done.notes[-1] == (
        "left out of the new dataset: next.action, timestep, behavior_log_prob (not all of its numbers are finite), "
        "log (its columns have no names)"
    )
    same(load("test/walk-v0"), load(arrays))


def test_bounds_that_float32_does_not_hold_are_kept(arrays: dict[str, Any]) -> None:
    """Actions at the bounds survive float32; 0.1 itself does not."""
    space = spaces.Box(np.array([-0.1, -0.1]), np.array([0.1, 0.1]), dtype=np.float64)
    given = {**arrays, "actions": 0.1 * np.sign(arrays["actions"]), "action_space": space}
    convert(given, "test/bounds-v0")
    assert load("test/bounds-v0").spec["action_high"] == [0.1, 0.1]
    same(load("test/bounds-v0"), load(given))


def test_masks_that_do_not_follow_each_other_cannot_be_stored(arrays: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    mask = np.append(rng.random((120, 3)) < 0.5, np.zeros((120, 1), bool), 1)
    actions = rng.integers(3, size=120)
    mask[np.arange(120), actions] = True
    after = np.roll(mask, -1, 0)
    after[19::20, 0] = True  # of what came after an episode nothing else is known
    given = {**arrays, "actions": actions, "action_space": spaces.Discrete(4), "action_mask": mask}
    convert({**given, "next_action_mask": after}, "test/masks-v0")
    same(load("test/masks-v0"), load({**given, "next_action_mask": after}))
    after[24, 3] = True
    with pytest.raises(InputError, match="next action mask of episode 1, step 4 is not the action mask of the follow"):
        convert({**given, "next_action_mask": after}, "test/other-v0")


def test_rounded_observations_are_said(arrays: dict[str, Any]) -> None:
    before, episodes = load(arrays).fingerprint, load(arrays)
    episodes.data["next", "observation"][24] *= 1 + 2e-7
    done = convert(episodes, "test/walk-v0")
    assert "1 next observation that differed from the following step's by rounding (less than 1e-06)" in done.notes[-1]
    assert load("test/walk-v0").fingerprint == before


# -- what Minari's own writers may leave -------------------------------------------------------------------------------


def write(dataset_id: str, buffers: list[Any], **spaces_: Any) -> None:
    import warnings

    import minari

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(dataset_id, buffers, **spaces_)


def buffer(steps: int, *, terminated: bool = False, truncated: bool = False, **changes: Any) -> Any:
    from minari.data_collector.episode_buffer import EpisodeBuffer

    ends = np.arange(steps) == steps - 1
    fields = {
        "observations": np.arange(steps + 1, dtype=np.float64)[:, None],
        "actions": np.zeros((steps, 1)),
        "rewards": np.ones(steps),
        "terminations": ends & terminated,
        "truncations": ends & truncated,
        "infos": {},
    }
    return EpisodeBuffer(**{**fields, **changes})


BOXES = {"observation_space": spaces.Box(-np.inf, np.inf, (1,)), "action_space": spaces.Box(-1, 1, (1,))}


def test_minari_episodes_keep_their_last_observation() -> None:
    write("test/ends-v0", [buffer(3, terminated=True), buffer(2, truncated=True), buffer(2)], **BOXES)
    episodes = load("test/ends-v0")
    assert episodes.length.tolist() == [3, 2, 2]
    assert episodes.data["next", "observation"].squeeze(-1).tolist() == [1, 2, 3, 1, 2, 1, 2]
    assert episodes.data["next", "terminated"].nonzero().squeeze(-1).tolist() == [2]
    assert episodes.data["next", "truncated"].nonzero().squeeze(-1).tolist() == [4, 6]
    assert len(episodes.notes) == 1 and "1 episode ended with neither flag: kept as truncated" in episodes.notes[0]


def test_minari_log_probs_with_the_resets_info() -> None:
    infos = {"behavior_log_prob": np.array([99.0, -1.0, -2.0])}
    write("test/infos-v0", [buffer(2, terminated=True, infos=infos)], **BOXES)
    assert load("test/infos-v0").data["behavior_log_prob"].tolist() == [-1.0, -2.0]


def test_minari_log_probs_of_some_episodes_are_left_out() -> None:
    infos = {"behavior_log_prob": np.array([-1.0, -2.0])}
    write("test/infos-v0", [buffer(2, terminated=True, infos=infos), buffer(2, terminated=True)], **BOXES)
    episodes = load("test/infos-v0")
    assert "behavior_log_prob" not in episodes.data.keys()
    assert "1 of 2 episodes only" in episodes.notes[-1]


def test_minari_log_probs_that_are_not_finite_are_left_out() -> None:
    infos = {"behavior_log_prob": np.array([-1.0, -np.inf])}
    write("test/odd-v0", [buffer(2, terminated=True, infos=infos)], **BOXES)
    episodes = load("test/odd-v0")
    assert episodes.length.tolist() == [2] and "behavior_log_prob" not in episodes.data.keys()
    assert "behavior_log_prob holds 1 values that are not finite" in episodes.notes[0]


def test_an_empty_minari_dataset() -> None:
    write("test/none-v0", [], **BOXES)
    with pytest.raises(InputError, match="test/none-v0 is empty: it has no transitions"):
        load("test/none-v0")


def test_a_flag_inside_a_minari_episode() -> None:
    inside = np.array([False, True, False])
    write("test/inside-v0", [buffer(3, terminated=True), buffer(3, truncated=True, terminations=inside)], **BOXES)
    with pytest.raises(InputError, match=r"terminated or truncated at episode 1, step 1 \(row 4\), before the last"):
        load("test/inside-v0")


def test_minari_lengths_that_differ() -> None:
    write("test/short-v0", [buffer(3, terminated=True, observations=np.zeros((3, 1)))], **BOXES)
    with pytest.raises(InputError, match="episode 0 of test/short-v0 has 3 rewards but 3 observations, expected 4"):
        load("test/short-v0")


def test_minari_spaces_that_are_not_supported() -> None:
    many = {**BOXES, "action_space": spaces.MultiDiscrete([2, 3])}
    write("test/many-v0", [buffer(2, terminated=True, actions=np.zeros((2, 2), dtype=np.int64))], **many)
    with pytest.raises(InputError, match="action space MultiDiscrete is not supported"):
        load("test/many-v0")


def test_an_environment_with_arguments_is_kept_whole() -> None:
    import gymnasium

    from lightning_offrl.envs.make import make_environment

    env = gymnasium.make("Pendulum-v1", g=5.0)
    write("test/light-v0", [buffer(2, terminated=True)], env=env, **BOXES)
    environment = load("test/light-v0").environment
    assert environment is not None
    assert make_environment(environment).unwrapped.g == 5.0
