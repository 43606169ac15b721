"""Every shipped configuration parses and trains."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_it_runs_three_updates(workplace: Path, offrl, monkeypatch, config: Path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    options = "--trainer.max_steps 3 --trainer.log_every_n_steps 1 --model.hidden [8,8] --name x"
    discrete = re.search(r"class_path: lightning_offrl\.(Discrete|DQN)", config.read_text())
    source = "discrete.hdf5" if discrete else "tiny.hdf5"
    status, said = offrl(f"fit --config {config.stem} --data.source {source} {options}")
    assert status == 0, said
    (run,) = workplace.glob("runs/*-x")
    assert (run / "metrics.csv").read_text().count("\n") == 4
    assert (run / "policy.pt").exists() and (run / "config.yaml").exists()
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"step=3.ckpt", "last.ckpt"}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_its_head_names_the_command_and_the_score(config: Path):
    head = config.read_text().split("\n\n")[0]
    assert f"offrl fit --config {config.stem} --data" in head, "its first lines give the command that runs it"
    assert "Score to expect" in head, "its first lines give the score to expect, or say: Score to expect: not measured"
    if "Score to expect: not measured" not in head:
        said = re.search("[13],000,000", head) and "literature's numbers" in head
        assert said, "a score names its source (the literature's numbers) and the gradient updates that it took"
