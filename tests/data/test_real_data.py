"""Datasets of a real simulator, where they are present."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lightning_offrl.data.describe import describe
from lightning_offrl.data.readers import load
from lightning_offrl.data.writers.convert import convert

pytestmark = pytest.mark.slow


def hopper(shared_data: Path, name: str) -> Path:
    path = shared_data / "d4rl" / f"hopper_{name}-v2.hdf5"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return path


def test_minari_and_d4rl_hold_the_same(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    d4rl = load(hopper(shared_data, "medium"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(shared_data / "minari"))
    minari = load("hopper/medium-v0")
    assert minari.fingerprint == d4rl.fingerprint
    assert (minari.environment, minari.references) == (d4rl.environment, d4rl.references)
    assert (d4rl.n_episodes, len(d4rl)) == (701, 300_004)
    assert "behavior_log_prob" in d4rl.data.keys()
    assert describe("hopper/medium-v0").count("\n") > 20


def test_a_d4rl_file_there_and_back(shared_data: Path) -> None:
    path = hopper(shared_data, "mixed")
    convert(path, "test/mixed-v0")
    assert load("test/mixed-v0").fingerprint == load(path).fingerprint


def test_the_second_start_takes_milliseconds(shared_data: Path) -> None:
    path = hopper(shared_data, "medium_expert")
    load(path)
    took = []
    for _ in range(5):
        began = time.perf_counter()
        load(path)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.05
