"""Runs that are killed, stopped, and gone on with."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from lightning_offrl.training.files import read_checkpoint
from tests.cli.runs import FIT, OFFRL, assert_equal, same


@pytest.mark.parametrize("precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_bit_for_bit(workplace: Path, offrl, monkeypatch, precision: str):
    line = f"{FIT} --trainer.max_steps 105 --trainer.precision {precision}"
    status, said = offrl(f"{line} --run_dir whole")
    assert status == 0, said
    monkeypatch.setenv("INTERRUPT", f"{signal.SIGKILL}@73")
    killed = subprocess.run([*OFFRL, *line.split(), "--run_dir", "killed"], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    monkeypatch.delenv("INTERRUPT")
    assert sorted(path.name for path in (workplace / "killed/checkpoints").iterdir()) == [
        "last.ckpt", "step=20.ckpt", "step=40.ckpt", "step=60.ckpt",
    ]  # fmt: skip
    assert not (workplace / "killed/policy.pt").exists()
    status, said = offrl("fit --ckpt_path killed/checkpoints/last.ckpt")
    assert status == 0 and "configuration: killed/config.yaml" in said, said
    same(workplace / "whole", workplace / "killed")
    assert "val/q_loss" in (workplace / "killed/metrics.csv").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_saves_after_the_block_and_goes_on_bit_for_bit(workplace: Path, offrl, monkeypatch, number: int):
    line = f"{FIT} --trainer.max_steps 90"
    assert offrl(f"{line} --run_dir whole")[0] == 0
    monkeypatch.setenv("INTERRUPT", f"{number}@33")
    before = signal.getsignal(number)
    status, said = offrl(f"{line} --run_dir stopped")
    assert status == 128 + number
    assert "stopped after update 50 of 90; go on with: offrl fit --ckpt_path stopped/checkpoints/last.ckpt" in said
    assert signal.getsignal(number) is before
    assert read_checkpoint("stopped/checkpoints/last.ckpt")["offrl"]["updates"] == 50
    monkeypatch.delenv("INTERRUPT")
    assert offrl("fit --ckpt_path last --run_dir stopped")[0] == 0
    same(workplace / "whole", workplace / "stopped")


def test_a_second_ctrl_c_stops_at_once_and_saves_nothing(workplace: Path, offrl, monkeypatch):
    monkeypatch.setenv("INTERRUPT", f"{signal.SIGINT}@33 {signal.SIGINT}@35")
    before = signal.getsignal(signal.SIGINT)
    status, said = offrl(f"{FIT} --trainer.max_steps 90 --run_dir stopped")
    assert status == 130 and "Traceback" not in said
    assert signal.getsignal(signal.SIGINT) is before
    assert read_checkpoint("stopped/checkpoints/last.ckpt")["offrl"]["updates"] == 20


def test_a_longer_run_goes_on_from_the_end_of_a_shorter_one(workplace: Path, offrl):
    line = f"{FIT} --model.policy_schedule constant"
    assert offrl(f"{line} --trainer.max_steps 90 --run_dir whole")[0] == 0
    assert offrl(f"{line} --trainer.max_steps 45 --run_dir short")[0] == 0
    status, said = offrl("fit --ckpt_path last --run_dir short --trainer.max_steps 90")
    assert status == 0, said
    one, two = (read_checkpoint(f"{name}/checkpoints/last.ckpt")["state_dict"] for name in ("whole", "short"))
    assert_equal(one, two, "state_dict")
    assert (workplace / "short/config-1.yaml").exists()


def test_the_command_line_decides_over_the_checkpoint(workplace: Path, offrl):
    line = f"{FIT} --model.learning_rate 0.001"
    assert offrl(f"{line} --trainer.max_steps 20 --run_dir run")[0] == 0
    status, said = offrl(
        "fit --ckpt_path last --run_dir run --trainer.max_steps 40 --model.learning_rate 0.002 --data.discount 0.9"
    )
    assert status == 0 and "(data.discount 0.99 -> 0.9, learning_rate 0.001 -> 0.002)" in said
    (config,) = (path for path in (workplace / "run").glob("config.yaml"))
    assert "learning_rate: 0.002" in config.read_text() and "max_steps: 40" in config.read_text()
    states = read_checkpoint("run/checkpoints/last.ckpt")
    rates = [state["param_groups"][0]["lr"] for state in states["optimizer_states"]]
    # V, policy, Q: the policy's cosine ends at zero after 40 updates, not after the 20 of the checkpoint
    assert rates == [0.002, pytest.approx(0.0, abs=1e-9), 0.002]
    middle = read_checkpoint("run/checkpoints/step=20.ckpt")["lr_schedulers"][0]
    assert middle["T_max"] == 20 and states["lr_schedulers"][0]["T_max"] == 40


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--model TD3BC", "this checkpoint holds IQL, not TD3BC"),
        ("--model.seeds 2", "this checkpoint stacks 1 seeds, the model 2"),
    ],
)
def test_another_model_is_refused(workplace: Path, offrl, options: str, sentence: str):
    fit = FIT.replace(" --model.dropout 0.1", "")
    assert offrl(f"{fit} --trainer.max_steps 20 --run_dir run")[0] == 0
    status, said = offrl(f"fit --ckpt_path last --run_dir run --trainer.max_steps 40 {options}")
    assert status == 2 and sentence in said.splitlines()[-1], said


def test_a_damaged_checkpoint_and_an_occupied_directory(workplace: Path, offrl):
    assert offrl(f"{FIT} --trainer.max_steps 20 --run_dir run")[0] == 0
    status, said = offrl(f"{FIT} --trainer.max_steps 20 --run_dir run")
    assert status == 2 and "run holds a run already" in said
    last = workplace / "run/checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    status, said = offrl("fit --ckpt_path last --run_dir run")
    assert status == 2 and "is damaged or was cut short" in said.splitlines()[-1]


@pytest.mark.slow
def test_sigterm_from_outside(workplace: Path):
    line = f"{FIT} --trainer.max_steps 100000000 --run_dir run"
    process = subprocess.Popen([*OFFRL, *line.split()], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (workplace / "run/checkpoints/last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    assert "go on with: offrl fit --ckpt_path run/checkpoints/last.ckpt" in said and "Traceback" not in said
    assert read_checkpoint(workplace / "run/checkpoints/last.ckpt")["offrl"]["updates"] % 10 == 0
