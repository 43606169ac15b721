"""How every figure and report looks: colors by role, light and dark, fonts, and figures as inline SVG or as files.

A figure is drawn with the colors of `COLORS`. `svg` turns each into a CSS variable (``var(--ink, #1f2933)``), so
that a figure inside a report follows the report's theme; `save` writes the same figure as a file on white.

matplotlib is driven through ``Figure`` alone, without ``pyplot``: no global state, no window, safe in any thread.
"""

from __future__ import annotations

import html
import io
import re
import zlib
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

COLORS = {
    "ink": "#1f2933",
    "muted": "#6b7785",
    "rule": "#d5dbe1",
    "data": "#7d8794",
    "series-1": "#c2700a",
    "series-2": "#0a6fb8",
    "series-3": "#0b8a68",
    "series-4": "#a94a8c",
    "series-5": "#8a6d00",
    "step-1": "#d3bfdc",
    "step-2": "#b08cc4",
    "step-3": "#85589f",
    "step-4": "#552b70",
}
"""Roles and their colors on white; a report in a dark theme takes those of `DARK`."""
DARK = {
    "ink": "#e4e9ee",
    "muted": "#98a5b3",
    "rule": "#303b47",
    "data": "#9aa7b5",
    "series-1": "#f0a04b",
    "series-2": "#5db2ee",
    "series-3": "#3fcfa0",
    "series-4": "#e08bc4",
    "series-5": "#d9b84a",
    "step-1": "#5b4669",
    "step-2": "#8561a0",
    "step-3": "#b18fd0",
    "step-4": "#e3d0f2",
}
"""The same roles on a dark background."""
STEPS = ("step-1", "step-2", "step-3", "step-4")
"""Ordered, from little to much."""
DIVERGING = LinearSegmentedColormap.from_list("offrl", ["#0a6fb8", "#7fb2d9", "#f3f1ec", "#e3a86a", "#b25a00"])
"""Blue to orange by way of a light middle, for signed values."""

STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it takes the report's font, can be selected and read aloud
    "svg.hashsalt": "lightning_offrl",  # the same figure is the same bytes
    "font.size": 10.5,
    "font.family": "sans-serif",
    "text.color": COLORS["ink"],
    "axes.labelcolor": COLORS["ink"],
    "axes.edgecolor": COLORS["rule"],
    "axes.labelsize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": COLORS["muted"],
    "ytick.color": COLORS["muted"],
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "grid.color": COLORS["rule"],
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 10,
}


def svg(figure: Figure, description: str) -> Markup:
    """The figure as an inline ``<svg>`` that follows the theme of the report around it.

    Args:
        figure: drawn with the colors of `COLORS`.
        description: what a reader who cannot see it should hear.

    Returns:
        Markup without XML declaration, metadata or outside references.
    """
    buffer = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    markup = buffer.getvalue()
    markup = markup[markup.index("<svg") :]
    markup = re.sub(r"<metadata>.*?</metadata>\s*", "", markup, flags=re.DOTALL)
    markup = re.sub(r"<!--.*?-->\s*", "", markup, flags=re.DOTALL)
    # Sizes come from the report; the viewBox keeps the proportions.
    markup = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", markup, count=1)
    markup = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", markup, count=1)
    markup = re.sub(r"font: [^;\"]*?([\d.]+)px [^;\"]*", r"font-size: \1px", markup)
    markup = re.sub(r"font-family: [^;\"]*;? ?", "", markup)
    for role, color in COLORS.items():
        markup = markup.replace(color, f"var(--{role}, {color})")
    # Several figures in one report: names that matplotlib repeats in each must differ.
    prefix = f"f{zlib.crc32(description.encode()):x}"
    markup = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', markup)
    markup = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", markup)
    markup = re.sub(r'xlink:href="#([^"]+)"', rf'xlink:href="#{prefix}-\1"', markup)
    label = html.escape(description, quote=True)
    return Markup(markup.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip())


def save(figure: Figure, path: str | Path) -> Path:
    """Write the figure on white as PNG, SVG or PDF, by the ending of ``path``.

    Returns:
        The path.
    """
    with rc_context(STYLE):
        figure.savefig(path, dpi=160, facecolor="white")
    return Path(path)


def figure_row(n: int, width: float = 5.2, height: float = 3.7) -> tuple[Figure, list[Axes]]:
    """A figure with ``n`` axes side by side, for functions that take ``axes``."""
    with rc_context(STYLE):
        figure = Figure(figsize=(n * width, height), layout="constrained")
        return figure, list(figure.subplots(1, n, squeeze=False)[0])


def legend_above(axes: Axes) -> None:
    """The legend in a row over the axes."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=4,
        handlelength=1.6,
        columnspacing=1.2,
        borderaxespad=0.2,
        handletextpad=0.5,
    )
