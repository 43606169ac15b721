"""What a checkpoint says of itself, and which ones are refused."""

from __future__ import annotations

import pytest
import torch

from lightning_offrl.errors import InputError
from tests.contracts.pages import ALGORITHMS, episodes_for, fit


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
