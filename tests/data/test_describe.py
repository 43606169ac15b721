"""What `offrl data show` says."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from lightning_offrl.data.describe import as_dict, describe
from lightning_offrl.data.readers import load
from lightning_offrl.data.readers.reference_returns import known_references
from lightning_offrl.data.writers.convert import convert


def test_numbers_by_hand() -> None:
    facts = as_dict(
        {
            "observations": np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]),
            "next_observations": np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [4.0, 5.0]]),
            "actions": np.array([[1.0], [-1.0], [0.0], [0.5]]),
            "rewards": np.array([0.0, 0.0, 4.0, 0.0]),
            "terminals": np.array([0, 0, 1, 0]),
            "timeouts": np.array([0, 0, 0, 1]),
            "references": (0.0, 8.0),
            "behavior_log_prob": np.array([-1.0, -2.0, -3.0, -4.0]),
        }
    )
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["episodes"], facts["transitions"], facts["terminated"], facts["truncated"]) == (2, 4, 1, 1)
    assert facts["lengths"]["median"] == 2.0 and facts["lengths"]["max"] == 3.0
    assert facts["returns"]["mean"] == 2.0 and facts["score"]["max"] == 50.0
    assert sum(facts["returns"]["histogram"]["counts"]) == 2
    assert facts["rewards"]["zero_share"] == 0.75
    assert facts["actions"][0]["saturated"] == 0.5
    assert facts["observations"][0]["min"] == [0.0, 5.0] and facts["observations"][0]["max"] == [3.0, 5.0]
    assert facts["observations"][0]["sd"] == pytest.approx([np.std([0, 1, 2, 3]), 0.0])
    assert facts["observations"][0]["constant"] == [1]
    assert facts["behavior_log_prob"]["mean"] == -2.5


def test_the_text(arrays: dict[str, Any]) -> None:
    text = describe({**arrays, "name": "walk", "references": (-10.0, 10.0)})
    lines = text.splitlines()
    assert lines[0] == "walk" and max(map(len, lines)) <= 100
    for part in (
        "6 with 120 transitions",
        "3 terminal (50.0 %), 3 truncated (50.0 %)",
        "0 is -10, 100 is 10, from the dataset",
        "2 numbers in [-1, 1]",
        "|a| > 0.99",
        "of the logged actions is not stored",
        "not cached",
        load(arrays).fingerprint,
    ):
        assert part in text, part
    # Ten bins, whose counts add up to the episodes.
    bars = [line for line in lines if " to " in line and line.startswith(" ")]
    assert len(bars) == 10 and sum(int(line.split()[-1]) for line in bars) == 6


def test_stored_datasets_name_their_cache(arrays: dict[str, Any]) -> None:
    convert(arrays, "test/walk-v0")
    facts = as_dict("test/walk-v0")
    assert facts["cache"] and facts["cache"] in describe("test/walk-v0")


def test_many_dimensions_are_elided(make_arrays: Any) -> None:
    arrays = make_arrays(observation_size=40, action_size=30)
    arrays["observations"][:, 3] = arrays["next_observations"][:, 3] = 1.0
    text = describe(arrays)
    assert "... and 14 more" in text and "... and 24 more" in text and "constant: 3" in text


def test_discrete_actions_pictures_and_one_return(make_arrays: Any) -> None:
    arrays = make_arrays(episodes=2, length=3)
    rng = np.random.default_rng(0)
    arrays["observations"] = {
        "camera": rng.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8),
        "state": rng.normal(size=(6, 2)),
    }
    arrays["next_observations"] = None
    arrays["timeouts"][:], arrays["terminals"] = False, np.arange(6) % 3 == 2
    arrays["rewards"][:] = 1.0
    arrays["actions"] = np.array([0, 1, 1, 0, 1, 1])
    text = describe(arrays)
    assert "{camera: 4 x 4 x 3, state: 2 numbers}" in text and "one of 2" in text
    assert "66.7 %" in text and "3 to 3" in text


def test_known_references_are_said_to_be_known(arrays: dict[str, Any]) -> None:
    facts = as_dict({**arrays, "environment": "Walker2d-v99"})
    assert facts["references"] == [1.629008, 4592.3] and facts["references_from"] == "D4RL's published table"
    assert "D4RL's published table" in describe({**arrays, "environment": "Walker2d-v99"})
    own = as_dict({**arrays, "environment": "Walker2d-v99", "references": (0.0, 1.0)})
    assert own["references_from"] == "the dataset" and own["notes"] == []
    assert known_references("Walker2dBulletEnv-v0") is None and known_references(None) is None
