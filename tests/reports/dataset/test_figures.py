"""The figures of a dataset report hold the numbers of the data."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_offrl.reports.dataset import figures
from lightning_offrl.reports.dataset.measure import DatasetMeasures, measure
from tests.reports.dataset.worlds import made, mixture, stitch


@pytest.fixture(scope="module")
def two_policies() -> DatasetMeasures:
    return measure(mixture())


def test_returns_are_stacked_by_policy(two_policies: DatasetMeasures) -> None:
    groups = figures.policy_groups(two_policies)
    assert [group.name for group in groups] == ["policy 1", "policy 2"]
    assert [len(group.values) for group in groups] == [40, 40]
    heights = [sum(bar.get_height() for bar in part) for part in figures.returns(two_policies).axes[0].containers]
    assert heights == [40, 40]


def test_lengths_are_stacked_by_how_the_episode_ended() -> None:
    arrays = made(20)
    last = np.flatnonzero(arrays["terminated"])[:5]
    arrays["terminated"][last], arrays["truncated"][last] = False, True
    terminal, cut = figures.lengths(measure(arrays)).axes[0].containers
    assert sum(bar.get_height() for bar in terminal) == 15 and sum(bar.get_height() for bar in cut) == 5


def test_the_maps_count_every_step(two_policies: DatasetMeasures) -> None:
    counts = figures.density(two_policies).axes[0].images[0].get_array()
    assert 0.99 * 2400 <= counts.sum() <= 2400  # the farthest 0.1 % on each side are cut off
    rank = figures.value_map(two_policies).axes[0].images[0].get_array()
    assert rank.min() >= 0.0 and rank.max() <= 1.0 and (rank.mask == counts.mask).all()


def test_a_finite_world_has_one_dot_for_each_state() -> None:
    measures = measure(stitch(20))
    assert measures.states.by_successors
    dots = figures.density(measures).axes[0].collections[0]
    assert len(dots.get_offsets()) == measures.states.distinct and dots.get_array().sum() == len(measures.episodes)


def test_actions_by_bands_or_by_bars(two_policies: DatasetMeasures) -> None:
    bands = figures.actions(two_policies).axes[0].images[0].get_array()
    assert bands.sum() == pytest.approx(1.0)  # one dimension
    discrete = measure(stitch(5))
    bars = figures.actions(discrete).axes[0].patches
    assert [bar.get_width() for bar in bars] == pytest.approx([100 * share for share in discrete.actions.share])


def test_values_by_the_number_of_changes() -> None:
    measures = measure(stitch(5))
    (line,) = figures.recombined(measures).axes[0].get_lines()
    found = measures.stitching
    assert line.get_ydata().tolist() == [found.logged, found.single, *found.stitched]


def test_the_band_over_time_is_around_the_running_mean() -> None:
    measures = measure(made(30))
    axes = figures.over_time(measures).axes[0]
    (line,) = axes.get_lines()
    returns = measures.episodes.returns().numpy()
    assert line.get_ydata()[0] == pytest.approx(returns[:10].mean())
    assert len(axes.collections[0].get_offsets()) == 30
