"""A run that is interrupted goes on bit for bit."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_offrl.errors import InputError
from tests.contracts.pages import ALGORITHMS, episodes_for, every_algorithm, fit, same


def checkpoints(folder):
    return [ModelCheckpoint(folder, filename="{step}", every_n_train_steps=10, save_top_k=-1)]


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
    assert [s.get_last_lr() for s in whole._schedulers] == [s.get_last_lr() for s in again._schedulers]


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
    model = {"policy_schedule": "constant"} if algorithm.__name__ == "IQL" else {}
    settings = {"data": {"updates_per_step": 10}, "model": model}
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


def test_checkpoints_are_read_with_weights_only(tmp_path):
    for algorithm in ALGORITHMS.values():
        _, trainer = fit(algorithm, steps=2)
        trainer.save_checkpoint(tmp_path / "x.ckpt")
        saved = torch.load(tmp_path / "x.ckpt", weights_only=True)["offrl"]
        assert saved["updates"] == 2 and saved["format"] == 2
        assert saved["data"]["fingerprint"] and saved["versions"]["torch"]


def test_another_algorithm_is_refused(tmp_path):
    _, trainer = fit(ALGORITHMS["TD3BC"], steps=2)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="holds TD3BC, not IQL"):
        fit(ALGORITHMS["IQL"], ckpt_path=tmp_path / "x.ckpt")


def test_other_observations_are_refused(tmp_path):
    _, trainer = fit(ALGORITHMS["BC"], steps=2)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    page = ALGORITHMS["BC"]({**episodes_for(ALGORITHMS["BC"]).spec, "observation_shape": [17]}, hidden=(16, 16))
    with pytest.raises(InputError, match=r"observation_shape \[3\] and \[17\]"):
        page.on_load_checkpoint(torch.load(tmp_path / "x.ckpt", weights_only=True))


def test_a_newer_format_is_refused(tmp_path):
    page, trainer = fit(ALGORITHMS["BC"], steps=2)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    checkpoint["offrl"]["format"] = 99
    with pytest.raises(InputError, match="format 99, this version reads up to 2: install a newer"):
        page.on_load_checkpoint(checkpoint)
    with pytest.raises(InputError, match="not written by lightning_offrl"):
        page.on_load_checkpoint({"state_dict": {}})


def test_other_data_and_versions_are_said(tmp_path):
    page, trainer = fit(ALGORITHMS["BC"], steps=2)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    checkpoint["offrl"]["data"]["fingerprint"] = "0" * 64
    checkpoint["offrl"]["versions"]["torch"] = "1.0"
    torch.save(checkpoint, tmp_path / "y.ckpt")
    with pytest.warns(UserWarning) as said:
        fit(ALGORITHMS["BC"], steps=4, ckpt_path=tmp_path / "y.ckpt")
    text = " ".join(str(w.message) for w in said)
    assert "with other content" in text and "torch 1.0 ->" in text
