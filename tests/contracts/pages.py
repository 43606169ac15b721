"""What the contract tests share: every algorithm of the package, small data for it, and one way to train."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tensordict import TensorDict

from lightning_offrl.algorithms import all_algorithms
from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.training.algorithm import OfflineAlgorithm

ALGORITHMS = all_algorithms()
every_algorithm = pytest.mark.parametrize("algorithm", list(ALGORITHMS.values()), ids=list(ALGORITHMS))


def small(algorithm: type[OfflineAlgorithm]) -> dict[str, Any]:
    """Settings that make every network of the page small."""
    parameters = inspect.signature(algorithm).parameters
    return {"hidden": (16, 16), **({"vae_hidden": (16, 16)} if "vae_hidden" in parameters else {})}


def episodes_for(algorithm: type[OfflineAlgorithm], episodes: int = 8, length: int = 30) -> Episodes:
    """Random episodes with terminals and timeouts, with the kind of action that the algorithm learns from."""
    rng = np.random.default_rng(5)
    path = rng.normal(size=(episodes, length + 1, 3)).astype(np.float32)
    ends = np.zeros((2, episodes, length), dtype=bool)
    ends[0, 1::2, -1], ends[1, 0::2, -1] = True, True
    box = algorithm.action_kind == "box"
    size = (episodes * length, 2)
    return from_arrays(
        {
            "observations": path[:, :-1].reshape(-1, 3),
            "actions": rng.uniform(-1, 1, size).astype(np.float32) if box else rng.integers(0, 3, size[0]),
            "rewards": rng.normal(size=size[0]).astype(np.float32),
            "terminated": ends[0].reshape(-1),
            "truncated": ends[1].reshape(-1),
            "next_observations": path[:, 1:].reshape(-1, 3),
        }
    )


def batch_for(algorithm: OfflineAlgorithm, size: int = 32) -> TensorDict:
    """One batch with every key that the algorithm reads, ``[*lead, size]``."""
    data = OfflineDataModule(episodes_for(type(algorithm)))
    columns = data.columns(tuple(algorithm.needs))
    return columns[torch.arange(size) * 7 % columns.batch_size[0]].expand(*algorithm.lead, size)


def fit(
    algorithm: type[OfflineAlgorithm],
    *,
    steps: int = 30,
    data: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    ckpt_path: str | Path | None = None,
    **trainer: Any,
) -> tuple[OfflineAlgorithm, pl.Trainer]:
    """Train a small network for ``steps`` gradient updates; returns the module and its trainer."""
    module = OfflineDataModule(episodes_for(algorithm), **{"batch_size": 16, **(data or {})})
    page = algorithm(module.spec, **{**small(algorithm), **(model or {})})
    settings: dict[str, Any] = {
        "max_steps": steps,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    made = pl.Trainer(**{**settings, **trainer})
    made.fit(page, module, ckpt_path=ckpt_path)
    return page, made


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest absolute difference of any entry."""
    assert one.keys() == other.keys()
    return max((one[key].double() - other[key].double()).abs().max().item() for key in one)


def constant(algorithm: type[OfflineAlgorithm]) -> dict[str, Any]:
    """Settings for updates without a trainer, where a schedule has no length."""
    return {"policy_schedule": "constant"} if "policy_schedule" in inspect.signature(algorithm).parameters else {}


def checkpoints(folder: Path) -> list[pl.Callback]:
    """A checkpoint every ten updates."""
    return [ModelCheckpoint(folder, filename="{step}", every_n_train_steps=10, save_top_k=-1)]


class Graphs(pl.Callback):
    """Notes how many graphs a run made; 0 where it fell back to the plain path."""

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Ask the algorithm."""
        self.made = pl_module.compile_choice.graphs_made
