from __future__ import annotations

import subprocess
import sys

import pytest

from lightning_offrl.cli import VERBS

HELP = """
import sys
from lightning_offrl.cli import main
verbs = "evaluate, ope, select, plan, collect, data, data show, data report, data convert, data import, version"
verbs += ", quickstart"
for words in (["--help"], *([*verb.split(), "--help"] for verb in verbs.split(", "))):
    assert main(words) == 0, words
heavy = {"torch", "lightning", "tensordict", "wandb", "minari", "gymnasium", "matplotlib", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_of_every_verb_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("evalute x", "offrl has no verb 'evalute'; did you mean evaluate?"),
        (
            "zzz",
            "offrl has no verb 'zzz'; there are fit, evaluate, ope, select, plan, collect, data, quickstart, version",
        ),
        ("data shwo x", "offrl data has no verb 'shwo'; did you mean show?"),
        ("collect Pendulum-v1 a/b-v0 --episode 3", "offrl collect has no option --episode; did you mean --episodes?"),
        ("collect Pendulum-v1 a/b-v0 --episodes x", "argument --episodes: invalid int value: 'x'"),
        ("collect Pendulum-v1", "the following arguments are required: dataset_id"),
    ],
)
def test_a_mistake_is_one_sentence(offrl, line: str, sentence: str):
    status, said = offrl(line)
    assert status == 2 and said.startswith(f"offrl: error: {sentence}") and said.count("\n") == 1


def test_version(offrl, capsys):
    from lightning_offrl.cli import main

    assert main(["version"]) == 0
    assert "torch " in capsys.readouterr().out
