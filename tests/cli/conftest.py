from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lightning_offrl.cli import main
from tests.cli.gaussians import gaussian

INTERRUPT = '''
import os, signal
from lightning.pytorch import Callback

class Interrupt(Callback):
    """Sends this process the signals in INTERRUPT ("9@130 2@140": number, gradient update) from inside an update."""

    def on_update_end(self, algorithm):
        for word in os.environ.get("INTERRUPT", "").split():
            number, _, update = word.partition("@")
            if algorithm.updates == int(update):
                os.kill(os.getpid(), int(number))
'''


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_arrays: Callable[..., dict]) -> Path:
    """An empty directory with small datasets ``tiny.hdf5`` and ``discrete.hdf5`` and an importable `Interrupt`."""
    with h5py.File(tmp_path / "tiny.hdf5", "w") as file:
        for key, value in make_arrays(episodes=12, length=40).items():
            file[key] = value
    with h5py.File(tmp_path / "discrete.hdf5", "w") as file:
        arrays = make_arrays(episodes=12, length=40)
        for key, value in {**arrays, "actions": (arrays["actions"][:, 0] > 0).astype("int64")}.items():
            file[key] = value
    (tmp_path / "interrupting.py").write_text(INTERRUPT)
    monkeypatch.delitem(sys.modules, "interrupting", raising=False)  # each test's own, not that of an earlier one
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).resolve().parents[2]}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INTERRUPT", raising=False)
    return tmp_path


@pytest.fixture
def offrl(capsys: pytest.CaptureFixture[str]) -> Callable[[str], tuple[int, str]]:
    """Runs a command line in this process; gives its exit status and what it wrote to standard error."""

    def run(line: str) -> tuple[int, str]:
        capsys.readouterr()
        status = main(line.split())
        return status, capsys.readouterr().err

    return run


@pytest.fixture
def log(workplace: Path) -> Path:
    """``log.npz``: 300 episodes of 4 steps of the policy ``behavior``; the reward is the first action."""
    from lightning_offrl.ope.policies.files import load_gaussian

    gaussian("behavior", 0.0)
    gaussian("better", 0.15)
    gaussian("worse", -0.15)
    gaussian("far", 3.0, 0.2)
    generator = torch.Generator().manual_seed(0)
    observation = torch.randn(1200, 3, generator=generator)
    policy = load_gaussian("behavior")
    action = policy.sample(observation, 1, generator)[0].float()
    end = np.arange(1200) % 4 == 3
    np.savez(
        "log.npz",
        observations=observation.numpy(),
        next_observations=np.roll(observation.numpy(), -1, 0),
        actions=action.numpy(),
        rewards=action[:, 0].numpy(),
        terminals=end,
        timeouts=np.zeros(1200, dtype=bool),
        behavior_log_prob=policy.log_prob(observation, action).numpy(),
    )
    return workplace
