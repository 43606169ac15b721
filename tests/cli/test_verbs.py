"""The verbs together, as a person would use them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_offrl.cli import main
from lightning_offrl.training.files import read_checkpoint


def test_from_collecting_to_evaluating(workplace: Path, offrl, capsys):
    assert main("collect Pendulum-v1 test/pendulum-v0 --episodes 4 --quality 0,1 --overwrite".split()) == 0
    assert "next: offrl fit --config iql --data.source test/pendulum-v0" in capsys.readouterr().out
    assert main(["data", "show", "test/pendulum-v0"]) == 0
    assert "Pendulum-v1" in capsys.readouterr().out
    options = "--trainer.max_steps 20 --model.hidden [8,8] --trainer.log_every_n_steps 10 --seed_everything 3"
    evaluate = "--trainer.callbacks.every 10 --trainer.callbacks.episodes 2"
    status, said = offrl(f"fit --config bc --data.source test/pendulum-v0 {options} {evaluate} --name x")
    assert status == 0, said
    run = "runs/bc-test-pendulum-v0-x"
    assert f"done: {run}/policy.pt; next: offrl evaluate {run}/checkpoints/last.ckpt" in said
    assert "updates/s: not compiled" in said and "best by environment: update 20" in said
    assert "  score " in said
    assert "eval/score" in (workplace / run / "metrics.csv").read_text()
    assert read_checkpoint(f"{run}/checkpoints/last.ckpt")["hyper_parameters"]["seed"] == 3
    for file in ("checkpoints/last.ckpt", "policy.pt"):
        assert main(["evaluate", f"{run}/{file}", "--episodes", "2"]) == 0
        assert "return" in capsys.readouterr().out
    assert main(["evaluate", "nothere.ckpt"]) == 2


@pytest.mark.slow
def test_a_resumed_run_keeps_its_wandb_run(workplace: Path, offrl):
    options = "--trainer.max_steps 20 --model.hidden [8,8] --trainer.log_every_n_steps 10 --run_dir run"
    assert offrl(f"fit --config bc --data.source tiny.hdf5 {options}")[0] == 0
    run_id = (workplace / "run/wandb_id.txt").read_text().strip()
    assert read_checkpoint("run/checkpoints/last.ckpt")["logger_runs"] == {"WandbLogger": run_id}
    assert offrl("fit --ckpt_path last --run_dir run --trainer.max_steps 30")[0] == 0
    sessions = list((workplace / "run/wandb").glob("offline-run-*"))
    assert sessions and all(path.name.endswith(run_id) for path in sessions)
