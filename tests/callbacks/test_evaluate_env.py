"""Evaluation during training: when, what is logged, and that training does not notice."""

from __future__ import annotations

import csv
import math
import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_offrl.algorithms.bc import BC
from lightning_offrl.algorithms.iql import IQL
from lightning_offrl.callbacks.evaluate_env import EvaluateEnv
from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.envs.rollout import evaluate
from lightning_offrl.errors import InputError


def source(arrays, **more) -> dict[str, Any]:
    return {**arrays, "environment": "Pendulum-v1", "references": (-1200.0, -200.0), "name": "toy", **more}


@pytest.fixture
def pendulum_arrays(make_arrays):
    return make_arrays(observation_size=3, action_size=1)


def fit(
    tmp_path: Path,
    data: dict[str, Any],
    *callbacks: Callback,
    kind=BC,
    steps: int = 7,
    resume=None,
    k: int = 1,
    reward: str = "none",
    **options,
):
    module = OfflineDataModule(data, batch_size=8, updates_per_step=k, reward=reward)
    algorithm = kind(module.spec, hidden=(8,), **options)
    trainer = L.Trainer(
        max_steps=steps, logger=CSVLogger(tmp_path, name="", version="log"), callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks), enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1, default_root_dir=tmp_path, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(algorithm, module, ckpt_path=resume)
    return algorithm, trainer


def logged(tmp_path: Path) -> list[dict[str, float]]:
    with open(tmp_path / "log" / "metrics.csv") as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    return [row for row in rows if "eval/return" in row]


def test_when_and_what(tmp_path: Path, pendulum_arrays) -> None:
    callback = EvaluateEnv(episodes=3, every=3, at_start=True, last_k=2)
    algorithm, trainer = fit(tmp_path, source(pendulum_arrays), callback, steps=7)
    assert [point.updates for point in callback.curve] == [0, 3, 6, 7]  # and once for the last update
    rows = logged(tmp_path)
    assert [row["step"] for row in rows] == [0, 3, 6, 7]
    seen = evaluate(algorithm.eval().act, "Pendulum-v1", episodes=3)
    row = rows[-1]
    assert row["eval/return"] == pytest.approx(seen.mean) and callback.last.returns == [seen.returns.tolist()]
    assert row["eval/return_se"] == pytest.approx(seen.returns.std(ddof=1) / math.sqrt(3))
    assert row["eval/score"] == pytest.approx((seen.mean + 1200) / 10) and row["eval/length"] == 200
    scores = [r["eval/score"] for r in rows]
    assert row["eval/best_score"] == pytest.approx(max(scores)) == callback.best.score
    assert row["eval/mean_of_last_2"] == pytest.approx(sum(scores[-2:]) / 2) == callback.mean_of_last
    assert 0 < row["eval/time_share"] <= 1
    assert float(trainer.callback_metrics["eval/score"]) == pytest.approx(row["eval/score"])


def test_without_references_returns_take_their_place(tmp_path: Path, pendulum_arrays) -> None:
    data = source(pendulum_arrays)
    del data["references"]
    fit(tmp_path, data, EvaluateEnv(episodes=1, every=0), steps=2)
    (row,) = logged(tmp_path)
    assert not any("score" in key for key in row) and row["eval/best_return"] == row["eval/return"]
    assert row["eval/mean_of_last_5"] == row["eval/return"] and math.isnan(row["eval/return_se"])


def test_scores_are_of_raw_rewards(tmp_path: Path, pendulum_arrays) -> None:
    """The untrained policy returns the same whatever the learner's rewards are turned into."""
    seen = []
    for name, reward in (("raw", "none"), ("shifted", "antmaze-cql")):
        callback = EvaluateEnv(episodes=2, every=0, at_start=True, at_end=False)
        fit(tmp_path / name, source(pendulum_arrays), callback, steps=1, kind=IQL, reward=reward)
        seen.append(callback.curve[0])
    assert seen[0] == seen[1] and seen[0].mean < -100.0


def test_stacked_seeds_are_logged_one_by_one(tmp_path: Path, pendulum_arrays) -> None:
    algorithm, _ = fit(tmp_path, source(pendulum_arrays), EvaluateEnv(episodes=2, every=0), steps=2, seeds=2)
    (row,) = logged(tmp_path)
    means = [row["eval/return_seed0"], row["eval/return_seed1"]]
    seen = evaluate(algorithm.eval().act, "Pendulum-v1", episodes=2, lead=(2,))
    assert means == pytest.approx(seen.returns.mean(1).tolist()) and means[0] != means[1]
    assert row["eval/return"] == pytest.approx(sum(means) / 2)
    assert row["eval/score_seed1"] == pytest.approx((means[1] + 1200) / 10)


class FQEMonitor(Callback):
    """Random states and modes around the evaluation of each block."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        modes = [part.training for part in pl_module.modules()]
        self.seen.append((torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate(), modes))


def test_training_does_not_notice(tmp_path: Path, pendulum_arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same parameters with and without, though the policy draws random numbers; modes are put back part by part."""
    act = IQL.act

    def drawing(self, observation):
        assert not self.training and not torch.is_grad_enabled()
        torch.rand(3), np.random.rand(3), random.random()
        return act(self, observation)

    monkeypatch.setattr(IQL, "act", drawing)
    before, after = FQEMonitor(), FQEMonitor()
    alone = FQEMonitor()
    plain, _ = fit(tmp_path / "a", source(pendulum_arrays), alone, kind=IQL, dropout=0.1)
    callback = EvaluateEnv(episodes=1, every=2)
    watched, _ = fit(tmp_path / "b", source(pendulum_arrays), before, callback, after, kind=IQL, dropout=0.1)
    assert before.seen == after.seen
    assert alone.seen == after.seen
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))


def test_the_curve_survives_a_resumption(tmp_path: Path, pendulum_arrays) -> None:
    data = source(pendulum_arrays)
    whole = EvaluateEnv(episodes=2, every=2)
    fit(tmp_path / "whole", data, whole, steps=6)
    first = EvaluateEnv(episodes=2, every=2)
    _, trainer = fit(tmp_path / "a", data, first, steps=4)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    torch.load(tmp_path / "x.ckpt", weights_only=True)
    second = EvaluateEnv(episodes=2, every=2)
    fit(tmp_path / "b", data, second, steps=6, resume=tmp_path / "x.ckpt")
    assert [point.updates for point in second.curve] == [2, 4, 6]
    assert second.curve == whole.curve
    assert second._elapsed > first._elapsed and second._spent > first._spent


def test_checkpoints_can_monitor_the_score(tmp_path: Path, pendulum_arrays) -> None:
    keep = ModelCheckpoint(
        tmp_path / "c", monitor="eval/score", mode="max", every_n_train_steps=2, filename="{step}",
        auto_insert_metric_name=False,
    )  # fmt: skip
    callback = EvaluateEnv(episodes=1, every=2)
    fit(tmp_path, source(pendulum_arrays), keep, callback, steps=6)
    assert float(keep.best_model_score) == pytest.approx(callback.best.score)
    assert Path(keep.best_model_path).stem == str(callback.best.updates)
    saved = torch.load(keep.best_model_path, weights_only=True)["callbacks"]["EvaluateEnv"]
    assert saved["updates"][-1] == callback.best.updates  # saved after the evaluation, not before


def test_no_environment_is_one_sentence(tmp_path: Path, arrays, caplog: pytest.LogCaptureFixture) -> None:
    for environment, message in ((None, "does not name its environment"), ("Nowhere-v3", "knows no environment")):
        caplog.clear()
        data = {**arrays, "name": "toy"} | ({} if environment is None else {"environment": environment})
        callback = EvaluateEnv(every=2)
        with caplog.at_level("INFO"):
            fit(tmp_path, data, callback, steps=4)
        lines = [record.message for record in caplog.records if "no evaluation in an environment" in record.message]
        assert len(lines) == 1 and message in lines[0]
        assert not callback.curve and callback.last is None and callback.best is None and callback.mean_of_last is None


def test_an_environment_of_other_sizes(tmp_path: Path, arrays, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fit(tmp_path, {**arrays, "name": "toy", "environment": "Pendulum-v1"}, EvaluateEnv(), steps=1)
    assert "1 action dimensions, the policy was trained on 2" in caplog.text
    with pytest.raises(InputError, match="1 action dimensions, the policy was trained on 2"):
        fit(tmp_path, {**arrays, "name": "toy"}, EvaluateEnv("Pendulum-v1"), steps=1)


def test_a_diverged_policy_is_nan_with_one_warning(tmp_path: Path, pendulum_arrays, monkeypatch) -> None:
    monkeypatch.setattr(BC, "act", lambda self, observation: torch.full((len(observation), 1), math.nan))
    callback = EvaluateEnv(episodes=2, every=1)
    with pytest.warns(UserWarning, match="actions that are not finite at update 1") as caught:
        fit(tmp_path, source(pendulum_arrays), callback, steps=3)
    assert sum("not finite" in str(w.message) for w in caught) == 1
    assert all(math.isnan(point.mean) for point in callback.curve) and callback.best is None


@pytest.mark.parametrize("arguments", [{"episodes": 0}, {"every": -1}, {"last_k": 0}])
def test_bad_arguments(arguments: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"EvaluateEnv.{next(iter(arguments))} must be at least"):
        EvaluateEnv(**arguments)


def test_modes_are_put_back_part_by_part(tmp_path: Path, pendulum_arrays) -> None:
    """A part that is in eval mode while the rest trains stays so."""

    class Freeze(Callback):
        def on_train_batch_start(self, trainer, pl_module, *args) -> None:
            pl_module.q_target.eval()

    watch = FQEMonitor()
    algorithm, _ = fit(tmp_path, source(pendulum_arrays), Freeze(), EvaluateEnv(episodes=1, every=2), watch, kind=IQL)
    frozen = {id(part) for part in algorithm.q_target.modules()}
    wanted = [id(part) not in frozen for part in algorithm.modules()]
    assert all(modes == wanted for *_, modes in watch.seen) and False in wanted
