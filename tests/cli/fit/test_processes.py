"""``offrl fit --processes``: what each run ends with, the table over runs, and ends before the end."""

from __future__ import annotations

import csv
import signal
import statistics
import subprocess
import time
from pathlib import Path

import pytest

from lightning_offrl.cli.fit.processes import summary
from lightning_offrl.loggers.metrics_csv import read_metrics
from lightning_offrl.training.files import read_checkpoint
from tests.cli.runs import FIT, OFFRL, same

LINE = f"{FIT} --trainer.max_steps 105"


def offrl_apart(words: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: signals and pipes are as a person has them."""
    return subprocess.run([*OFFRL, *words.split()], capture_output=True, text=True)


def test_two_processes_are_two_single_runs(workplace: Path, offrl):
    """Bit for bit: parameters, optimizers, schedules and metrics files; and the table is of these files."""
    done = offrl_apart(f"{LINE} --processes 2 --seed_everything 3 --run_dir many")
    assert done.returncode == 0, done.stderr
    for i in range(2):
        assert offrl(f"{LINE} --seed_everything {3 + i} --run_dir single{i}")[0] == 0
        same(workplace / f"single{i}", workplace / "many" / f"seed{i}")
        assert f"seed{i}: offrl: done: many/seed{i}/policy.pt" in done.stderr
    one, two = (read_checkpoint(f"many/seed{i}/checkpoints/last.ckpt")["offrl"]["updates"] for i in range(2))
    assert one == two == 105
    last = [float(read_metrics(f"single{i}/metrics.csv")[1][105]["train/q_loss"]) for i in range(2)]
    rows = {row["metric"]: row for row in csv.DictReader((workplace / "many/summary.csv").open())}
    row = rows["train/q_loss"]
    assert [float(row["seed0"]), float(row["seed1"])] == last and int(row["update"]) == 105 and row["runs"] == "2"
    assert float(row["mean"]) == pytest.approx(sum(last) / 2)
    assert float(row["deviation"]) == pytest.approx(abs(last[0] - last[1]) / 2**0.5)
    assert "train/q_loss" in done.stdout and "val/q_loss" in done.stdout


@pytest.mark.slow
def test_stopped_processes_save_and_go_on_bit_for_bit(workplace: Path, offrl):
    """A Ctrl-C for the parent stops every run after its block; together they go on to where they would have been."""
    line = FIT.replace("Interrupt", "Slow") + " --trainer.max_steps 200"
    (workplace / "interrupting.py").write_text(
        "import time\nfrom lightning.pytorch import Callback\n\n"
        "class Slow(Callback):\n    def on_update_end(self, algorithm):\n"
        "        time.sleep(0.0 if time.time() > LATE else 0.05)\n\nLATE = time.time() + 60\n"
    )
    running = subprocess.Popen(
        [*OFFRL, *line.split(), "--processes", "2", "--run_dir", "many"], stderr=subprocess.PIPE, text=True
    )
    begun = [workplace / f"many/seed{i}/checkpoints/step=20.ckpt" for i in range(2)]
    deadline = time.monotonic() + 120
    while not all(path.exists() for path in begun) and time.monotonic() < deadline:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=120)[1]
    assert running.returncode == 130, said
    assert "go on with: offrl fit --processes 2 --run_dir many --ckpt_path last" in said
    for i in range(2):
        assert 20 <= read_checkpoint(f"many/seed{i}/checkpoints/last.ckpt")["offrl"]["updates"] < 200
        assert f"seed{i}: stopped after update" in said
    (workplace / "interrupting.py").write_text(
        "from lightning.pytorch import Callback\n\nclass Slow(Callback):\n    pass\n"
    )
    done = offrl_apart("fit --processes 2 --run_dir many --ckpt_path last")
    assert done.returncode == 0, done.stderr
    assert offrl(f"{line} --seed_everything 1 --run_dir single")[0] == 0
    same(workplace / "single", workplace / "many" / "seed1")


@pytest.mark.slow
def test_a_run_that_fails_is_reported_and_the_others_finish(workplace: Path):
    (workplace / "interrupting.py").write_text(
        "from lightning.pytorch import Callback\n\nclass Interrupt(Callback):\n"
        "    def on_update_end(self, algorithm):\n"
        "        if algorithm.draws.seed == 1 and algorithm.updates == 30:\n"
        "            raise RuntimeError('the second run broke')\n"
    )
    done = offrl_apart(f"{LINE} --processes 2 --run_dir many")
    assert done.returncode == 1
    assert "offrl: error: seed1 ended with exit status 1; last lines:" in done.stderr
    assert done.stderr.rstrip().endswith("RuntimeError: the second run broke")
    assert (workplace / "many/seed0/policy.pt").exists() and not (workplace / "many/seed1/policy.pt").exists()
    assert "last value of each metric over 1 seeds" in done.stdout


@pytest.mark.slow
def test_runs_that_fail_alike_are_reported_once(workplace: Path):
    done = offrl_apart("fit --model IQL --data.source nothere.hdf5 --processes 2 --run_dir many")
    assert done.returncode == 2
    assert done.stderr.count("seed0, seed1 ended with exit status 2; last lines:") == 1
    assert "there is no file nothere.hdf5" in done.stderr


def test_what_cannot_be_divided_is_refused_once(workplace: Path, offrl):
    line = "fit --model IQL --data.source tiny.hdf5 --processes 2"
    for more, sentence in {
        "--model.seeds 4": "--processes 2 trains one seed in each process and needs model.seeds 1, got 4",
        "--ckpt_path x.ckpt": "--processes 2 goes on with all its runs by --ckpt_path last",
        "--ckpt_path last --run_dir many": "there is no checkpoint in many/seed0",
        "--processes 0": "--processes must be at least 1, got 0",
    }.items():
        status, said = offrl(f"{line} {more}")
        assert status == 2 and said.startswith(f"offrl: error: {sentence}") and said.count("\n") == 1, said
    (workplace / "many/seed1/checkpoints").mkdir(parents=True)
    (workplace / "many/seed1/checkpoints/last.ckpt").touch()
    status, said = offrl(f"{line} --run_dir many")
    assert status == 2 and said.startswith("offrl: error: many holds runs already (seed1)")


def test_the_summary_takes_the_last_value_of_each_metric(tmp_path: Path):
    """By hand: evaluations come first, and end earlier than losses; a run may lack a metric."""
    for name, text in {
        "seed0": "step,train/loss,eval/return\n10,3.0,1.0\n20,2.0,\n",
        "seed1": "step,train/loss,eval/return\n10,5.0,4.0\n20,6.0,\n",
        "seed2": "step,train/loss\n20,4.0\n",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text(text)
    text = summary(tmp_path, ["seed0", "seed1", "seed2"]).splitlines()
    assert text[0].startswith("last value of each metric over 3 seeds")
    assert text[2].split() == ["eval/return", "10", "2", "2.5", f"{statistics.stdev([1, 4]):.4g}", "1", "4"]
    assert text[3].split() == ["train/loss", "20", "3", "4", "2", "2", "6"]
    written = (tmp_path / "summary.csv").read_text().splitlines()
    assert written[1] == f"eval/return,10,2,2.5,{statistics.stdev([1, 4])},1.0,4.0,1.0,4.0,"
