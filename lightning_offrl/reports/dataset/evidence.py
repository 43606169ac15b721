"""The numbers on which a sentence of a dataset report rests, and the result of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OURS = "our choice"
"""The source of a limit that no publication gives."""

Level = Literal["problem", "warning", "fine"]


@dataclass(frozen=True)
class Evidence:
    """A number on which a sentence rests.

    Attributes:
        name: what was measured.
        value: the number, with its unit.
        limit: what it was compared with; empty where nothing was.
        source: where the limit comes from.
    """

    name: str
    value: str
    limit: str = ""
    source: str = ""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        topic: what was checked.
        level: "problem" (to be repaired), "warning" (to be kept in mind), or "fine".
        sentence: what was found, and what follows.
        evidence: the numbers behind it.
    """

    topic: str
    level: Level
    sentence: str
    evidence: tuple[Evidence, ...] = ()
