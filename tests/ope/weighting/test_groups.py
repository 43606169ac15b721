"""Labels of episodes and times of steps, from the data and from tables."""

from __future__ import annotations

import pytest
import torch

from lightning_offrl.data.readers import load
from lightning_offrl.errors import InputError
from lightning_offrl.ope.weighting.groups import elapsed_of, labels_of


@pytest.fixture
def episodes(make_arrays):
    return load(make_arrays(episodes=20, length=5))


def test_numbers_become_quarters_of_the_episodes_by_their_first_step(episodes):
    first = episodes.data["observation"][episodes.start, 1]
    labels = labels_of(episodes, "observation.1")
    assert sorted(labels.count(label) for label in set(labels)) == [5, 5, 5, 5]
    order = first.argsort().tolist()
    assert [labels[i][0] for i in order] == [str(1 + k // 5) for k in range(20)]


def test_few_values_are_labels_as_they_are(episodes):
    site = torch.tensor([float(i % 3) for i in range(20)]).repeat_interleave(5)
    episodes.data["site"] = site
    assert labels_of(episodes, "site") == [str(i % 3) for i in range(20)]


def test_tables_have_one_line_per_episode(episodes, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("id,ward\n" + "\n".join(f"{i},{'north' if i < 7 else 'south'}" for i in range(20)))
    assert labels_of(episodes, "ward", table) == ["north"] * 7 + ["south"] * 13
    with pytest.raises(InputError, match="no column 'wrad'; it has id, ward"):
        labels_of(episodes, "wrad", table)
    table.write_text("ward\nnorth\n")
    with pytest.raises(InputError, match="1 lines of labels, but there are 20 episodes"):
        labels_of(episodes, "ward", table)
    with pytest.raises(InputError, match="cannot be read"):
        labels_of(episodes, "ward", tmp_path / "none.csv")


def test_unknown_columns_are_listed(episodes):
    with pytest.raises(InputError, match="no column 'site'.*action.*observation"):
        labels_of(episodes, "site")
    with pytest.raises(InputError, match="3 numbers per step; name one: observation.0"):
        labels_of(episodes, "observation")
    with pytest.raises(InputError, match="no column 'observation.7'"):
        labels_of(episodes, "observation.7")


def test_times_count_from_the_beginning_of_each_episode(episodes):
    clock = torch.arange(100).double() * 2.0 + 7.0
    episodes.data["clock"] = clock
    assert elapsed_of(episodes, "clock")[:7].tolist() == [0.0, 2.0, 4.0, 6.0, 8.0, 0.0, 2.0]
    episodes.data["clock"] = -clock
    with pytest.raises(InputError, match="run backwards at 80 steps"):
        elapsed_of(episodes, "clock")
