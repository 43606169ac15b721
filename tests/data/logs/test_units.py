"""Conversions of units and durations."""

from __future__ import annotations

import pytest

from lightning_offrl.data.logs.units import conversion, seconds
from lightning_offrl.errors import InputError


@pytest.mark.parametrize(
    ("old", "new", "given", "expected"),
    [("degF", "degC", 212.0, 100.0), ("h", "min", 1.5, 90.0), ("%", "1", 50.0, 0.5), ("kg", "g", 2.0, 2000.0)],
)
def test_conversions(old: str, new: str, given: float, expected: float) -> None:
    factor, offset = conversion(old, new, "x")
    assert factor * given + offset == pytest.approx(expected, rel=1e-12)
    back, shift = conversion(new, old, "x")
    assert back * expected + shift == pytest.approx(given, rel=1e-12)


def test_what_cannot_be_converted() -> None:
    with pytest.raises(InputError, match="x cannot be converted from kg .* to h .time."):
        conversion("kg", "h", "x")
    with pytest.raises(InputError, match="unit 'Kg', which is not known; did you mean 'kg'"):
        conversion("Kg", "g", "x")


@pytest.mark.parametrize("text", ["", "0", "-3h", "6 parsecs", True, "inf"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InputError, match="gap must be a duration above zero"):
        seconds(text, "gap")


def test_durations() -> None:
    assert (seconds("6h", ""), seconds(" 1.5 min ", ""), seconds(90, "")) == (21600.0, 90.0, 90.0)
