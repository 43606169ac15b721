"""A grid as pixels: floor colored by values, policies as arrows, the agent as a disc. Numpy alone, smooth edges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ARROWS = "^<>v"
"""One sign for each action, in the order of the actions."""
MOVES = np.array([(-1, 0), (0, -1), (0, 1), (1, 0)])
"""Rows and columns that each action goes; those of actions a and 3 - a are opposite."""

_COLORS = {
    "#": (52, 58, 70),
    ".": (244, 243, 238),
    "S": (214, 228, 245),
    "G": (104, 176, 116),
    "C": (201, 84, 72),
}
_DARK, _LIGHT = np.array([70.0, 62.0, 133.0]), np.array([250.0, 231.0, 160.0])
_WIND, _INK, _AGENT = (166, 196, 222), (40, 42, 54), (226, 129, 42)


def draw(
    grid: np.ndarray,
    cells: np.ndarray,
    terminal: np.ndarray,
    *,
    values: np.ndarray | None = None,
    policy: np.ndarray | None = None,
    agent: int | None = None,
    cell: int = 32,
) -> np.ndarray:
    """The grid as pixels.

    Args:
        grid: ``[rows, columns]``, the characters of the drawing.
        cells: ``[S, 2]``, row and column of each state.
        terminal: ``[S]`` bool.
        values: ``[S]``, colors the floor from dark (smallest) to light (largest).
        policy: ``[S, 4]``, drawn as arrows as large as their probability.
        agent: the state it is in.
        cell: pixels a side.

    Returns:
        uint8 ``[rows * cell, columns * cell, 3]``.
    """
    rows, columns = grid.shape
    image = np.full((rows, columns, cell, cell, 3), _COLORS["#"], dtype=np.float64)
    share = np.zeros(len(cells))
    if values is not None:
        inside = np.asarray(values, dtype=np.float64)[~terminal]
        share[~terminal] = (inside - inside.min()) / max(np.ptp(inside), 1e-12)
    edge = np.minimum(np.arange(cell), np.arange(cell)[::-1])
    border = np.minimum(edge[:, None], edge) < 1
    for state, (row, column) in enumerate(cells):
        tile, sign = image[row, column], str(grid[row, column])
        color = np.array(_COLORS.get(sign, _COLORS["."]), dtype=np.float64)
        if values is not None and not terminal[state]:
            color = (1.0 - share[state]) * _DARK + share[state] * _LIGHT
        tile[...] = color
        tile[border] = 0.92 * color
        if sign in ARROWS:
            _paint(tile, _arrow(cell, ARROWS.index(sign), 1.6), _WIND)
        if policy is not None and not terminal[state]:
            for action, chance in enumerate(policy[state]):
                if chance > 0.02:
                    offset = 0.0 if chance > 0.98 else 0.24
                    _paint(tile, _arrow(cell, action, 0.2 + 0.6 * float(chance), offset), _INK)
        if state == agent:
            _paint(tile, _disc(cell, 0.62), _AGENT)
    return image.transpose(0, 2, 1, 3, 4).reshape(rows * cell, columns * cell, 3).round().astype(np.uint8)


def _paint(tile: np.ndarray, cover: np.ndarray, color: Sequence[int]) -> None:
    tile[...] = tile * (1.0 - cover[..., None]) + np.array(color, dtype=np.float64) * cover[..., None]


def _disc(cell: int, size: float) -> np.ndarray:
    """Coverage ``[cell, cell]`` in [0, 1] of a disc with this diameter, in cells."""
    y, x = np.mgrid[:cell, :cell] - (cell - 1) / 2.0
    return np.clip(size * cell / 2.0 - np.hypot(x, y) + 0.5, 0.0, 1.0)


def _arrow(cell: int, action: int, size: float, offset: float = 0.0) -> np.ndarray:
    """Coverage of an arrow's head, pushed from the middle by ``offset`` cells in its direction."""
    y, x = np.mgrid[:cell, :cell] - (cell - 1) / 2.0
    down, right = MOVES[action]
    along = y * down + x * right - offset * cell
    across = np.abs(x * down + y * right)
    half = size * cell / 4.0
    # Two slanted sides and the base, as distances to the inside.
    slanted = (half - along - 1.6 * across) / np.hypot(1.0, 1.6)
    return np.clip(np.minimum(slanted, along + half) + 0.5, 0.0, 1.0)
