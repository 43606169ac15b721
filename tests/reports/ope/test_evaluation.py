"""The report of an off-policy evaluation: whole, self-contained, and saying what the evaluation says."""

from __future__ import annotations

import torch

from lightning_offrl.ope.evaluate import evaluate
from lightning_offrl.ope.policies.target import Deterministic, Tabular
from lightning_offrl.reports.formatting import four_digits
from lightning_offrl.reports.ope import evaluation as report
from tests.ope.coin_log import POLICY, direct, finite_log
from tests.reports.html_checks import checked


def test_report_of_an_eligible_policy():
    episodes = finite_log()
    fitted = direct(evaluate(POLICY, episodes, discount=0.9).row("cwpdis").value + 0.01, episodes)
    labels = ["one" if i % 3 else "two" for i in range(episodes.n_episodes)]
    found = evaluate(POLICY, episodes, discount=0.9, direct=[fitted], by={"arm": labels}, name="mine <1>", tail=0.25)
    found.provenance = {"data fingerprint": "abc123"}
    document = checked(report.document(found))
    assert "mine &lt;1&gt; would earn about" in document and four_digits(found.row("wdr").value) in document
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
        assert word in document, word
    policy = next(one for one in found.tails if one.name == "wis")
    assert policy.eligible and "the policy (wis)" in document and four_digits(policy.cvar) in document
    for row in found.rows:
        assert f">{row.name}<" in document
    assert four_digits(found.conservative) in document


def test_report_that_abstains_shows_no_number():
    episodes = finite_log()
    found = evaluate(Tabular([[0.05, 0.95], [0.9, 0.1]]), finite_log(n=60, steps=6), discount=0.9, name="far")
    assert found.verdict.word == "ABSTAIN" and found.row("wis").value > 0.0
    document = checked(report.document(found))
    assert "This log cannot say what far would earn" in document
    assert four_digits(found.row("wis").value) not in document and found.row("wis").reasons[0][1:] in document
    # no weights at all: no section about them
    other = evaluate(Deterministic(lambda o: torch.zeros(len(o), dtype=torch.int64), 2), episodes, discount=0.9)
    other.steps = other.weights = other.log_weights = None
    assert "How many episodes count" not in checked(report.document(other))


def test_report_of_a_bandit_has_no_time():
    found = evaluate(POLICY, finite_log(steps=1), discount=0.9)
    document = checked(report.document(found))
    assert "the reward of one decision" in document and "Whether one episode decides" not in document
