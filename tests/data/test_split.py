"""Splits by episode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_offrl.data.readers import load
from lightning_offrl.data.split import split_by_episode
from lightning_offrl.errors import InputError


@pytest.mark.parametrize(("fraction", "held_out"), [(0.01, 1), (0.2, 2), (0.25, 2), (0.5, 5), (0.999, 9)])
def test_every_episode_is_on_one_side(make_arrays: Callable[..., Any], fraction: float, held_out: int) -> None:
    episodes = load(make_arrays(episodes=10, length=3))
    train, validation = split_by_episode(episodes, fraction, 0)
    assert len(validation) == held_out
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(10))
    assert train.tolist() == sorted(train.tolist())


def test_the_seed_decides(make_arrays: Callable[..., Any]) -> None:
    episodes = load(make_arrays(episodes=40, length=2))
    torch.manual_seed(5)
    first = split_by_episode(episodes, 0.5, 1)
    torch.manual_seed(6)
    assert all(map(torch.equal, first, split_by_episode(episodes, 0.5, 1)))
    assert not torch.equal(first[0], split_by_episode(episodes, 0.5, 2)[0])


def test_bad_splits(make_arrays: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="has 1 episode, so none can be held out"):
        split_by_episode(load(make_arrays(episodes=1)), 0.1, 0)
    for fraction in (0.0, 1.0, -0.5):
        with pytest.raises(InputError, match="must lie between 0 and 1"):
            split_by_episode(load(make_arrays()), fraction, 0)
