"""Walks along a line, and what holds for all episodes that are read from anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lightning_offrl.batch import TRANSITION, check
from lightning_offrl.data.episodes import Episodes


def line(rows: int, **changes: Any) -> dict[str, Any]:
    """One walk along a line: observation t, reward t, next observation t + 1, no flag set."""
    time = np.arange(rows, dtype=np.float32)
    return {
        "observations": time[:, None],
        "next_observations": time[:, None] + 1,
        "actions": np.zeros((rows, 1), dtype=np.float32),
        "rewards": time,
        "terminals": np.zeros(rows, dtype=bool),
        "timeouts": np.zeros(rows, dtype=bool),
        **changes,
    }


def at(rows: int, *places: int) -> np.ndarray:
    mask = np.zeros(rows, dtype=bool)
    mask[list(places)] = True
    return mask


def flags(episodes: Episodes, key: str) -> list[int]:
    return episodes.data["next", key].nonzero().squeeze(-1).tolist()


def check_sound(episodes: Episodes) -> None:
    """What holds for all episodes from anywhere."""
    check(episodes.data, episodes.spec, [key for key in TRANSITION if key != "discount"])
    terminated, truncated = episodes.data["next", "terminated"], episodes.data["next", "truncated"]
    assert torch.equal((terminated | truncated).nonzero().squeeze(-1), episodes.start + episodes.length - 1)
    assert not (terminated & truncated).any()
    assert int(episodes.length.sum()) == len(episodes) == episodes.data["next", "reward"].numel()
    assert torch.equal(episodes.start, episodes.length.cumsum(0) - episodes.length)
