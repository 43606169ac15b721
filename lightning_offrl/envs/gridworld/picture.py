"""A grid as pixels: floor colored by values, policies as arrows, the agent as a disc."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

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
_FINE = 4  # drawn so many times as large, and then averaged: smooth edges


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
    size = cell * _FINE
    image = Image.new("RGB", (grid.shape[1] * size, grid.shape[0] * size), _COLORS["#"])
    canvas = ImageDraw.Draw(image)
    share = np.zeros(len(cells))
    if values is not None:
        inside = np.asarray(values, dtype=np.float64)[~terminal]
        share[~terminal] = (inside - inside.min()) / max(np.ptp(inside), 1e-12)
    for state, (row, column) in enumerate(cells):
        sign, corner = str(grid[row, column]), np.array([column, row]) * size
        color = np.array(_COLORS.get(sign, _COLORS["."]), dtype=np.float64)
        if values is not None and not terminal[state]:
            color = (1.0 - share[state]) * _DARK + share[state] * _LIGHT
        box = [*corner.tolist(), *(corner + size - 1).tolist()]
        canvas.rectangle(box, _rgb(color), outline=_rgb(0.92 * color), width=_FINE)
        middle = corner + (size - 1) / 2.0
        if sign in ARROWS:
            canvas.polygon(_arrow(middle, size, ARROWS.index(sign), 1.6), _WIND)
        if policy is not None and not terminal[state]:
            for action, chance in enumerate(policy[state]):
                if chance > 0.02:
                    offset = 0.0 if chance > 0.98 else 0.24
                    canvas.polygon(_arrow(middle, size, action, 0.2 + 0.6 * float(chance), offset), _INK)
        if state == agent:
            canvas.circle(middle.tolist(), 0.31 * size, _AGENT)
    return np.asarray(image.reduce(_FINE))


def _rgb(color: np.ndarray) -> tuple[int, ...]:
    return tuple(int(part) for part in color.round())


def _arrow(middle: np.ndarray, size: int, action: int, scale: float, offset: float = 0.0) -> list[tuple[float, ...]]:
    """Corners of an arrow's head, pushed from the middle by ``offset`` cells in its direction."""
    along, half = MOVES[action][::-1], scale * size / 4.0
    across, center = along[::-1], middle + offset * size * along
    corners = (center + half * along, *(center - half * along + end * 1.25 * half * across for end in (-1.0, 1.0)))
    return [tuple(corner.tolist()) for corner in corners]
