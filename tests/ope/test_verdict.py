"""The words at the end of an evaluation, on rows written by hand."""

from __future__ import annotations

import torch

from lightning_offrl.ope.estimate import Row
from lightning_offrl.ope.verdict import conclude
from lightning_offrl.ope.weighting.intervals import Resamples, from_refits

COUNTS = torch.ones(50, 4)
NOISE = torch.linspace(-1.0, 1.0, 50, dtype=torch.float64)


def row(name: str, family: str, value: float, noise: torch.Tensor) -> Row:
    refits = value + noise
    return Row(name, family, value, "eligible", from_refits(value, refits), resampled=refits, counts=COUNTS)  # type: ignore[arg-type]


def word(*rows: Row) -> tuple[str, str]:
    verdict = conclude(rows, Resamples(4, 100), spread=10.0, level=0.95)
    return verdict.word, verdict.sentence


def test_one_calculation_written_twice_confirms_nothing():
    """On one-hot features, LSTD and rollouts of the counted model are the same linear solve."""
    lstd, model = row("lstd", "values", 3.0, NOISE), row("mb", "model", 3.0 + 1e-12, NOISE)
    assert word(lstd, model) == (
        "SINGLE",
        "no independent estimate confirms lstd (mb gives lstd's number to rounding, so it confirms nothing)",
    )


def test_close_estimates_of_different_families_agree_and_far_ones_do_not():
    lstd = row("lstd", "values", 3.0, NOISE)
    assert word(lstd, row("mb", "model", 3.1, NOISE.flip(0)))[0] == "AGREE"
    assert word(lstd, row("mb", "model", 6.0, 0.1 * NOISE))[0] == "DISAGREE"
