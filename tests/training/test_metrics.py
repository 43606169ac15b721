"""What is kept of updates between two logs."""

from __future__ import annotations

import pytest
import torch

from lightning_offrl.training.metrics import TOGETHER, MetricVector, RunningMean


@pytest.mark.parametrize("lead", [(), (3,)])
def test_vectors_are_averaged_as_single_metrics_are(lead):
    """However they come and wherever a checkpoint falls, the means are those of all updates, to the last digit."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(2, *lead, generator=generator) for _ in range(2 * TOGETHER + 7)]
    single, vectors, mixed = RunningMean(), RunningMean(), RunningMean()
    for i, row in enumerate(rows):
        plain, vector = {"a": row[0], "b": row[1]}, MetricVector(("a", "b"), row)
        assert dict(vector).keys() == plain.keys() and vector["b"].equal(row[1]) and len(vector) == 2
        single.add(plain)
        vectors.add(vector)
        mixed.add(plain if i % 3 == 0 else vector)
        if i == TOGETHER + 3:
            vectors, saved = RunningMean(), vectors.state_dict()
            vectors.load_state_dict(saved, torch.device("cpu"))
    expected = {"a": torch.stack([row[0] for row in rows]).mean(0), "b": torch.stack([row[1] for row in rows]).mean(0)}
    for window in (single, vectors, mixed):
        means = window.means()
        assert list(means) == ["a", "b"] and all(means[name].equal(expected[name]) for name in means)
        assert window.means() == {}


def test_an_update_without_a_metric_does_not_count_for_its_mean():
    window = RunningMean()
    window.add(MetricVector(("a", "b"), torch.tensor([1.0, 2.0])))
    window.add(MetricVector(("a",), torch.tensor([3.0])))
    assert {name: float(mean) for name, mean in window.means().items()} == {"a": 2.0, "b": 2.0}
    with pytest.raises(KeyError, match="c"):
        MetricVector(("a",), torch.ones(1))["c"]
