"""Off-policy evaluation inside a run: what is logged, and that training is not disturbed."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_offrl.algorithms.bc import BC
from lightning_offrl.algorithms.td3_bc import TD3BC
from lightning_offrl.callbacks.evaluate_ope import EvaluateOPE
from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.data.readers import load
from lightning_offrl.errors import InputError
from lightning_offrl.ope.direct.lstd import lstd
from lightning_offrl.ope.policies.trained import from_algorithm


def run(make_arrays, callbacks, page=TD3BC, fraction=0.25, cluster=None, **options):
    import lightning.pytorch as pl

    torch.manual_seed(0)
    episodes = load(make_arrays(episodes=40, length=12))
    episodes.data["person"] = (torch.arange(40) % 20).repeat_interleave(12)
    held_out = {"validation_fraction": fraction, "cluster": cluster}
    data = OfflineDataModule(episodes, batch_size=16, seed=1, discount=0.9, **held_out)
    algorithm = page(episodes.spec, hidden=(8, 8), seed=3, **options)
    trainer = pl.Trainer(
        max_steps=20,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    trainer.fit(algorithm, data)
    return algorithm, trainer, data


def test_what_is_logged_is_the_evaluation_of_the_held_out_episodes(make_arrays):
    callback = EvaluateOPE(every=10, refits=12)
    algorithm, trainer, data = run(make_arrays, [callback])
    logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("ope/")}
    expected = lstd(from_algorithm(algorithm.eval()), data.validation, discount=0.9, replicates=12)
    found = callback.last.row("lstd")
    assert found.value == pytest.approx(expected.value, rel=1e-6)
    assert callback.last.n == data.validation.n_episodes == 10
    if found.status == "eligible":
        assert logged["ope/lstd/value"] == pytest.approx(found.value)
        assert logged["ope/lstd/low"] < logged["ope/lstd/value"] < logged["ope/lstd/high"]
        spread = float(callback.last.row("lstd").resampled.std())
        assert logged["ope/less_error"] == pytest.approx(found.value - spread)
    else:
        assert "ope/lstd/value" not in logged
    assert math.isfinite(logged["ope/naive/value"]) and 0.0 <= logged["ope/unsupported"] <= 1.0
    # a deterministic policy has no weights: they abstain and are not logged
    assert callback.last.row("wis").status == "abstains" and "ope/wis/value" not in logged


def test_training_is_the_same_with_and_without(make_arrays):
    plain, _, _ = run(make_arrays, [])
    watched, _, _ = run(make_arrays, [EvaluateOPE(every=5, refits=0)])
    for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(a, b)
    assert watched.training == plain.training


def test_a_run_without_held_out_episodes_uses_those_of_training(make_arrays):
    callback = EvaluateOPE(direct="none", stochastic=True, max_episodes=15)
    run(make_arrays, [callback], page=BC, fraction=0.0, policy="gaussian")
    assert callback.last.n == 15 and callback.last.row("naive").status == "baseline"


def test_intervals_are_of_the_data_modules_clusters(make_arrays):
    callback = EvaluateOPE(refits=12)
    run(make_arrays, [callback], fraction=0.6, cluster="person")
    assert callback.last.unit == "24 episodes of 12 clusters (column person)"
    assert callback.last.row("lstd").interval.usable and callback.last.row("naive").interval.usable
    with pytest.raises(InputError, match="all 2 episodes have the same label in person"):
        run(make_arrays, [EvaluateOPE()], fraction=0.01, cluster="person")


def test_stacked_seeds_and_wrong_settings_are_refused(make_arrays):
    with pytest.raises(InputError, match="stacked seeds"):
        run(make_arrays, [EvaluateOPE()], seeds=2)
    with pytest.raises(InputError, match="lstd, fqe and none"):
        EvaluateOPE(direct="mc")
