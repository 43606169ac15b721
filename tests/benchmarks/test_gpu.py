"""The GPU benchmark: what it says without a GPU; its measuring runs on a CPU too, where nothing is recorded."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lightning_offrl.training.compile import CompileChoice
from lightning_offrl.training.compile.graph import uncompiled


@pytest.fixture
def gpu(repo: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    monkeypatch.setattr(CompileChoice, "compiler", staticmethod(uncompiled))
    import gpu

    return gpu


def test_without_a_gpu_it_says_so_in_one_sentence(gpu, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "needs an NVIDIA GPU" in said.err


@pytest.mark.slow
def test_what_it_measures_runs_on_a_cpu_too(gpu) -> None:
    from overhead import synthetic

    source, small = synthetic(2000), {"hidden": (8, 8)}
    assert gpu.largest_gap("TD3BC", source, "cpu", **small) < 1e-9
    runs = [gpu.measure("IQL", source, "cpu", 100, "32-true", graph, 2, **small) for graph in (False, True)]
    assert [run["said"].split(" (")[0] for run in runs] == ["not compiled", "compiled"]
    assert all(run["per_seed_us"] * 2 == run["update_us"] > 0 and math.isnan(run["replay_us"]) for run in runs)
    assert gpu.table([{**run, "floor_us": run["replay_us"]} for run in runs]).count("\n") == 3
    count = gpu.CountLaunches()
    gpu.fit("IQL", source, "cpu", 100, "32-true", [count], compile=False, **small)
    assert count.per_update == 0.0
