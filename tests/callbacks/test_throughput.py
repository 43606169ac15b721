"""The line that says how fast training is."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from lightning_offrl.callbacks.throughput import ThroughputMonitor


@pytest.mark.parametrize(
    ("width", "advise", "cores", "world", "expected"),
    [
        (256, True, 2, 1, "1 thread (where nothing else runs, --threads 2 is faster)"),
        (64, True, 2, 1, "1 thread"),  # 64 x 64 x 256 is below 2^21 multiplications
        (256, False, 2, 1, "1 thread"),  # somebody chose
        (256, True, 1, 1, "1 thread"),
        (256, True, 2, 2, "1 thread"),
    ],
)
def test_two_threads_are_advised_where_they_help(monkeypatch, width, advise, cores, world, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    module = torch.nn.Linear(width, width)
    trainer = SimpleNamespace(datamodule=SimpleNamespace(batch_size=256), world_size=world)
    assert torch.get_num_threads() == 1
    assert ThroughputMonitor(advise=advise)._threads(trainer, module) == expected
