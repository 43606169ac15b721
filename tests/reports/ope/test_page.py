"""The pages on off-policy evaluation: whole, self-contained, and saying what the evaluation says."""

from __future__ import annotations

import math
import re

import pytest
import torch

from lightning_offrl.errors import InputError
from lightning_offrl.ope.checks.weight_diagnostics import weights_by_step
from lightning_offrl.ope.evaluate import evaluate
from lightning_offrl.ope.policies.target import Deterministic, Tabular
from lightning_offrl.ope.selection.online_plan import plan
from lightning_offrl.ope.selection.ranking import compare
from lightning_offrl.ope.weighting.trajectories import Trajectories
from lightning_offrl.reports.ope import page as ope_page
from lightning_offrl.reports.ope import selection as select_page
from tests.ope.test_evaluate import POLICY, direct, finite_log
from tests.reports.test_html import Balanced, outside_references


def checked(page: str) -> str:
    parser = Balanced()
    parser.feed(page)
    assert not parser.open and outside_references(page) == []
    assert len(re.findall(r'id="([^"]+)"', page)) == len(set(re.findall(r'id="([^"]+)"', page)))
    return page


def test_weights_by_step_by_hand():
    # two episodes, the second ends after one step: its weight stays 2
    data = Trajectories(
        reward=torch.zeros(2, 2),
        mask=torch.tensor([[True, True], [True, False]]),
        log_ratio=torch.tensor([[1.0, 6.0], [2.0, 1.0]]).log(),
    )
    steps = weights_by_step(data)
    assert steps.ess == pytest.approx((9 / 5, 64 / 40))  # weights 1, 2 and then 6, 2
    assert steps.top_share == pytest.approx((2 / 3, 3 / 4)) and steps.mean == pytest.approx((1.5, 4.0))
    assert steps.mean_error == pytest.approx((0.5, 2.0)) and steps.going == (1.0, 0.5)
    never = Trajectories(torch.zeros(2, 1), torch.ones(2, 1).bool(), log_ratio=torch.full((2, 1), -math.inf))
    assert weights_by_step(never).ess == (0.0,) and weights_by_step(never).top_share == (1.0,)


def test_page_of_an_eligible_policy():
    episodes = finite_log()
    fitted = direct(evaluate(POLICY, episodes, discount=0.9).row("cwpdis").value + 0.01, episodes)
    labels = ["one" if i % 3 else "two" for i in range(episodes.n_episodes)]
    found = evaluate(POLICY, episodes, discount=0.9, direct=[fitted], by={"arm": labels}, name="mine <1>", tail=0.25)
    found.provenance = {"data fingerprint": "abc123"}
    page = checked(ope_page.document(found))
    assert "mine &lt;1&gt; would earn about" in page and ope_page.number(found.row("wdr").value) in page
    for word in (
        "By arm",
        "two",
        "Definitions",
        "ris",
        "Overlap",
        "abc123",
        "Do they agree?",
        "How many episodes count",
    ):
        assert word in page, word
    policy = next(one for one in found.tails if one.name == "wis")
    assert policy.eligible and "the policy (wis)" in page and ope_page.number(policy.cvar) in page
    for row in found.rows:
        assert f">{row.name}<" in page
    assert ope_page.number(found.conservative) in page


def test_page_that_abstains_shows_no_number():
    episodes = finite_log()
    found = evaluate(Tabular([[0.05, 0.95], [0.9, 0.1]]), finite_log(n=60, steps=6), discount=0.9, name="far")
    assert found.verdict.word == "ABSTAIN" and found.row("wis").value > 0.0
    page = checked(ope_page.document(found))
    assert "This log cannot say what far would earn" in page
    assert ope_page.number(found.row("wis").value) not in page and found.row("wis").reasons[0][1:] in page
    # no weights at all: no section about them
    other = evaluate(Deterministic(lambda o: torch.zeros(len(o), dtype=torch.int64), 2), episodes, discount=0.9)
    other.steps = other.weights = other.log_weights = None
    assert "How many episodes count" not in checked(ope_page.document(other))


def test_page_of_a_bandit_has_no_time():
    found = evaluate(POLICY, finite_log(steps=1), discount=0.9)
    page = checked(ope_page.document(found))
    assert "the reward of one decision" in page and "Whether one episode decides" not in page


def test_page_of_a_choice(tmp_path):
    episodes = finite_log()
    policies = {"good": POLICY, "poor": Tabular([[0.4, 0.6], [0.6, 0.4]]), "far": Tabular([[0.0, 1.0], [1.0, 0.0]])}
    found = {name: evaluate(p, episodes, discount=0.9, name=name) for name, p in policies.items()}
    choice = compare(found, {"good": 2.0, "poor": 1.2, "far": 0.0})
    choice.again = evaluate(POLICY, finite_log(seed=1), discount=0.9)
    lost = evaluate(policies["far"], finite_log(40, 6), discount=0.9)
    page = checked(select_page.document(choice, plan({**found, "lost": lost}, 4)))
    assert "Choose good" in page and "took no part in the choice" in page
    assert "Whom to play first" in page and "Against the truth" in page
    assert "Ranked by the representative estimate less one standard error." in page
    assert "Not in the plan: lost: no eligible estimate with an interval" in page and ">unknown<" not in page
    assert ">unknown<" in checked(select_page.document(choice, plan({**found, "lost": lost}, 4, unknown=1)))
    nothing = checked(select_page.document(compare({"far": lost})))
    assert "nothing is chosen" in nothing
    assert select_page.write(choice, tmp_path / "choice.html").read_text() == select_page.document(choice)
    with pytest.raises(InputError, match="written as .html"):
        select_page.write(choice, tmp_path / "choice.pdf")
