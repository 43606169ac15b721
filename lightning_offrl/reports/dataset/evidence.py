"""What a sentence of a dataset report stands on, and how numbers are written in it."""

from __future__ import annotations

from dataclasses import dataclass

OURS = "our choice"


@dataclass(frozen=True)
class Evidence:
    """What a sentence stands on.

    Attributes:
        name: what was measured.
        value: with its unit.
        limit: what it was compared with; empty where nothing was.
        source: where the limit comes from.
    """

    name: str
    value: str
    limit: str = ""
    source: str = ""


def percent(share: float) -> str:
    """A share in per cent, never rounded to none or all.

    >>> percent(0.5), percent(0.0001), percent(0.99999), percent(0.0)
    ('50 %', '<0.1 %', '>99.9 %', '0 %')
    """
    if 0.0 < share < 0.0005 or 0.9995 < share < 1.0:
        return "<0.1 %" if share < 0.5 else ">99.9 %"
    return f"{100 * share:.1f}".rstrip("0").rstrip(".") + " %"


def several(count: int, one: str, more: str = "") -> str:
    """A count and what it counts.

    >>> several(1, "policy", "policies"), several(3, "episode")
    ('1 policy', '3 episodes')
    """
    return f"{count:,} {one if count == 1 else more or one + 's'}"
