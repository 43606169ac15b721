"""``offrl select`` as a person would use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_offrl.cli import main, select
from lightning_offrl.ope.selection import ranking
from tests.cli.gaussians import COMMON


def test_choosing_among_policies(log: Path, capsys):
    Path("truth.json").write_text(json.dumps({"better": 0.6, "worse": -0.6, "behavior": 0.0, "far": 3.0}))
    line = (
        f"select --policies better.json worse.json behavior.json far.json {COMMON} --truth truth.json --json out.json"
    )
    assert main(line.split()) == 0
    said = capsys.readouterr().out
    assert "Choice    better" in said and "rank correlation: 1" in said and "regret@1: 0" in said
    assert "Ranked by the representative estimate less one standard error." in said
    found = json.loads(Path("out.json").read_text())
    assert found["by_lower"][0] == "better" and set(found["policies"]) == {"better", "worse", "behavior", "far"}
    assert found["rank_by"] == "less-error" and found["ranking"][0] == found["chosen"] == "better"
    assert found["regret"]["far"] is None and found["regret"]["better"] == 0.0 and found["top"] == ["better"]
    assert main(f"{line} --rank_by conservative".split()) == 0
    assert json.loads(Path("out.json").read_text())["ranking"] == found["by_lower"]
    assert main(f"select --policies far.json {COMMON}".split()) == 3


def test_a_choice_is_checked_on_other_episodes_and_the_first_ones_are_planned(log: Path, capsys):
    Path("played.json").write_text(json.dumps({"worse": [0.1, 0.2]}))
    split = "--confirmation_fraction 0.4 --plan 5 --played played.json"
    line = f"select --policies better.json worse.json far.json {COMMON} {split}"
    assert main(f"{line} --json out.json --report page.html".split()) == 0
    said = capsys.readouterr().out
    assert "On 120 other episodes its value is" in said and "Plan      the next 5 episodes" in said
    assert "not in the plan: far: no eligible estimate" in said
    assert "Which to run first" in Path("page.html").read_text()
    found = json.loads(Path("out.json").read_text())
    assert found["again"]["episodes"] == 120 and found["policies"]["better"]["episodes"] == 180
    assert found["plan"]["played"] == [0.0, 2.0] and len(found["plan"]["order"]) == 5
    # again from the file: the same plan without evaluating anything, and another with more episodes and the unknown one
    assert main("plan out.json --episodes 5 --played played.json --json again.json".split()) == 0
    assert json.loads(Path("again.json").read_text()) == found
    Path("played.json").write_text(json.dumps({"worse": [0.1, 0.2], "better": [0.9]}))
    capsys.readouterr()
    assert main("plan out.json --episodes 6 --plan_unknown 2 --played played.json".split()) == 0
    said = capsys.readouterr().out
    assert "order: far x 2, " in said and "not in the plan" not in said


def test_the_rankings_of_the_command_line_are_those_of_the_package():
    assert tuple(ranking.RANKINGS) == select.RANKINGS and ranking.RANK_BY == select.RANKINGS[0]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "select --policies better.json ./better.json --data log.npz --direct none",
            "two of the policies are called 'better'",
        ),
        ("select --policies better.json --data log.npz --direct none --truth nothere.json", "must be JSON"),
        ("select --policies better.json --data log.npz --direct none --played x.json", "give --plan N as well"),
        ("select --policies better.json --data log.npz --direct none --plan_unknown 2", "give --plan N as well"),
    ],
)
def test_mistakes_are_told_in_one_sentence(log: Path, offrl, line: str, sentence: str):
    status, said = offrl(line)
    assert status == 2 and sentence in said and said.count("\n") == 1
