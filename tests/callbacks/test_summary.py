"""Three claims of a run, apart: the last policy, the best by the environment, the one chosen offline."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np

from lightning_offrl.algorithms.bc import BC
from lightning_offrl.callbacks.checkpoint import Checkpoint
from lightning_offrl.callbacks.evaluate_env import EvaluateEnv
from lightning_offrl.callbacks.evaluate_ope import EvaluateOPE
from lightning_offrl.callbacks.summary import RunSummary, sentences
from lightning_offrl.data.datamodule import OfflineDataModule

PLAYED = {10: -700.0, 20: -900.0, 30: -800.0, 40: -850.0}
ESTIMATED = {10: -30.0, 20: None, 30: -10.0, 40: -20.0}


class Played(EvaluateEnv):
    """An environment whose returns are written down; nothing is played."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """No environment."""

    def _play(self, module: Any) -> Any:
        returns = PLAYED[module.updates] + np.array([-1.0, 1.0])
        return SimpleNamespace(returns=returns, lengths=np.array([5.0, 5.0]))


class Estimated(EvaluateOPE):
    """Estimates that are written down; at update 20 nothing is eligible."""

    def _metrics(self, trainer: Any, module: Any) -> dict[str, float]:
        found = ESTIMATED[module.updates]
        return {"ope/eligible": 0.0} if found is None else {"ope/eligible": 1.0, "ope/conservative": found}


def run(tmp_path: Path, make_arrays: Any, *callbacks: Any, steps: int = 40, resume: str | None = None) -> L.Trainer:
    data = OfflineDataModule(make_arrays(episodes=6, length=10), batch_size=8)
    trainer = L.Trainer(
        max_steps=steps,
        logger=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        accelerator="cpu",
    )
    trainer.fit(BC(data.spec, hidden=(4,)), data, ckpt_path=resume)
    return trainer


def test_last_best_and_chosen_are_told_apart(tmp_path: Path, make_arrays) -> None:
    kept = Checkpoint(every=10, keep=1, monitor="ope/conservative")
    run(tmp_path, make_arrays, Played(every=10), Estimated(every=10), RunSummary(), kept)
    files = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert files == {"step=30.ckpt", "last.ckpt"}  # what was best offline, though the environment liked update 10
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["last"] == {
        "updates": 40,
        "checkpoint": "checkpoints/last.ckpt",
        "return": -850.0,
        "episodes": 2,
        "ope": {"ope/eligible": 1.0, "ope/conservative": -20.0},
    }
    assert (found["best_by_environment"]["updates"], found["best_by_environment"]["return"]) == (10, -700.0)
    assert found["best_by_environment"]["checkpoint"] is None and found["best_by_environment"]["evaluations"] == 4
    chosen = found["chosen_offline"]
    assert (chosen["updates"], chosen["return"], chosen["checkpoint"]) == (30, -800.0, "checkpoints/step=30.ckpt")
    assert chosen["by"] == "ope/conservative"
    said = sentences(found)
    assert said[0] == "last: update 40, return -850, checkpoints/last.ckpt"
    assert said[1] == "best by environment: update 10, return -700, the best of 4, so too high"
    assert "chosen offline: update 30, return -800, the largest ope/conservative of 4: -10" in said[2]


def test_the_choice_survives_a_resumption(tmp_path: Path, make_arrays) -> None:
    run(tmp_path, make_arrays, Estimated(every=10), RunSummary(), Checkpoint(every=10), steps=30)
    again = Estimated(every=10)
    last = str(tmp_path / "checkpoints" / "last.ckpt")
    run(tmp_path, make_arrays, again, RunSummary(), Checkpoint(every=10), resume=last)
    assert [at for at, _ in again.curve] == [10, 20, 30, 40] and again.chosen == 30
    found = json.loads((tmp_path / "summary.json").read_text())
    assert set(found) == {"last", "chosen_offline"} and "return" not in found["chosen_offline"]
    assert "not played in the environment" in sentences(found)[1]


def test_a_checkpoint_is_not_kept_for_an_older_estimate(tmp_path: Path, make_arrays) -> None:
    """At update 20 nothing is eligible; the value of update 10 must not stand in for it."""
    run(tmp_path, make_arrays, Estimated(every=10), Checkpoint(every=10, keep=2, monitor="ope/conservative"), steps=20)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step=10.ckpt", "last.ckpt"}


def test_a_run_that_was_not_evaluated_claims_nothing(tmp_path: Path, make_arrays) -> None:
    run(tmp_path, make_arrays, RunSummary(), steps=10)
    assert not (tmp_path / "summary.json").exists()
