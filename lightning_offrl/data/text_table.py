"""Tables as plain text: rows of cells become lines with columns."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> list[str]:
    """One line for each row, with two spaces between the columns.

    Args:
        rows: cells of equal count in every row; the first row may be the header.
        numbers: write every column but the first against its right edge, as numbers are read. False: write all columns
            against their left edge.

    Returns:
        Lines without blanks at the end.

    >>> aligned([["policy", "return"], ["iql", "81.50"], ["bc", "7.25"]], numbers=True)
    ['policy  return', 'iql      81.50', 'bc        7.25']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    justify = [str.ljust, *[str.rjust if numbers else str.ljust] * len(widths)]
    return ["  ".join(map(lambda f, cell, width: f(cell, width), justify, row, widths)).rstrip() for row in rows]
