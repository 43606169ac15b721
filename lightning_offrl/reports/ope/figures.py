"""The figures of the reports on off-policy evaluation: intervals, and what happens to the weights along an episode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from torch import Tensor

from lightning_offrl.ope.checks.weight_diagnostics import WeightSteps
from lightning_offrl.ope.result import Row
from lightning_offrl.reports.formatting import tick_label
from lightning_offrl.reports.theme import COLORS, STYLE, legend_above


@dataclass(frozen=True)
class Bar:
    """One row of a figure of intervals.

    Attributes:
        name: beside the row.
        value: the estimate; None: the row says ``words`` beside its name.
        low: lower bound, or None.
        high: upper bound, or None.
        color: a role in `COLORS`.
        words: in place of a value, such as "abstains".
    """

    name: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    color: str = "series-2"
    words: str = ""


_FAMILY_COLOR = {
    "baseline": "data",
    "weights": "series-2",
    "hybrid": "series-3",
    "values": "series-4",
    "model": "series-5",
}


def bar(row: Row | None, name: str | None = None) -> Bar:
    """An estimate as a row of a figure; None, or one that abstains, as a word."""
    if row is None or row.status == "abstains":
        return Bar(name or (row.name if row else ""), words="abstains")
    found = row.interval if row.interval is not None and row.interval.usable else None
    low, high = (None, None) if found is None else (found.low, found.high)
    return Bar(name or row.name, row.value, low, high, _FAMILY_COLOR.get(row.family, "series-1"))


def intervals(bars: Sequence[Bar], lines: Mapping[str, tuple[float, str]], *, x_label: str) -> Figure:
    """One row per estimate: a dot with its interval; vertical lines for what it is compared with.

    Args:
        bars: from top to bottom.
        lines: name to place and color role.
        x_label: what is estimated, with its unit.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(8.6, 1.0 + 0.36 * len(bars)), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(axis="x")
        for name, (place, color) in lines.items():
            axes.axvline(place, color=COLORS[color], linewidth=1.4, linestyle=(0, (5, 3)), label=name, zorder=1.5)
        for row, bar in enumerate(bars):
            if bar.value is None:
                continue
            color = COLORS[bar.color]
            if bar.low is not None and bar.high is not None:
                axes.plot([bar.low, bar.high], [row, row], color=color, linewidth=2.6, solid_capstyle="butt", zorder=3)
                for end in (bar.low, bar.high):
                    axes.plot([end, end], [row - 0.17, row + 0.17], color=color, linewidth=1.6, zorder=3)
            axes.plot([bar.value], [row], marker="o", markersize=6.5, color=color, zorder=4)
        named = [bar.name if bar.value is not None else f"{bar.name} {bar.words}" for bar in bars]
        labels = axes.set_yticks(range(len(bars)), named)
        axes.tick_params(axis="y", length=0, labelcolor=COLORS["ink"], labelsize=10.5)
        for bar, label in zip(bars, labels, strict=True):
            if bar.value is None:
                label.label1.set_color(COLORS["muted"])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))  # close values need their decimals
        axes.locator_params(axis="x", nbins=8)
        if lines:
            legend_above(axes)
        return figure


def effective(steps: WeightSteps, least: float) -> Figure:
    """Effective sample size by step, logarithmic, with the limit below which estimates abstain."""
    figure, axes, x = _by_step(steps, "effective sample size (episodes)")
    with rc_context(STYLE):
        axes.plot(x, np.maximum(steps.ess, 0.5), color=COLORS["series-2"], linewidth=1.9, marker=_marker(x))
        _limit(axes, least, f"needed: {least:g}")
        axes.set_yscale("log")
        axes.set_ylim(bottom=min(0.8, 0.8 * max(min(steps.ess), 0.5)))
        axes.yaxis.set_major_formatter(tick_label)
        legend_above(axes)
    return figure


def largest(steps: WeightSteps, most: float) -> Figure:
    """Share of the largest weight by step, with the limit above which estimates abstain."""
    figure, axes, x = _by_step(steps, "share of the largest weight")
    with rc_context(STYLE):
        axes.plot(x, steps.top_share, color=COLORS["series-2"], linewidth=1.9, marker=_marker(x))
        _limit(axes, most, f"allowed: {most:.0%}")
        axes.set_ylim(0.0, max(1.15 * max(steps.top_share), 1.5 * most))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        legend_above(axes)
    return figure


def mean_weight(steps: WeightSteps) -> Figure:
    """Mean weight by step with two standard errors; logarithmic where it falls below a tenth or rises above ten."""
    figure, axes, x = _by_step(steps, "mean weight")
    mean, error = np.asarray(steps.mean), np.asarray(steps.mean_error)
    error = np.where(np.isfinite(error), error, 0.0)
    with rc_context(STYLE):
        low, high = mean - 2 * error, mean + 2 * error
        if mean.min() < 0.1 or mean.max() > 10.0:
            floor = max(1e-12, 0.3 * float(mean[mean > 0.0].min(initial=1.0)))
            mean, low, high = (np.maximum(values, floor) for values in (mean, low, high))
            axes.set_yscale("log")
        axes.fill_between(x, low, high, color=COLORS["series-2"], alpha=0.16, linewidth=0)
        axes.plot(x, mean, color=COLORS["series-2"], linewidth=1.9, marker=_marker(x))
        _limit(axes, 1.0, "expected: 1")
        legend_above(axes)
    return figure


def weights(log_weights: Tensor, width: float = 4.0) -> Figure:
    """Histogram of the weights of whole episodes on a logarithmic axis; those of 0 are counted in the label."""
    kept = log_weights[log_weights.isfinite()].double().numpy() / math.log(10.0)
    zero = len(log_weights) - len(kept)
    label = "weight of an episode" + (f"; {zero:,} of {len(log_weights):,} are 0" if zero else "")
    with rc_context(STYLE):
        figure = Figure(figsize=(width, 3.1), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(axis="y")
        if len(kept):
            spread = float(kept.max() - kept.min())
            edges = np.linspace(kept.min(), kept.max(), 33) if spread > 0.05 else np.linspace(-0.5, 0.5, 33) + kept[0]
            axes.hist(kept, bins=edges.tolist(), color=COLORS["data"], rwidth=0.92)
            axes.set_xticks(_powers(min(float(edges[0]), 0.0), max(float(edges[-1]), 0.0)))
        _limit(axes, 0.0, "weight 1: as likely as in the log", vertical=True)
        axes.xaxis.set_major_formatter(lambda value, _: f"{10.0**value:.1g}" if abs(value) < 3 else f"1e{value:.0f}")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(label)
        axes.set_ylabel("episodes")
        legend_above(axes)
    return figure


def _powers(low: float, high: float) -> list[float]:
    """Places for ticks between two powers of ten: 1, 2, 5 of each where there are few, else every so many tens."""
    fine = [
        k + part for k in range(math.floor(low), math.ceil(high) + 1) for part in (0.0, math.log10(2), math.log10(5))
    ]
    inside = [place for place in fine if low - 1e-9 <= place <= high + 1e-9]
    if 2 <= len(inside) <= 6:
        return inside
    step = max(1, math.ceil((high - low) / 5))
    return [float(k) for k in range(math.floor(low / step) * step, math.ceil(high) + 1, step) if low <= k <= high]


def _by_step(steps: WeightSteps, y_label: str) -> tuple[Figure, Axes, np.ndarray]:
    with rc_context(STYLE):
        figure = Figure(figsize=(4.0, 3.1), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(axis="y")
        axes.set_xlabel("step of the episode")
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return figure, axes, np.arange(1, len(steps.ess) + 1)


def _marker(x: np.ndarray) -> str:
    return "o" if len(x) <= 12 else ""


def _limit(axes: Axes, place: float, name: str, vertical: bool = False) -> None:
    draw = axes.axvline if vertical else axes.axhline
    draw(place, color=COLORS["series-1"], linewidth=1.3, linestyle=(0, (5, 3)), label=name, zorder=1.5)
