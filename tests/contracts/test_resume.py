"""A run that is interrupted goes on bit for bit."""

from __future__ import annotations

import pytest
import torch

from tests.contracts.pages import ALGORITHMS, checkpoints, constant, episodes_for, every_algorithm, fit, same


@every_algorithm
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_resume_equals_no_interruption(algorithm, precision, tmp_path):
    """Parameters, targets, optimizer states and schedules after 35 updates, resumed at 20 (CPU).

    Lightning's checkpoints hold no random state, and `ModelCheckpoint` writes none at all where a raw optimizer steps.
    """
    settings = {"steps": 35, "precision": precision, "enable_checkpointing": True}
    whole, trainer = fit(algorithm, callbacks=checkpoints(tmp_path), **settings)
    again, resumed = fit(
        algorithm, callbacks=checkpoints(tmp_path / "b"), ckpt_path=tmp_path / "step=20.ckpt", **settings
    )
    assert again.updates == resumed.global_step == 35
    assert same(whole.state_dict(), again.state_dict())
    for one, other in zip(trainer.optimizers, resumed.optimizers, strict=True):
        for a, b in zip(one.state_dict()["state"].values(), other.state_dict()["state"].values(), strict=True):
            assert same(a, b)
    assert [s.get_last_lr() for s in whole.optimizer_set.schedulers] == [
        s.get_last_lr() for s in again.optimizer_set.schedulers
    ]


def test_float64_keeps_its_digits(tmp_path):
    """Lightning copies saved weights into the module before it makes it float64."""
    settings = {"steps": 20, "precision": "64-true", "enable_checkpointing": True}
    whole, _ = fit(ALGORITHMS["IQL"], callbacks=checkpoints(tmp_path), **settings)
    again, _ = fit(
        ALGORITHMS["IQL"], callbacks=checkpoints(tmp_path / "b"), ckpt_path=tmp_path / "step=10.ckpt", **settings
    )
    assert next(again.parameters()).dtype == torch.float64
    assert same(whole.state_dict(), again.state_dict())


@every_algorithm
def test_a_finished_run_can_be_extended(algorithm, tmp_path):
    """33 updates with K = 10 end in a short block; 60 from there equal 60 at once (without a schedule)."""
    settings = {"data": {"updates_per_step": 10}, "model": constant(algorithm)}
    _, first = fit(algorithm, steps=33, **settings)
    first.save_checkpoint(tmp_path / "end.ckpt")
    extended, trainer = fit(algorithm, steps=60, ckpt_path=tmp_path / "end.ckpt", **settings)
    whole, _ = fit(algorithm, steps=60, **settings)
    assert extended.updates == trainer.global_step == 60
    assert same(whole.state_dict(), extended.state_dict())


@every_algorithm
def test_weights_alone_start_a_new_clock(algorithm, tmp_path):
    page, trainer = fit(algorithm, steps=10, model={"normalize_observations": True})
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    loaded = algorithm.load_from_checkpoint(tmp_path / "x.ckpt")
    assert loaded.updates == 0 and same(loaded.state_dict(), page.state_dict())
    with torch.no_grad():
        observation = episodes_for(algorithm).data["observation"][:3]
        torch.testing.assert_close(loaded.act(observation), page.act(observation))
