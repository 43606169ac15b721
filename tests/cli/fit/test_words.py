"""What ``offrl fit`` makes of its words before it parses them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lightning_offrl.cli.fit import words as fit_words
from lightning_offrl.errors import InputError


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ("--data tiny.hdf5 --seed 3", "--data.source tiny.hdf5 --seed_everything 3"),
        ("--data=test/log-v0 --seed=3", "--data.source=test/log-v0 --seed_everything=3"),
        ("--data mine.yaml --data={batch_size:3}", "--data mine.yaml --data={batch_size:3}"),
        ("--run-dir a-b --data.batch-size=3", "--run_dir a-b --data.batch_size=3"),
        ("--trainer.callbacks+=my-module.Mine", "--trainer.callbacks+=my-module.Mine"),
    ],
)
def test_short_names(given: str, parsed: str):
    assert fit_words.prepare(given.split()) == parsed.split()


def test_the_names_of_the_other_verbs_train_the_same_run(workplace: Path, offrl):
    options = "--model BC --model.hidden [8,8] --trainer.max_steps 3 --trainer.log_every_n_steps 1"
    short, long = (
        "--data tiny.hdf5 --seed 4 --run-dir short",
        "--data.source tiny.hdf5 --seed_everything 4 --run_dir long",
    )
    for names in (short, long):
        status, said = offrl(f"fit {options} {names}")
        assert status == 0, said
    one, two = (yaml.safe_load((workplace / run / "config.yaml").read_text()) for run in ("short", "long"))
    assert one == two and one["seed_everything"] == 4 and one["data"]["source"] == "tiny.hdf5"
    assert (workplace / "short/metrics.csv").read_text() == (workplace / "long/metrics.csv").read_text()


def test_imports_are_taken_out(workplace: Path):
    assert fit_words.prepare(["--import", "interrupting", "--name", "x"]) == ["--name", "x"]
    with pytest.raises(InputError, match="--import needs the name of a module"):
        fit_words.prepare(["--name", "x", "--import"])


def test_a_configuration_is_found_by_its_name():
    option, path = fit_words.prepare(["--config", "iql"])
    assert option == "--config" and path.endswith("configs/iql.yaml")
    assert fit_words.chosen_algorithm([option, path]).__name__ == "IQL"
    assert fit_words.chosen_algorithm([option, path, "--model", "BC"]).__name__ == "BC"


def test_linked_values_are_refused():
    for word in ("--data.seed=3", "--model.spec", "--model.init_args.seed=1"):
        with pytest.raises(InputError, match="cannot be given: it"):
            fit_words.refuse_linked([word])
    fit_words.refuse_linked(["--data.cluster", "person"])
