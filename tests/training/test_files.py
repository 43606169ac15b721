from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from lightning_offrl.errors import InputError
from lightning_offrl.training.files import AtomicCheckpointIO, read_checkpoint, write_atomically

STATE = {"state_dict": {"w": torch.arange(5000.0)}, "offrl": {"updates": 3}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(STATE, path)
    return path


def test_what_was_written_is_read(saved: Path):
    torch.testing.assert_close(AtomicCheckpointIO().load_checkpoint(saved)["state_dict"]["w"], torch.arange(5000.0))
    assert [path.name for path in saved.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_previous_checkpoint(saved: Path, monkeypatch, number: int, step: str):
    def refuse(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(InputError, match=f"{os.strerror(number)}.*the previous one there is unharmed"):
        AtomicCheckpointIO().save_checkpoint({"state_dict": {}}, saved)
    monkeypatch.undo()
    assert read_checkpoint(saved)["offrl"]["updates"] == 3
    assert [path.name for path in saved.parent.iterdir()] == ["last.ckpt"]


def test_a_device_without_space(tmp_path: Path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    (tmp_path / ".x.1.tmp").symlink_to("/dev/full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 1)
        with pytest.raises(InputError, match="No space left"):
            write_atomically(tmp_path / "x", b"1" * 100_000)


@pytest.mark.parametrize("keep", [0, 10, 0.5, -1])
def test_a_cut_file_is_named(saved: Path, keep: float):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * keep) if 0 < keep < 1 else int(keep)])
    with pytest.raises(InputError, match="damaged or was cut short"):
        AtomicCheckpointIO().load_checkpoint(saved)


def test_a_flipped_byte_is_noticed(saved: Path):
    data = bytearray(saved.read_bytes())
    data[len(data) // 2] ^= 0xFF
    saved.write_bytes(bytes(data))
    with pytest.raises(InputError, match="damaged"):
        AtomicCheckpointIO().load_checkpoint(saved)


def test_code_is_not_unpickled(tmp_path: Path):
    torch.save({"x": Path("a")}, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="besides tensors and plain values"):
        read_checkpoint(tmp_path / "x.ckpt")


def test_no_file_and_no_dictionary(tmp_path: Path):
    with pytest.raises(InputError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "x.ckpt")
    torch.save(torch.zeros(1), tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="holds a Tensor"):
        read_checkpoint(tmp_path / "x.ckpt")
