"""Numbers, bounds and parts of an evaluation as text."""

from __future__ import annotations

import math

from lightning_offrl.ope.estimate import Row
from lightning_offrl.ope.text import bounds, estimate_lines, number, plain_values, verdict_lines
from lightning_offrl.ope.verdict import OPEVerdict
from lightning_offrl.ope.weighting.intervals import Interval


def test_numbers_and_bounds():
    assert [number(x) for x in (1234567.0, 0.5, None, math.nan, math.inf)] == ["1.2346e+06", "0.5", "-", "-", "-"]
    assert bounds(Interval(-1.0, 2.0, 0.95, "delta")) == "[-1, 2]"
    assert bounds(Interval(-math.inf, 2.0, 0.95, "delta")) == bounds(None) == "-"


def test_values_that_json_does_not_have_are_none():
    assert plain_values({"a": (1.0, math.nan), "b": [{"c": -math.inf}], "d": "x"}) == {
        "a": [1.0, None],
        "b": [{"c": None}],
        "d": "x",
    }


def test_each_reason_is_told_once_with_all_who_abstain_for_it():
    rows = [
        Row("naive", "baseline", 1.0, "baseline", Interval(0.5, 1.5, 0.9, "delta")),
        Row("wis", "weights", 9.0, "abstains", reasons=("few weights", "no support")),
        Row("pdis", "weights", 9.0, "abstains", reasons=("few weights",)),
    ]
    assert estimate_lines(rows, 0.9) == [
        "estimator  value  90% interval  ESS",
        "naive      1      [0.5, 1.5]    -    baseline",
        "wis        -      -             -    ABSTAIN",
        "pdis       -      -             -    ABSTAIN",
        "",
        "Abstained because",
        "  wis, pdis: few weights",
        "  wis: no support",
    ]


def test_a_verdict_says_what_is_safe_to_claim():
    said = "\n".join(verdict_lines(OPEVerdict("SINGLE", "one", 2.0, "fqe"), Interval(0.0, 3.0, 0.95, "bounds")))
    assert (
        "Verdict   SINGLE: one." in said and "Conservative value 2 (smallest lower bound of the eligible, fqe)" in said
    )
    assert "the value lies in [0, 3] (95%)" in said
