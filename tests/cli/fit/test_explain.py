"""Sentences for jsonargparse's reports; `test_fit.py` has those of whole command lines."""

from __future__ import annotations

import pytest

from lightning_offrl.algorithms.iql import IQL
from lightning_offrl.cli.fit.explain import explain, inner_sentence, parameters, subclass_names
from lightning_offrl.training.algorithm import OfflineAlgorithm

OPTIONS = ["--trainer.max_steps", "--data.batch_size", "--run_dir"]


@pytest.mark.parametrize(
    ("report", "sentence"),
    [
        ("unrecognized arguments: --run_dri=x y", "fit has no option --run_dri; did you mean --run_dir?"),
        ("the following arguments are required: data.source", "a dataset is missing: give --data.source with a Minari"),
        (
            "Parser key \"trainer.max_steps\":\n  Expected a <class 'int'>. Got value: x",
            "trainer.max_steps must be a whole",
        ),
        ("Option 'data.batchsize' is not accepted", "there is no option 'data.batchsize'"),
    ],
)
def test_reports_become_sentences(report: str, sentence: str):
    assert explain(report, OPTIONS, IQL).startswith(sentence)


def test_the_reason_inside_is_told():
    report = "Does not validate against any type\nErrors:\n  - Expected a <class 'int'>\n  - tau must lie in (0, 1]\n"
    assert inner_sentence(report) == "tau must lie in (0, 1]"
    assert inner_sentence("two\n  lines") == "two lines"


def test_parameters_of_all_bases_are_known():
    names = parameters(IQL)
    assert {"expectile", "seeds", "compile"} <= set(names) and not {"self", "spec", "common"} & set(names)
    assert "IQL" in subclass_names(OfflineAlgorithm)
