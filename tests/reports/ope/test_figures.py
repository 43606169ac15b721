"""The figures of an off-policy evaluation hold its numbers."""

from __future__ import annotations

import pytest
import torch

from lightning_offrl.ope.evaluate import evaluate
from lightning_offrl.reports.ope import figures
from lightning_offrl.reports.ope.figures import Bar
from tests.ope.coin_log import POLICY, finite_log


def test_a_bar_is_an_estimate_with_its_interval_or_a_word():
    row = evaluate(POLICY, finite_log(), discount=0.9).row("wis")
    assert figures.bar(row) == Bar("wis", row.value, row.interval.low, row.interval.high, "series-2")
    row.status = "abstains"
    assert figures.bar(row, "mine") == Bar("mine", words="abstains")
    assert figures.bar(None) == Bar("", words="abstains")


def test_intervals_are_drawn_from_top_to_bottom():
    bars = [Bar("a", 1.0, 0.5, 2.0), Bar("b", words="abstains"), Bar("c", 3.0)]
    axes = figures.intervals(bars, {"the log": (1.5, "data")}, x_label="return").axes[0]
    dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in dots] == [(1.0, 0), (3.0, 2)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b abstains", "c"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_weights_of_zero_are_counted_in_the_label():
    log_weights = torch.tensor([0.0, 1.0, -torch.inf, 2.0])
    axes = figures.weights(log_weights).axes[0]
    assert sum(bar.get_height() for bar in axes.patches) == 3
    assert axes.get_xlabel() == "weight of an episode; 1 of 4 are 0"


def test_lines_by_step():
    steps = evaluate(POLICY, finite_log(), discount=0.9).steps
    for figure, values in (
        (figures.effective(steps, 30.0), steps.ess),
        (figures.largest(steps, 0.1), steps.top_share),
        (figures.mean_weight(steps), steps.mean),
    ):
        line, limit = figure.axes[0].get_lines()
        assert line.get_ydata().tolist() == pytest.approx(list(values)) and line.get_xdata().tolist() == [1, 2, 3]
        assert limit.get_label().split(":")[0] in ("needed", "allowed", "expected")
