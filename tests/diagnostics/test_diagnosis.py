"""Lines between levels, and diagnoses as text and metrics."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from lightning_offrl.diagnostics.diagnosis import (
    ALARM_AUC,
    ALARM_BITS,
    ALARM_TV,
    CAUTION_AUC,
    CAUTION_BITS,
    CAUTION_TV,
    Diagnosis,
    as_text,
    level_of,
    limit_bits,
)
from tests.diagnostics.gaussian import PHI, z_of


def test_lines_are_those_of_gaussian_shifts() -> None:
    for bits, auc, tv in ((CAUTION_BITS, CAUTION_AUC, CAUTION_TV), (ALARM_BITS, ALARM_AUC, ALARM_TV)):
        z = z_of(bits)
        assert PHI(z / math.sqrt(2.0)) == pytest.approx(auc, abs=0.005)
        assert 2.0 * PHI(z / 2.0) - 1.0 == pytest.approx(tv, abs=0.005)
    assert limit_bits(30) == 0.0 and limit_bits(7) == 0.0
    for n in (100, 1_000, 10_000):  # n 2^(-2 KL) = 30 at the limit
        assert n * 2.0 ** (-2.0 * limit_bits(n)) == pytest.approx(30.0)
    assert level_of(math.nan, 1.0, 5.0) == "unknown"


def test_as_text_and_metrics() -> None:
    one = Diagnosis("auc", 0.91, "caution", "far apart.", "less of it", {"tv": 0.6, "nothing": math.nan})
    two = Diagnosis("q_drift", math.nan, "unknown", "no.", "wait")
    lines = as_text([one, two, replace(one, name="tv")]).splitlines()
    assert len(lines) == 4 and "0.91" in lines[0] and " - " in lines[1] and lines[3] == "try (auc, tv): less of it"
    assert one.metrics() == {"shift/auc": 0.91, "shift/tv": 0.6} and two.metrics() == {}
