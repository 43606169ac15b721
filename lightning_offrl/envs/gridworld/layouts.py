"""Drawings of grids: those that come with the package, and reading them."""

from __future__ import annotations

import numpy as np

from lightning_offrl.envs.gridworld.picture import ARROWS
from lightning_offrl.errors import InputError

LAYOUTS = {
    "corridor": """
        S......G
    """,
    "open": """
        S.......
        ........
        ........
        ........
        ........
        .......G
    """,
    "cliff": """
        ..........
        ..........
        ..........
        SCCCCCCCCG
    """,
    "windy": """
        ....^^^^...
        ....^^^^...
        S...^^^^.G.
        ....^^^^...
        ....^^^^...
    """,
    # Two ways to the middle, two from there to the goal: 4 or 10 steps, 2 across, 4 or 10 steps.
    "stitch": """
        .....#.....
        .###.#.###.
        .###.#.###.
        S.........G
    """,
    "four-rooms": """
        #############
        #S....#.....#
        #.....#.....#
        #...........#
        #.....#.....#
        #.....#.....#
        ##.####.....#
        #.....###.###
        #.....#.....#
        #.....#.....#
        #...........#
        #.....#....G#
        #############
    """,
}

STITCH_POLICIES = (
    """
    >>>>v#.....
    ^###v#.###.
    ^###v#.###.
    ^...>>>>>>.
    """,
    """
    .....#>>>>v
    .###.#^###v
    .###.#^###v
    >>>>>>^....
    """,
)
"""For the layout "stitch": the long way first, and the long way last (16 steps each; the best of both takes 10)."""
STITCH_HALVES = (
    """
    .....#^....
    .###.#^###.
    .###.#^###.
    >>>>>>^....
    """,
    """
    ....v#.....
    .###v#.###.
    .###v#.###.
    ....>>>>>>.
    """,
)
"""For the layout "stitch": from the start to the middle and then astray, for ever against the wall; and, beginning at
row 0, column 4, to the goal. Neither goes from the start to the goal, the best of both does, in 10 steps."""


def read_layout(layout: str) -> np.ndarray:
    """The characters of a layout ``[rows, columns]``, checked."""
    if not isinstance(layout, str):
        raise InputError(f"a layout is a name ({', '.join(LAYOUTS)}) or a drawing, got {type(layout).__name__}")
    known = set("#.SGC" + ARROWS)
    if layout not in LAYOUTS and "\n" not in layout and set(layout) - known:
        raise InputError(f"there is no layout {layout!r}: name one of {', '.join(LAYOUTS)}, or give a drawing")
    signs = read_lines(LAYOUTS.get(layout, layout))
    strange = sorted(set(signs.ravel().tolist()) - known)
    if strange:
        row, column = np.argwhere(signs == strange[0])[0]
        raise InputError(
            f"the layout has {strange[0]!r} at row {row}, column {column}; it may have # . S G C ^ v < > (wall, floor, "
            "start, goal, cliff, wind)"
        )
    for sign, what in (("S", "start"), ("G", "goal")):
        if not (signs == sign).any():
            raise InputError(f"the layout has no {what}; mark one with {sign}")
    return signs


def read_lines(drawing: str) -> np.ndarray:
    """The characters of a drawing ``[rows, columns]``, surrounding blank space cut off; unchecked but for its shape."""
    lines = [line.strip() for line in drawing.strip().splitlines()]
    if not lines:
        raise InputError("the drawing is empty; give one line of characters for each row")
    if len({len(line) for line in lines}) != 1:
        odd = next(i for i, line in enumerate(lines) if len(line) != len(lines[0]))
        raise InputError(
            f"the lines of a layout must be equally long: the first has {len(lines[0])} characters, line {odd + 1} has "
            f"{len(lines[odd])}; fill up with # or ."
        )
    return np.array([list(line) for line in lines])


def size_text(signs: np.ndarray) -> str:
    """The size of a drawing in words."""
    return f"{signs.shape[0]} rows of {signs.shape[1]}"
