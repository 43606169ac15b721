"""Nearest neighbors against a plain search."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_offrl.ope.checks.neighbors import nearest


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbors_of_other_labels_within_a_radius(dtype: torch.dtype) -> None:
    """700 queries, so more than one block; all distances of differences, sorted, in float64."""
    x = torch.randn(700, 2, generator=torch.Generator().manual_seed(1), dtype=dtype)
    label = torch.arange(700) % 7
    distance, index = nearest(x, x, 3, apart=(label, label), radius=0.2)
    plain = (x[:, None].double() - x.double()).norm(dim=-1)
    plain[label[:, None] == label] = math.inf
    want, place = plain.sort(dim=1)
    near = want[:, :3] <= 0.2
    assert 0.1 < float(near.double().mean()) < 0.99
    assert torch.equal(index >= 0, near) and torch.equal(index[near], place[:, :3][near])
    assert bool(distance[~near].isinf().all())
    tolerance = 1e-3 if dtype == torch.float32 else 1e-7
    torch.testing.assert_close(distance[near].double(), want[:, :3][near], rtol=tolerance, atol=tolerance)


def test_fewer_points_than_neighbors() -> None:
    points = torch.tensor([[0.0], [3.0]])
    distance, index = nearest(torch.tensor([[1.0]]), points, 3)
    assert distance.tolist() == [[1.0, 2.0, math.inf]] and index.tolist() == [[0, 1, -1]]
    one = torch.zeros(1, dtype=torch.int64)
    distance, index = nearest(torch.tensor([[1.0]]), points, 3, apart=(one, torch.tensor([0, 1])))
    assert distance.tolist() == [[2.0, math.inf, math.inf]] and index.tolist() == [[1, -1, -1]]
