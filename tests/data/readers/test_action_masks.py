"""Masks of legal actions from every kind of source to the columns, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer

from lightning_offrl.batch import IMITATION, TRANSITION, check
from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers import load
from lightning_offrl.data.writers.convert import convert
from lightning_offrl.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.* set to None", "ignore:env_spec is None")
LENGTHS = (4, 3, 5)  # terminal, cut, terminal
ROWS, N = sum(LENGTHS), 4


def log(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Masks numbered so that each row's is known: row t allows its action and action t % 4."""
    rng = np.random.default_rng(seed)
    actions = rng.integers(N, size=ROWS)
    last = np.cumsum(LENGTHS) - 1
    mask = np.zeros((ROWS, N), dtype=bool)
    mask[np.arange(ROWS), np.arange(ROWS) % N] = True
    mask[np.arange(ROWS), actions] = True
    following = np.roll(mask, -1, 0)
    following[last[[0, 2]]] = False  # nothing is legal after the end
    following[last[1]] = [False, False, True, True]
    observations = np.arange(ROWS, dtype=np.float32)[:, None] + np.repeat(np.arange(3) * 10, LENGTHS)[:, None]
    terminals, timeouts = np.zeros(ROWS, bool), np.zeros(ROWS, bool)
    terminals[last[[0, 2]]], timeouts[last[1]] = True, True
    arrays = {
        "observations": observations,
        "next_observations": observations + 1,
        "actions": actions,
        "rewards": np.arange(ROWS, dtype=np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
        "action_mask": mask,
        "next_action_mask": following,
    }
    return {key: value for key, value in {**arrays, **changes}.items() if value is not None}


def same_masks(episodes: Episodes, arrays: dict[str, Any]) -> None:
    assert episodes.data["action_mask"].dtype == torch.bool
    assert episodes.data["action_mask"].numpy().tolist() == np.asarray(arrays["action_mask"]).tolist()
    assert episodes.data["next", "action_mask"].numpy().tolist() == np.asarray(arrays["next_action_mask"]).tolist()


@pytest.mark.parametrize("kind", [bool, np.int8, np.float32])
def test_arrays(kind: type) -> None:
    arrays = log()
    given = {**arrays, **{key: arrays[key].astype(kind) for key in ("action_mask", "next_action_mask")}}
    episodes = load(given)
    same_masks(episodes, arrays)
    assert episodes.spec["action_size"] == N and episodes.notes == []
    assert episodes.length.tolist() == list(LENGTHS)
    check(OfflineDataModule(episodes).columns(TRANSITION), episodes.spec)


def test_without_next_masks_those_of_the_next_rows_are_taken_and_the_cut_step_goes() -> None:
    """Rows 4, 5, 6 are the cut episode: what was legal after row 6 is not known, so it ends after row 5."""
    arrays = log(next_action_mask=None)
    episodes = load(arrays)
    assert episodes.length.tolist() == [4, 2, 5]
    kept = [t for t in range(ROWS) if t != 6]
    assert episodes.data["action_mask"].tolist() == arrays["action_mask"][kept].tolist()
    after = episodes.data["next", "action_mask"]
    for row, t in enumerate(kept):
        if not episodes.data["next", "terminated"][row]:
            assert after[row].tolist() == arrays["action_mask"][t + 1].tolist()
    assert episodes.data["next", "truncated"].nonzero().flatten().tolist() == [5]
    assert (
        episodes.data["next", "observation"].flatten().tolist() == arrays["next_observations"][kept].flatten().tolist()
    )
    assert "because next_action_mask is not stored" in episodes.notes[0]


def test_the_mask_tells_the_number_of_actions() -> None:
    arrays = log()
    arrays["action_mask"][:, 0] = True
    episodes = load({**arrays, "actions": np.zeros(ROWS, dtype=int)})
    assert episodes.spec["action_size"] == N and episodes.notes == []


def test_dictionary_observations_hold_a_mask() -> None:
    """It leaves the observation; one whose size is not the number of actions stays a feature."""
    arrays = log()
    inside = {
        "observations": {"x": arrays["observations"], "action_mask": arrays["action_mask"].astype(np.int8)},
        "next_observations": {"x": arrays["next_observations"], "action_mask": arrays["next_action_mask"]},
    }
    rest = {key: arrays[key] for key in ("actions", "rewards", "terminals", "timeouts")}
    episodes = load({**rest, **inside})
    same_masks(episodes, arrays)
    assert episodes.spec["observation_shape"] == {"x": [1]} and list(episodes.data["observation"].keys()) == ["x"]
    space = spaces.Dict({"x": spaces.Box(-99, 99, (1,)), "action_mask": spaces.Box(0, 1, (N,), np.int8)})
    feature = load({**rest, **inside, "observation_space": space, "action_space": spaces.Discrete(N + 1)})
    assert "action_mask" not in feature.data.keys()
    assert feature.spec["observation_shape"] == {"action_mask": [N], "x": [1]}


def test_an_hdf5_file_and_its_cache(tmp_path: Path) -> None:
    arrays = log()
    for name, prefix in (("plain", ""), ("infos", "infos/")):
        with h5py.File(tmp_path / f"{name}.hdf5", "w") as file:
            for key, value in arrays.items():
                file[(prefix if "mask" in key else "") + key] = value
        first, second = (load(tmp_path / f"{name}.hdf5", cache_dir=tmp_path / "cache") for _ in range(2))
        for episodes in (first, second):
            same_masks(episodes, arrays)
        assert second.fingerprint == first.fingerprint == load(arrays).fingerprint
    assert load(arrays).fingerprint != load(log(action_mask=None, next_action_mask=None)).fingerprint


def test_an_npz_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "log.npz", **log())
    same_masks(load(tmp_path / "log.npz", cache_dir=tmp_path), log())


def minari_dataset(name: str, infos: list[dict[str, Any]], observations: list[Any], space: Any) -> None:
    arrays, first, buffers = log(), 0, []
    for i, length in enumerate(LENGTHS):
        rows = slice(first, first + length)
        buffers.append(
            EpisodeBuffer(
                id=i,
                observations=observations[i],
                actions=arrays["actions"][rows],
                rewards=arrays["rewards"][rows],
                terminations=arrays["terminals"][rows],
                truncations=arrays["timeouts"][rows],
                infos=infos[i],
            )
        )
        first += length
    minari.create_dataset_from_buffers(
        name, buffers, observation_space=space, action_space=spaces.Discrete(N), data_format="hdf5"
    )


def of_episodes(value: np.ndarray, following: np.ndarray) -> list[np.ndarray]:
    """T + 1 values of every episode."""
    ends = np.cumsum(LENGTHS)
    return [np.concatenate([value[e - t : e], following[e - 1 : e]]) for e, t in zip(ends, LENGTHS, strict=True)]


BOX = spaces.Box(-99, 99, (1,), np.float32)


@pytest.fixture
def stored() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Observations and masks of all episodes, T + 1 of each."""
    arrays = log()
    return (
        of_episodes(arrays["observations"], arrays["next_observations"]),
        of_episodes(arrays["action_mask"].astype(np.int8), arrays["next_action_mask"].astype(np.int8)),
    )


def test_minari_infos_with_that_of_the_reset(stored: Any) -> None:
    observations, masks = stored
    minari_dataset("masks/reset-v0", [{"action_mask": mask} for mask in masks], observations, BOX)
    same_masks(load("masks/reset-v0"), log())


def test_minari_infos_of_the_steps_alone(stored: Any) -> None:
    """Each is that of the observation acted on, as in flat files: the last step of the cut episode goes."""
    observations, masks = stored
    minari_dataset("masks/steps-v0", [{"action_mask": mask[:-1]} for mask in masks], observations, BOX)
    got, want = load("masks/steps-v0"), load(log(next_action_mask=None))
    assert got.length.tolist() == [4, 2, 5] and got.fingerprint == want.fingerprint


def test_minari_masks_of_some_episodes(stored: Any) -> None:
    observations, masks = stored
    infos: list[dict[str, Any]] = [{}, {"action_mask": masks[1]}, {}]
    minari_dataset("masks/some-v0", infos, observations, BOX)
    episodes = load("masks/some-v0")
    assert episodes.data["action_mask"].sum(1).tolist()[:4] == [N] * 4
    assert episodes.data["action_mask"][4:7].tolist() == log()["action_mask"][4:7].tolist()
    assert any("in 1 of 3 episodes only: all actions of the others are taken as legal" in n for n in episodes.notes)


def test_minari_dictionary_observations(stored: Any) -> None:
    observations, masks = stored
    space = spaces.Dict({"x": BOX, "action_mask": spaces.Box(0, 1, (N,), np.int8)})
    inside = [{"x": o, "action_mask": m} for o, m in zip(observations, masks, strict=True)]
    minari_dataset("masks/dict-v0", [{}] * 3, inside, space)
    episodes = load("masks/dict-v0")
    same_masks(episodes, log())
    assert episodes.spec["observation_shape"] == {"x": [1]}


def test_minari_masks_of_a_wrong_length(stored: Any) -> None:
    observations, masks = stored
    infos = [{"action_mask": mask[: 2 if i == 1 else None]} for i, mask in enumerate(masks)]
    minari_dataset("masks/short-v0", infos, observations, BOX)
    with pytest.raises(InputError, match="episode 1 of masks/short-v0 has 3 rewards but 2 action_mask"):
        load("masks/short-v0")


def test_there_and_back() -> None:
    episodes = load(log())
    convert(episodes, "masks/converted-v0")
    assert load("masks/converted-v0").fingerprint == episodes.fingerprint


def test_selected_and_joined_episodes_keep_their_masks() -> None:
    one, plain = load(log()), load({**log(1, action_mask=None, next_action_mask=None), "name": "free"})
    assert one.select([2]).data["action_mask"].tolist() == log()["action_mask"][7:].tolist()
    joined = Episodes.join([one, plain])
    assert torch.equal(joined.data["action_mask"][:ROWS], one.data["action_mask"])
    assert joined.data["action_mask"][ROWS:].all() and joined.data["next", "action_mask"][ROWS:].all()
    assert "free has no action masks: all of its actions are taken as legal" in joined.notes


def test_columns_of_several_steps_bring_the_mask_to_bootstrap_with() -> None:
    """Three steps on, or at the end of the episode; who reads no next observation gets no next mask."""
    arrays = log()
    columns = OfflineDataModule(arrays, n_step=3).columns(TRANSITION)
    ends = np.repeat(np.cumsum(LENGTHS) - 1, LENGTHS)
    last = np.minimum(np.arange(ROWS) + 2, ends)
    assert columns["next", "action_mask"].tolist() == arrays["next_action_mask"][last].tolist()
    assert columns["action_mask"].tolist() == arrays["action_mask"].tolist()
    assert set(OfflineDataModule(arrays).columns(IMITATION).keys(True, True)) == {
        "observation",
        "action",
        "action_mask",
    }
    assert (
        "action_mask" not in OfflineDataModule(log(action_mask=None, next_action_mask=None)).columns(TRANSITION).keys()
    )


def spoilt(key: str, index: Any, value: Any) -> dict[str, Any]:
    arrays = log()
    arrays[key][index] = value
    return arrays


FLOATS = {"actions": np.zeros((ROWS, 2), dtype=np.float32)}


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (log(action_mask=None), "has next_action_mask but no action_mask"),
        (log(**FLOATS), "its actions are continuous; masks are for Discrete actions"),
        (log(action_mask=np.ones((ROWS, 3))), r"action_mask of arrays has shape \[12, 3\], expected \[12, 4\]"),
        (log(action_mask=np.ones((5, N))), "action_mask of arrays has 5 rows but rewards has 12"),
        (
            log(action_mask=np.full((ROWS, N), 0.5)),
            "must be true or false .* holds 0.5 for action 0 at episode 0, step 0",
        ),
        (spoilt("action_mask", 5, False), "takes action . at episode 1, step 1 .row 5., which its action_mask forbids"),
        (spoilt("next_action_mask", 5, False), "allows no action after episode 1, step 1 .row 5., but .* not terminal"),
        (log(action_mask="all"), "action_mask must be a rectangular array of numbers"),
    ],
)
def test_what_is_refused(arrays: dict[str, Any], said: str) -> None:
    known = {"action_space": spaces.Discrete(N)} if np.ndim(arrays["actions"]) == 1 else {}
    with pytest.raises(InputError, match=said):
        load({**known, **arrays})


def test_a_mask_that_does_not_fit_is_noticed_before_training() -> None:
    columns = OfflineDataModule(log()).columns(TRANSITION).clone()
    spec = load(log()).spec
    check(columns, spec)
    with pytest.raises(InputError, match=r"next.action_mask is torch.int64 of shape \[12, 4\], expected bool"):
        check(columns.clone().set(("next", "action_mask"), columns["next", "action_mask"].long()), spec)
    with pytest.raises(
        InputError, match=r"action_mask is torch.bool of shape \[12, 3\], expected bool of shape \[12, 4\]"
    ):
        check(columns.clone().set("action_mask", columns["action_mask"][:, :3]), spec)
