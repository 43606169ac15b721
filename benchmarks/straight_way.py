"""The straight way: IQL from arrays to ``policy.pt``, and how much of this package a run without extras loads.

    python benchmarks/straight_way.py

It trains for a moment in a temporary directory, then counts the modules of ``lightning_offrl`` that are loaded and the
lines of their files. A reader who wants to know everything that happens in such a run has to read these.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import lightning.pytorch as pl
import numpy as np

from lightning_offrl import IQL, ExportPolicy, OfflineDataModule, load_dataset


def train(directory: Path) -> Path:
    """Train IQL on random episodes; returns the exported policy."""
    rng = np.random.default_rng(0)
    episodes = load_dataset(
        {
            "observations": rng.normal(size=(800, 3)).astype(np.float32),
            "actions": rng.uniform(-1.0, 1.0, size=(800, 2)).astype(np.float32),
            "rewards": rng.normal(size=800).astype(np.float32),
            "terminated": np.zeros(800, dtype=bool),
            "truncated": np.arange(1, 801) % 40 == 0,
        }
    )
    data = OfflineDataModule(episodes, batch_size=64)
    trainer = pl.Trainer(
        max_steps=100,
        accelerator="cpu",
        default_root_dir=directory,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ExportPolicy()],
    )
    trainer.fit(IQL(data.spec, hidden=(32, 32), compile=False), data)
    return directory / "policy.pt"


def loaded() -> dict[str, int]:
    """Lines of every module of this package that has been imported."""
    files = {
        name: module.__file__
        for name, module in sorted(sys.modules.items())
        if name.partition(".")[0] == "lightning_offrl" and module.__file__ is not None
    }
    return {name: len(Path(file).read_text(encoding="utf-8").splitlines()) for name, file in files.items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        assert train(Path(directory)).is_file()
    lines = loaded()
    for name, count in lines.items():
        print(f"{count:6,}  {name}")
    print(f"{len(lines)} modules, {sum(lines.values()):,} lines")
