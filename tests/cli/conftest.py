from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from lightning_offrl.cli import main

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
