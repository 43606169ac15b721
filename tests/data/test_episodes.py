"""Selecting, filtering and joining episodes, and the hash of their content."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lightning_offrl.data.episodes import EpisodeFilter, Episodes
from lightning_offrl.data.readers import load
from lightning_offrl.errors import InputError
from lightning_offrl.training import old_names


@pytest.fixture
def ladder() -> Episodes:
    """Ten episodes; episode i has i + 1 steps of reward 1, so return and length are i + 1."""
    lengths = np.arange(1, 11)
    rows = int(lengths.sum())
    ends = np.zeros(rows, dtype=bool)
    ends[lengths.cumsum() - 1] = True
    return load(
        {
            "observations": np.arange(rows, dtype=np.float32)[:, None],
            "actions": np.zeros((rows, 1), dtype=np.float32),
            "rewards": np.ones(rows),
            "terminals": ends,
            "timeouts": np.zeros(rows),
        }
    )


def test_select_keeps_rows_together(ladder: Episodes) -> None:
    chosen = ladder.select([4, 0, 9])
    assert chosen.length.tolist() == [5, 1, 10] and chosen.start.tolist() == [0, 5, 6]
    rows = chosen.data["observation"].squeeze(-1).tolist()
    assert rows == [*range(10, 15), 0, *range(45, 55)]
    assert chosen.returns().tolist() == [5.0, 1.0, 10.0]
    assert chosen.fingerprint != ladder.fingerprint


def test_select_everything_copies_nothing(ladder: Episodes) -> None:
    everything = ladder.select(torch.arange(10))
    assert everything.data is ladder.data and everything.notes is not ladder.notes


def test_index_helpers(ladder: Episodes) -> None:
    assert ladder.end_index()[:6].tolist() == [0, 2, 2, 5, 5, 5]
    assert ladder.episode_index()[:6].tolist() == [0, 1, 1, 2, 2, 2]
    assert len(ladder) == 55 and ladder.n_episodes == 10


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        (EpisodeFilter(), range(10)),
        (EpisodeFilter(min_return=8), [7, 8, 9]),
        (EpisodeFilter(max_return=2), [0, 1]),
        (EpisodeFilter(min_length=3, max_length=4), [2, 3]),
        (EpisodeFilter(indices=[5, 2]), [2, 5]),
        (EpisodeFilter(top_fraction=0.3), [7, 8, 9]),
        (EpisodeFilter(top_fraction=0.31), [6, 7, 8, 9]),
        (EpisodeFilter(top_fraction=0.01), [9]),
        (EpisodeFilter(max_return=6, top_fraction=0.5), [3, 4, 5]),
    ],
)
def test_filters(ladder: Episodes, condition: EpisodeFilter, kept: Any) -> None:
    assert condition.keep(ladder).tolist() == list(kept)
    assert ladder.filter(condition).n_episodes == len(list(kept))


def test_ties_go_to_the_earlier_episode(make_arrays: Callable[..., Any]) -> None:
    arrays = make_arrays(episodes=4, length=5)
    arrays["rewards"][:] = 1.0
    assert EpisodeFilter(top_fraction=0.5).keep(load(arrays)).tolist() == [0, 1]


def test_no_filter_is_no_copy(ladder: Episodes) -> None:
    assert ladder.filter(None) is ladder
    assert ladder.filter(EpisodeFilter(min_return=0)) is ladder


def test_join(make_arrays: Callable[..., Any]) -> None:
    one, two = make_arrays(episodes=2, seed=1), make_arrays(episodes=3, seed=2)
    joined = load([{**one, "name": "a"}, {**two, "name": "b"}])
    assert joined.name == "a + b" and joined.n_episodes == 5 and len(joined) == 100
    assert joined.start.tolist() == [0, 20, 40, 60, 80]
    torch.testing.assert_close(joined.data["observation"][40:], torch.as_tensor(two["observations"]))
    whole = {key: np.concatenate([one[key], two[key]]) for key in one}
    assert joined.fingerprint == load(whole).fingerprint


def test_join_says_what_is_lost(make_arrays: Callable[..., Any]) -> None:
    plain = {**make_arrays(seed=1), "name": "a", "environment": "Hopper-v5"}
    logged = {**make_arrays(seed=2), "name": "b", "behavior_log_prob": np.zeros(120), "references": (0, 1)}
    joined = load([plain, logged])
    assert "behavior_log_prob" not in joined.data.keys()
    assert joined.environment is None and joined.references is None
    text = " ".join(joined.notes)
    assert "a has none" in text and "different environments (Hopper-v5, none)" in text and "reference" in text
    same = load([logged, logged])
    assert "behavior_log_prob" in same.data.keys() and same.references == (0.0, 1.0)


def test_join_refuses_other_spaces(make_arrays: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"a and b cannot be joined: their observation_shape is \[3\] and \[4\]"):
        load([{**make_arrays(), "name": "a"}, {**make_arrays(observation_size=4), "name": "b"}])


def test_the_fingerprint_is_of_the_content(arrays: dict[str, Any]) -> None:
    first = load(arrays).fingerprint
    assert load({**arrays, "name": "other", "environment": "Nowhere-v0"}).fingerprint == first
    assert load({key: value.copy() for key, value in arrays.items()}).fingerprint == first
    for key in ("observations", "actions", "rewards"):
        changed = {**arrays, key: arrays[key].copy()}
        changed[key].flat[7] *= 0.5
        assert load(changed).fingerprint != first, key
    moved = {**arrays, "terminals": arrays["timeouts"], "timeouts": arrays["terminals"]}
    assert load(moved).fingerprint != first


def test_repr_is_short(arrays: dict[str, Any]) -> None:
    assert repr(load(arrays)) == "Episodes('arrays', 6 episodes, 120 transitions)"


def test_the_method_of_version_0_1_still_reads_arrays(arrays: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old_names, "told", set())
    first = [arrays[key] for key in ("observations", "actions", "rewards", "terminals", "timeouts")]
    with pytest.warns(FutureWarning, match=r"Episodes.from_arrays\(...\) is now load_dataset"):
        episodes = Episodes.from_arrays(*first, next_observations=arrays["next_observations"], name="walk")
    assert episodes.fingerprint == load(arrays).fingerprint and episodes.name == "walk"
