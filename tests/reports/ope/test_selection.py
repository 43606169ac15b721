"""The report of a choice among policies."""

from __future__ import annotations

import pytest

from lightning_offrl.errors import InputError
from lightning_offrl.ope.evaluate import evaluate
from lightning_offrl.ope.policies.target import Tabular
from lightning_offrl.ope.selection.online_plan import plan
from lightning_offrl.ope.selection.ranking import compare
from lightning_offrl.reports.ope import selection as report
from tests.ope.coin_log import POLICY, finite_log
from tests.reports.html_checks import checked


def test_report_of_a_choice(tmp_path):
    episodes = finite_log()
    policies = {"good": POLICY, "poor": Tabular([[0.4, 0.6], [0.6, 0.4]]), "far": Tabular([[0.0, 1.0], [1.0, 0.0]])}
    found = {name: evaluate(p, episodes, discount=0.9, name=name) for name, p in policies.items()}
    choice = compare(found, {"good": 2.0, "poor": 1.2, "far": 0.0})
    choice.again = evaluate(POLICY, finite_log(seed=1), discount=0.9)
    lost = evaluate(policies["far"], finite_log(40, 6), discount=0.9)
    document = checked(report.document(choice, plan({**found, "lost": lost}, 4)))
    assert "Choose good" in document and "took no part in the choice" in document
    assert "Which to run first" in document and "Against the truth" in document
    assert "Ranked by the representative estimate less one standard error." in document
    assert "Not in the plan: lost: no eligible estimate with an interval" in document and ">unknown<" not in document
    assert ">unknown<" in checked(report.document(choice, plan({**found, "lost": lost}, 4, unknown=1)))
    nothing = checked(report.document(compare({"far": lost})))
    assert "nothing is chosen" in nothing
    assert report.write(choice, tmp_path / "choice.html").read_text() == report.document(choice)
    with pytest.raises(InputError, match="written as .html"):
        report.write(choice, tmp_path / "choice.pdf")
