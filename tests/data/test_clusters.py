"""Episodes that belong together: numbering, columns that name them, splits and resamples that keep them whole."""

from __future__ import annotations

import pytest
import torch

from lightning_offrl.data.clusters import Clusters, clusters_of
from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.data.readers import load
from lightning_offrl.data.split import split_by_episode
from lightning_offrl.errors import InputError

LABELS = ["b", "a", "b", "c", "a", "b"]


@pytest.fixture
def episodes(make_arrays):
    return load(make_arrays(episodes=20, length=5))


def test_clusters_by_hand():
    found = Clusters.of(LABELS, 6, "who")
    assert found.index.tolist() == [0, 1, 0, 2, 1, 0] and found.words == "3 clusters (column who)"
    assert found.size.tolist() == [3, 2, 1] and found.effective == pytest.approx(36 / 14) and not found.alone
    assert found.sums(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])).tolist() == [37.0, 18.0, 8.0]
    assert found.spread(torch.tensor([[5, 6, 7]])).tolist() == [[5, 6, 5, 7, 6, 5]]
    assert found.episodes(torch.tensor([1, 0, 1])).tolist() == [1, 4, 0, 2, 5, 1, 4]
    assert found.select(torch.tensor([4, 3, 1])).index.tolist() == [0, 1, 0]
    weight = torch.tensor([1.0, 0.0, 2.0, 0.0, 3.0, 5.0]).double()
    assert found.log_sums(weight.log() + 900.0).tolist() == pytest.approx(
        [900 + 2.0794415416798357, 900 + 1.0986122886681098, -torch.inf]
    )
    assert Clusters.of(torch.tensor([7, 5, 9]), 3).alone


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["a", "b"], "2 labels of clusters in who for 6 episodes"),
        (["a", None, "b", "", "c", float("nan")], "3 of 6 episodes have no label in who"),
        (["a"] * 6, "all 6 episodes have the same label in who"),
        (torch.zeros(6), "clusters must be whole numbers"),
        (Clusters.of(["a", "b"], 2), "clusters of 2 episodes for 6 episodes"),
    ],
)
def test_labels_that_are_none(labels, sentence: str):
    with pytest.raises(InputError, match=sentence):
        Clusters.of(labels, 6, "who")


def test_values_of_a_column_are_identities_not_quarters(episodes, tmp_path):
    person = torch.arange(20) * 3 // 4 + 100_000_000
    episodes.data["person"] = person.repeat_interleave(5)
    found = clusters_of(episodes, "person")
    assert found.n == 15 and found.column == "person"
    assert all((found.index[i] == found.index[j]) == (person[i] == person[j]) for i in range(20) for j in range(20))
    table = tmp_path / "people.csv"
    table.write_text("person\n" + "\n".join(f"p{x}" for x in person.tolist()))
    assert clusters_of(episodes, "person", table).index.equal(found.index)
    episodes.data["log"] = torch.tensor([0.0, 1.0, 1.0, 0.0, 2.0] * 4).double().repeat_interleave(5).unsqueeze(-1)
    episodes.columns = {"log": [{"name": "site", "labels": ["north", "south", "missing"]}]}
    with pytest.raises(InputError, match="4 of 20 episodes have no label in site"):
        clusters_of(episodes, "site")
    episodes.columns["log"][0]["labels"][2] = "west"
    assert clusters_of(episodes, "site").size.tolist() == [8, 8, 4]


def test_columns_that_name_nobody(episodes, tmp_path):
    with pytest.raises(InputError, match="no column 'person'"):
        clusters_of(episodes, "person")
    with pytest.raises(InputError, match="observation.0 changes within 20 of 20 episodes"):
        clusters_of(episodes, "observation.0")
    with pytest.raises(InputError, match="3 numbers per step; name one: observation.0"):
        clusters_of(episodes, "observation")
    episodes.data["person"] = (torch.arange(20) + 2.0**24).repeat_interleave(5)
    with pytest.raises(InputError, match="too large to tell apart in torch.float32 \\(from 16,777,216 on\\)"):
        clusters_of(episodes, "person")
    (tmp_path / "short.csv").write_text("person\na\nb\n")
    with pytest.raises(InputError, match="2 lines of labels, but there are 20 episodes"):
        clusters_of(episodes, "person", tmp_path / "short.csv")


def test_nobody_is_on_both_sides_of_a_split(episodes):
    labels = torch.tensor([i % 7 for i in range(20)])
    for seed in range(5):
        train, held = split_by_episode(episodes, 0.3, seed, labels)
        assert sorted([*train.tolist(), *held.tolist()]) == list(range(20)) and held.tolist() == sorted(held.tolist())
        assert not set(labels[train].tolist()) & set(labels[held].tolist())
        assert len(set(labels[held].tolist())) == 2  # 0.3 of 7 clusters
        alone = split_by_episode(episodes, 0.3, seed, list(range(20)))
        assert all(map(torch.equal, alone, split_by_episode(episodes, 0.3, seed)))
    with pytest.raises(InputError, match="belong to one cluster, so none can be held out"):
        split_by_episode(episodes, 0.3, 0, Clusters(torch.zeros(20, dtype=torch.int64)))


def test_the_data_module_holds_out_whole_clusters(episodes):
    episodes.data["person"] = (torch.arange(20) % 7).repeat_interleave(5)
    data = OfflineDataModule(episodes, validation_fraction=0.3, cluster="person", seed=3)
    people = [set(part.data["person"].tolist()) for part in (data.train, data.validation)]
    assert not people[0] & people[1] and len(people[1]) == 2
    held = split_by_episode(episodes, 0.3, 3, torch.arange(20) % 7)[1]
    assert data.validation.fingerprint == episodes.select(held).fingerprint
