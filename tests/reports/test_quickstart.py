"""The quickstart's table, sentences and document, from numbers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_offrl.reports import quickstart as report
from lightning_offrl.reports.plots import Curve
from lightning_offrl.reports.quickstart import QuickstartResult, TrainedPolicy
from tests.reports.html_checks import checked


def trained(name: str, returns: list[float], color: str) -> TrainedPolicy:
    return TrainedPolicy(
        name=name,
        folder=name.lower(),
        color=color,
        settings="hidden 64 x 64",
        returns=returns,
        curve=Curve(name, [0, 50], [-1000.0, returns[0]], [10.0, 10.0], color),
        seconds=12.3,
        angles=[0.0, 0.1, math.pi / 2],
        torques=np.zeros((4, 6)),
    )


@pytest.fixture
def result() -> QuickstartResult:
    return QuickstartResult(
        environment="Pendulum-v1",
        dataset_id="quickstart/x-v0",
        transitions=1_600,
        references=(-1200.0, -200.0),
        returns=[-1000.0, -900.0, -1100.0, -1000.0],
        behaviors=["random", "half", "random", "half"],
        typical=([0.0, 0.1, 0.2], -1000.0),
        torques=np.full((4, 6), np.nan),
        learned=[
            trained("BC", [-990.0, -1010.0], "series-1"),
            trained("IQL", [-200.0, -300.0], "series-2"),
        ],
        updates=6_000,
        seed=0,
        seconds=90.0,
        folder="runs/here",
        versions={"torch": "2"},
    )


def test_the_table_by_hand(result: QuickstartResult) -> None:
    header, (data, bc, iql) = report.rows(result)
    assert header[0] == "policy" and len(header) == 5
    # standard errors: sqrt(20000 / 3) / 2 of the data; 10 of BC; 50 of IQL; 40 of their paired differences 790 and 710
    assert data == ["behavior (the data)", "−1,000 ± 41", "20 ± 4", "", ""]
    assert bc == ["BC", "−1,000 ± 10", "20 ± 1", "+0 ± 42", ""]
    assert iql == ["IQL", "−250 ± 50", "95 ± 5", "+750 ± 65", "+750 ± 40"]
    lines = report.text_table(result).split("\n")
    assert len(lines) == 5 and set(lines[1]) == {"-"} and lines[4].startswith("IQL ") and lines[4].endswith("+750 ± 40")


def test_the_document_says_what_the_comparison_says(result: QuickstartResult) -> None:
    assert result.comparison.clear and result.comparison.best == "IQL"
    document = checked(report.document(result))
    for words in (
        "IQL clearly beats the data it learned from",
        *result.comparison.sentences,
        "<dd>1,600</dd><dt>logged steps</dt>",
        "<dd>1.5 min</dd>",
        "runs/here/iql/policy.pt",
        "torch 2. Seed 0.",
    ):
        assert words in document, words
    row = document[document.index("<tr class=best>") :]
    assert row[: row.index("</tr>")].endswith("<td>+750 ± 40</td> ")


def test_pendulums_turn_as_logged_against_the_clock(result: QuickstartResult) -> None:
    """Every second angle, at 0.05 seconds per step; an angle of 90 degrees counter-clockwise is -90 in CSS."""
    document = checked(report.document(result))
    assert "@keyframes swing2{0%{transform:rotate(-0.0deg)}100%{transform:rotate(-90.0deg)}}" in document
    assert "#rod2{animation:swing2 0.1s linear infinite" in document
    assert document.count('<figure class="pendulum">') == 3


def test_behaviors_are_ranked_from_worst_to_best(result: QuickstartResult) -> None:
    document = checked(report.document(result))
    table = document[document.index("By behavior") :]
    assert 0 < table.index("</i>random</th> <td>2</td> <td>−1,050 ± 50</td>") < table.index("</i>half</th>")
