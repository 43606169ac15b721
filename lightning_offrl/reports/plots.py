"""Figures that several reports draw: learning curves, strips of episodes, histograms, signed quantities over a plane.

Every figure takes its colors and fonts from `lightning_offrl.reports.theme`; axes are labeled with units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_offrl.reports.compare_returns import standard_error
from lightning_offrl.reports.formatting import tick_label
from lightning_offrl.reports.theme import COLORS, DIVERGING, STYLE, legend_above

_MARKERS = ("o", "s", "D", "^", "v")


@dataclass(frozen=True)
class Curve:
    """One line of a learning curve.

    Attributes:
        name: as it stands in the legend.
        x: gradient updates, ``[P]``.
        y: mean over evaluation episodes, ``[P]``.
        error: standard error of ``y``, ``[P]``; None draws no band.
        color: a role of `COLORS`.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None
    color: str = "series-1"


@dataclass(frozen=True)
class Group:
    """The values of one row of a strip plot.

    Attributes:
        name: as it stands beside the row.
        values: one per episode, ``[E]``.
        color: a role of `COLORS`.
    """

    name: str
    values: Sequence[float]
    color: str = "data"


def learning_curves(
    curves: Sequence[Curve],
    *,
    y_label: str,
    references: Mapping[str, float] | None = None,
    axes: Axes | None = None,
) -> Figure:
    """Lines with bands of one standard error, and dashed horizontal references.

    Args:
        curves: the lines, in the order of the legend.
        y_label: what is measured, with its unit.
        references: name and height of each horizontal line, e.g. the behavior's mean return.
        axes: draw here, in a figure of the caller's, instead of in a new one.

    Returns:
        The figure.
    """
    with rc_context(STYLE):
        figure, axes = _figure(3.7, axes)
        axes.grid(axis="y")
        for name, value in (references or {}).items():
            axes.axhline(value, color=COLORS["data"], linewidth=1.4, linestyle=(0, (5, 3)), label=name, zorder=1.5)
        for marker, curve in zip(cycle(_MARKERS), curves, strict=False):
            color = COLORS[curve.color]
            x, y = np.asarray(curve.x, dtype=np.float64), np.asarray(curve.y, dtype=np.float64)
            if curve.error is not None:
                error = np.asarray(curve.error, dtype=np.float64)
                axes.fill_between(x, y - error, y + error, color=color, alpha=0.16, linewidth=0)
            axes.plot(
                x,
                y,
                color=color,
                marker=marker,
                markersize=4.2,
                linewidth=1.9,
                label=curve.name,
                solid_capstyle="round",
            )
        axes.set_xlabel("gradient updates")
        axes.set_ylabel(y_label)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.yaxis.set_major_formatter(tick_label)
        axes.locator_params(axis="x", nbins=6)
        legend_above(axes)
        return figure


def episode_strip(
    groups: Sequence[Group],
    *,
    x_label: str,
    axes: Axes | None = None,
    height: float | None = None,
) -> Figure:
    """One row per group: every episode as a dot, the mean as a bar with its standard error.

    Args:
        groups: the rows, from top to bottom.
        x_label: what is measured, with its unit.
        axes: draw here, in a figure of the caller's, instead of in a new one.
        height: inches; None makes room for the rows.

    Returns:
        The figure.
    """
    rng = np.random.default_rng(0)  # of the vertical jitter, which carries no meaning
    with rc_context(STYLE):
        figure, axes = _figure(height or 1.0 + 0.62 * len(groups), axes)
        axes.grid(axis="x")
        for row, group in enumerate(groups):
            values, color = np.asarray(group.values, dtype=np.float64), COLORS[group.color]
            crowd = min(1.0, 40 / max(len(values), 1))
            axes.scatter(
                values,
                row + rng.uniform(-0.26, 0.26, len(values)),
                s=16,
                color=color,
                alpha=0.25 + 0.35 * crowd,
                linewidth=0,
            )
            mean = float(values.mean())
            axes.errorbar(
                mean, row, xerr=standard_error(group.values), color=color, elinewidth=2.4, capsize=0, zorder=4
            )
            axes.plot([mean, mean], [row - 0.34, row + 0.34], color=color, linewidth=3.2, zorder=4)
        axes.set_yticks(range(len(groups)), [group.name for group in groups])
        axes.tick_params(axis="y", length=0, labelcolor=COLORS["ink"], labelsize=10.5)
        axes.set_ylim(len(groups) - 0.45, -0.55)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_formatter(tick_label)
        axes.locator_params(axis="x", nbins=7)
        return figure


def histogram(
    values: Sequence[float],
    *,
    x_label: str,
    y_label: str = "episodes",
    bins: int = 24,
    parts: Sequence[Group] = (),
    legend: bool = True,
) -> Figure:
    """Counts of ``values``; with ``parts``, the bars are stacked by part.

    Args:
        values: ``[E]``, all of them; they set the bins.
        x_label: what is counted, with its unit.
        y_label: what one count is.
        bins: number of bars.
        parts: a partition of the values, e.g. by the behavior that made the episode, from the bottom of a bar up.
        legend: name the parts above the axes; without, the text around the figure has to.

    Returns:
        The figure.
    """
    array = np.asarray(values, dtype=np.float64)
    edges = np.histogram_bin_edges(array, bins=bins).tolist()
    with rc_context(STYLE):
        figure, axes = _figure(3.4)
        axes.grid(axis="y")
        if parts:
            stacks = [np.asarray(part.values, dtype=np.float64) for part in parts]
            colors, names = [COLORS[part.color] for part in parts], [part.name for part in parts]
            axes.hist(stacks, bins=edges, stacked=True, color=colors, label=names, rwidth=0.9)
            if legend:
                legend_above(axes)
        else:
            axes.hist(array, bins=edges, color=COLORS["data"], rwidth=0.9)
        axes.axvline(float(array.mean()), color=COLORS["ink"], linewidth=1.6)
        top = axes.get_ylim()[1]
        axes.set_ylim(top=top * 1.12)
        on_right = array.mean() < (edges[0] + edges[-1]) / 2
        axes.annotate(
            f"mean {tick_label(float(array.mean()))}",
            (float(array.mean()), top * 1.1),
            xytext=(5 if on_right else -5, 0),
            textcoords="offset points",
            ha="left" if on_right else "right",
            va="top",
        )
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_formatter(tick_label)
        axes.locator_params(axis="x", nbins=7)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        return figure


def field(
    values: np.ndarray[Any, Any],
    *,
    extent: tuple[float, float, float, float],
    x_label: str,
    y_label: str,
    color_label: str,
    limit: float,
) -> Figure:
    """A signed quantity over a plane, blue below zero and orange above; nan stays blank.

    Args:
        values: ``[H, W]``, the first row at the bottom.
        extent: left, right, bottom, top of the plane, in the axes' units.
        x_label: with its unit.
        y_label: with its unit.
        color_label: what the color shows, with its unit.
        limit: the colors end at ``-limit`` and ``limit``.

    Returns:
        The figure.
    """
    with rc_context(STYLE):
        figure, axes = _figure(3.1, width=2.9)
        image = axes.imshow(
            values, origin="lower", extent=extent, aspect="auto", cmap=DIVERGING, vmin=-limit, vmax=limit
        )
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_formatter(tick_label)
        axes.yaxis.set_major_formatter(tick_label)
        axes.set_xticks(np.linspace(extent[0], extent[1], 5))
        axes.set_yticks(np.linspace(extent[2], extent[3], 5))
        bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.9, aspect=28, pad=0.04)
        bar.set_label(color_label)
        bar.set_ticks([-limit, 0.0, limit])
        bar.ax.xaxis.set_major_formatter(tick_label)
        bar.outline.set_visible(False)
        return figure


def _figure(height: float, axes: Axes | None = None, width: float = 5.2) -> tuple[Figure, Axes]:
    if axes is not None:
        return axes.get_figure(root=True), axes  # type: ignore[return-value]
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()
