"""Mistakes on the command line of ``offrl fit``: one sentence, exit status 2, no stack trace, no run directory."""

from __future__ import annotations

from pathlib import Path

import pytest

IQL = "fit --model IQL --data.source tiny.hdf5"
MISTAKES = {
    "fit": "an algorithm is missing: give --config iql, or --model with one of AWAC, BC, BCQ",
    "fit --model IQL": "a dataset is missing: give --data.source with a Minari id",
    "fit --model IQLL --data.source tiny.hdf5": "there is no algorithm 'IQLL'; did you mean IQL?",
    "fit --model zzz --data.source tiny.hdf5": "there is no algorithm 'zzz'; there are AWAC, BC, BCQ",
    "fit --model lightning_offrl.algorithms.iql.IQLL --data.source x": "there is no algorithm 'lightning_offrl.",
    f"{IQL} --model.expectil 0.8": "IQL has no option model.expectil; did you mean expectile?",
    f"{IQL} --model.expectile abc": "model.expectile must be a number, got 'abc'",
    f"{IQL} --model.policy_schedule cosin": "model.policy_schedule must be one of cosine, constant, got 'cosin'",
    f"{IQL} --model.seeds 0": "model.seeds must be at least 1, got 0",
    f"{IQL} --model.seed 3": "model.seed cannot be given: it is set by --seed_everything",
    f"{IQL} --model.encoder foo": "model.encoder: there is no class 'foo'",
    f"{IQL} --trainer.maxsteps 3": "fit has no option --trainer.maxsteps; did you mean --trainer.max_steps",
    f"{IQL} --trainer.max_steps x": "trainer.max_steps must be a whole number, got 'x'",
    f"{IQL} --trainer.max_steps 0": "trainer.max_steps counts gradient updates and must be positive, got 0",
    f"{IQL} --trainer.max_epochs 5": "there are no epochs here: give the length as --trainer.max_steps",
    f"{IQL} --trainer.gradient_clip_val 1": "trainer.gradient_clip_val cannot know which of several",
    f"{IQL} --trainer.accumulate_grad_batches 2": "trainer.accumulate_grad_batches has no meaning here",
    f"{IQL} --trainer.default_root_dir x": "trainer.default_root_dir is the run's directory here: give it as --run_dir",
    f"{IQL} --threads 0": "--threads must be at least 1, got 0",
    f"{IQL} --trainer.val_check_interval 50": "trainer.val_check_interval has nothing to validate on",
    f"{IQL} --trainer.precision bf17": "trainer.precision must be one of",
    f"{IQL} --trainer.callbacks EvaluateEnvv": "trainer.callbacks: there is no callback 'EvaluateEnvv'; did you",
    f"{IQL} --trainer.callbacks SoftTargetUpdate --trainer.callbacks.tau 5": "tau must lie in (0, 1], got 5.0",
    f"{IQL} --trainer.logger MetricCSV": "trainer.logger: there is no logger 'MetricCSV'; did you mean MetricsCSV?",
    f"{IQL} --data.batchsize 3": "fit has no option --data.batchsize; did you mean --data.batch_size?",
    f"{IQL} --data.batch_size 0": "data.batch_size must be at least 1, got 0",
    "fit --model IQL --data.source nothere.hdf5": "there is no file nothere.hdf5",
    "fit --config nothere.yaml": "there is no configuration file 'nothere.yaml'; shipped ones are awac",
    "fit --config iqll": "there is no configuration file 'iqll'; did you mean iql?",
    f"{IQL} --ckpt_path nope.ckpt": "there is no checkpoint at nope.ckpt",
    f"{IQL} --ckpt_path last": "--ckpt_path last needs to know whose: add --run_dir",
}
FILES = {
    "model: {class_path: IQL, init_args: {expectil: 3}}": "IQL has no option model.expectil; did you mean expectile?",
    "model: {class_path: lightning_offrl.IQL, init_args: {expectil: 3}}": "IQL has no option model.expectil; did you",
    "model: {class_path: IQL, init_args: {seed: 3}}": "model.init_args.seed cannot be given",
    "data: {batchsize: 3}": "data has no option 'batchsize'; did you mean batch_size?",
    "modle: IQL": "there is no option 'modle'; did you mean model?",
    "model: [": "bad.yaml is not valid YAML",
    "trainer: {callbacks: [{class_path: lightning_offrl.callbacks.checkpoint.Checkpoint, init_args: {evry: 1}}]}": (
        "trainer.callbacks: Checkpoint has no option 'evry'; did you mean every?"
    ),
}


def is_one_sentence(said: str, sentence: str) -> bool:
    return said.startswith(f"offrl: error: {sentence}") and said.count("\n") == 1


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_sentence(workplace: Path, offrl, line: str):
    status, said = offrl(line)
    assert status == 2 and is_one_sentence(said, MISTAKES[line]), said
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize("text", FILES)
def test_a_mistake_in_a_file_is_one_sentence(workplace: Path, offrl, text: str):
    (workplace / "bad.yaml").write_text(text)
    status, said = offrl(
        "fit --config bad.yaml --model IQL --data.source tiny.hdf5" if "data" in text else "fit --config bad.yaml"
    )
    assert status == 2 and is_one_sentence(said, FILES[text]), said


def test_an_error_inside_training_is_one_sentence(workplace: Path, offrl):
    status, said = offrl(f"{IQL} --data.updates_per_step 7 --trainer.max_steps 10 --trainer.log_every_n_steps 10")
    assert status == 2
    assert said.splitlines()[-1].startswith("offrl: error: trainer.log_every_n_steps is 10 updates, which blocks of")
    assert "Traceback" not in said
    assert not list(workplace.glob("runs/*/config.yaml"))


def test_debugging_shows_the_trace(workplace: Path, monkeypatch):
    from lightning_offrl.cli import main
    from lightning_offrl.errors import InputError

    monkeypatch.setenv("OFFRL_DEBUG", "1")
    with pytest.raises(InputError):
        main(["fit", "--config", "nothere"])
