"""The figures of a dataset report."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure

from lightning_offrl.data.rewards import return_quantile
from lightning_offrl.reports import plots, theme
from lightning_offrl.reports.dataset.measure import DatasetMeasures
from lightning_offrl.reports.formatting import counted, tick_label
from lightning_offrl.reports.plots import Group
from lightning_offrl.reports.theme import COLORS, STEPS

DENSITY = LinearSegmentedColormap.from_list("offrl-density", [COLORS[step] for step in STEPS])
"""From few to many."""
_CELLS = 56
_DOTS = 600
WIDEST_ACTION = 24
"""Action dimensions (or actions) that are drawn."""


def policy_groups(measures: DatasetMeasures) -> list[Group]:
    """Returns by policy, the most frequent first; from the fourth on they are one group."""
    returns, number = measures.episodes.returns(), measures.policies.of_episode.clamp(max=len(STEPS) - 1)
    last = "others" if measures.policies.number > len(STEPS) else f"policy {len(STEPS)}"
    names = [*(f"policy {k + 1}" for k in range(len(STEPS) - 1)), last]
    found = [k for k in range(len(STEPS)) if bool((number == k).any())]
    return [Group(names[k], returns[number == k].tolist(), STEPS[-1 - k]) for k in found]


def returns(measures: DatasetMeasures) -> Figure:
    """Histogram of returns, stacked by policy where there are several."""
    parts = policy_groups(measures) if measures.policies.number > 1 else []
    return plots.histogram(measures.episodes.returns().tolist(), x_label="return of an episode", parts=parts)


def lengths(measures: DatasetMeasures) -> Figure:
    """Histogram of lengths, by how the episode ended."""
    last = measures.episodes.start + measures.episodes.length - 1
    terminal = measures.episodes.data["next", "terminated"][last]
    length = measures.episodes.length
    parts = [
        Group("terminal", length[terminal].tolist(), "series-1"),
        Group("cut", length[~terminal].tolist(), "series-2"),
    ]
    return plots.histogram(
        length.tolist(), x_label="steps of an episode", parts=[part for part in parts if len(part.values)]
    )


def rewards(measures: DatasetMeasures) -> Figure:
    """Histogram of rewards per step."""
    reward = measures.episodes.data["next", "reward"].double().numpy()
    figure = plots.histogram(reward, x_label="reward of a step", y_label="steps", bins=40)
    axes = figure.axes[0]
    if measures.rewards.zero >= 0.9:
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_formatter(_thousands)
    return figure


def density(measures: DatasetMeasures) -> Figure:
    """Where the data is, on the two axes of largest variance."""
    if measures.states.by_successors:
        return _dots(measures, by_return=False)
    counts, _, extent = _grid(measures)
    top = max(2.0, float(np.nanmax(counts)))
    return _image(counts, extent, DENSITY, LogNorm(1, top), "steps in a cell", measures)


def value_map(measures: DatasetMeasures) -> Figure:
    """How good the episodes were that passed through each part of the map."""
    if measures.states.by_successors:
        return _dots(measures, by_return=True)
    counts, mean, extent = _grid(measures)
    mean = np.where(counts > 0, mean, np.nan)
    figure = _image(mean, extent, theme.DIVERGING, Normalize(0.0, 1.0), "rank of the episode's return", measures)
    figure.axes[1].set_xticks([0.0, 0.5, 1.0], ["worst", "middle", "best"])
    return figure


def _dots(measures: DatasetMeasures, *, by_return: bool) -> Figure:
    """One dot for each state, colored by the number of steps in it or the mean rank of the episodes."""
    points, place = np.unique(measures.states.map.numpy().round(5), axis=0, return_inverse=True)
    count = np.bincount(place.ravel())
    rank = np.bincount(place.ravel(), weights=_ranks(measures)) / count
    shares = measures.states.explained
    figure, (axes,) = theme.figure_row(1, 4.4, 4.5)
    with rc_context(theme.STYLE):
        image = axes.scatter(
            points[:, 0],
            points[:, 1],
            c=rank if by_return else count,
            s=np.clip(6000 / len(points), 14, 160),
            cmap=theme.DIVERGING if by_return else DENSITY,
            norm=Normalize(0.0, 1.0) if by_return else LogNorm(1, max(2, count.max())),
            edgecolors=COLORS["rule"],
            linewidths=0.6,
        )
        axes.set_xlabel(f"first axis ({100 * shares[0]:.0f} % of the variance)")
        axes.set_ylabel(f"second axis ({100 * shares[1]:.0f} %)")
        axes.set_xticks([])
        axes.set_yticks([])
        bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.9, aspect=30, pad=0.04)
        bar.set_label("rank of the episode's return" if by_return else "steps in a state")
        bar.outline.set_visible(False)
        if by_return:
            bar.ax.set_xticks([0.0, 0.5, 1.0], ["worst", "middle", "best"])
    return figure


def _ranks(measures: DatasetMeasures) -> np.ndarray:
    """Where the return of each mapped step's episode stands among those of all steps: 0 worst, 1 best, mean 1/2."""
    rank = return_quantile(measures.episodes.returns(), measures.episodes.length)
    return rank[measures.states.map_rows].double().numpy()


def _grid(measures: DatasetMeasures) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float, float]]:
    """Counts and mean ranks ``[H, W]`` (nan where nothing is), and left, right, bottom, top."""
    points = measures.states.map.double().numpy()
    low, high = np.quantile(points, 0.001, axis=0), np.quantile(points, 0.999, axis=0)
    pad = np.maximum(0.03 * (high - low), 1e-3)
    low, high = low - pad, high + pad
    rank = _ranks(measures)
    box = [[low[1], high[1]], [low[0], high[0]]]
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=_CELLS, range=box)
    total, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=_CELLS, range=box, weights=rank)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / counts
    return np.where(counts > 0, counts, np.nan), mean, (low[0], high[0], low[1], high[1])


def _image(
    values: np.ndarray,
    extent: tuple[float, float, float, float],
    colors: Colormap,
    norm: Normalize,
    label: str,
    measures: DatasetMeasures,
) -> Figure:
    shares = measures.states.explained
    figure, (axes,) = theme.figure_row(1, 4.4, 4.5)
    with rc_context(theme.STYLE):
        image = axes.imshow(values, origin="lower", extent=extent, aspect="auto", cmap=colors, norm=norm)
        axes.set_xlabel(f"first axis ({100 * shares[0]:.0f} % of the variance)")
        axes.set_ylabel(f"second axis ({100 * shares[1]:.0f} %)")
        axes.locator_params(nbins=5)
        axes.xaxis.set_major_formatter(tick_label)
        axes.yaxis.set_major_formatter(tick_label)
        bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.9, aspect=30, pad=0.04)
        bar.set_label(label)
        bar.outline.set_visible(False)
    return figure


def actions(measures: DatasetMeasures) -> Figure:
    """Continuous: the distribution of each dimension as a band; discrete: how often each action was taken."""
    return _shares(measures) if measures.actions.share is not None else _bands(measures)


def _bands(measures: DatasetMeasures) -> Figure:
    action = measures.episodes.data["action"][:, :WIDEST_ACTION]
    if len(action) > 200_000:
        action = action[torch.linspace(0, len(action) - 1, 200_000).long()]
    edges = np.linspace(-1.0, 1.0, 42)
    shares = np.stack([np.histogram(column, bins=edges)[0] for column in action.T.numpy()]) / len(action)
    count = len(shares)
    figure, (axes,) = theme.figure_row(1, 5.2, 1.9 + 0.34 * count)
    with rc_context(theme.STYLE):
        image = axes.imshow(
            np.where(shares > 0, shares, np.nan),
            extent=(-1.0, 1.0, count - 0.5, -0.5),
            aspect="auto",
            cmap=DENSITY,
            vmin=0.0,
            vmax=float(np.quantile(shares, 0.98)) or 1.0,
        )
        names = [measures.action_name(i) for i in range(count)]
        axes.set_yticks(range(count), names)
        axes.tick_params(axis="y", length=0, labelcolor=COLORS["ink"])
        axes.set_xlabel("action, from its lower to its upper bound (half ranges)")
        bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.9, aspect=30, pad=0.02, extend="max")
        bar.ax.xaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
        bar.set_label("share of the steps in each of 41 bins")
        bar.outline.set_visible(False)
    return figure


def _shares(measures: DatasetMeasures) -> Figure:
    share = list(measures.actions.share or ())[:WIDEST_ACTION]
    figure, (axes,) = theme.figure_row(1, 5.2, 1.0 + 0.3 * len(share))
    with rc_context(theme.STYLE):
        axes.grid(axis="x")
        axes.barh(range(len(share)), [100 * s for s in share], color=COLORS["data"], height=0.7)
        axes.set_yticks(range(len(share)), [measures.action_label(i) for i in range(len(share))])
        axes.tick_params(axis="y", length=0, labelcolor=COLORS["ink"])
        axes.invert_yaxis()
        axes.set_xlabel("share of the steps (%)")
        axes.set_xlim(left=0)
    return figure


def over_time(measures: DatasetMeasures) -> Figure:
    """Return of each episode in stored order, with the running mean and its standard error."""
    values = measures.episodes.returns().numpy()
    count = len(values)
    window = max(1, min(count // 3, max(10, count // 20)))
    shown = np.unique(np.linspace(0, count - 1, min(count, _DOTS)).astype(int))
    kernel = np.ones(window) / window
    figure, (axes,) = theme.figure_row(1, 5.2, 3.4)
    with rc_context(theme.STYLE):
        axes.grid(axis="y")
        axes.scatter(shown, values[shown], s=9, color=COLORS["data"], alpha=0.4, linewidth=0)
        if count >= 6:
            mean = np.convolve(values, kernel, "valid")
            square = np.convolve(values**2, kernel, "valid")
            error = np.sqrt(np.maximum(square - mean**2, 0.0) / max(window - 1, 1))
            middle = np.arange(len(mean)) + (window - 1) / 2
            thin = np.unique(np.linspace(0, len(mean) - 1, min(len(mean), 300)).astype(int))
            color = COLORS["series-1"]
            axes.fill_between(middle[thin], (mean - error)[thin], (mean + error)[thin], color=color, alpha=0.2, lw=0)
            axes.plot(middle[thin], mean[thin], color=color, linewidth=1.9, label=f"mean of {window} episodes")
            theme.legend_above(axes)
        axes.set_xlabel("episode, in the order of the data")
        axes.set_ylabel("return of an episode")
        axes.xaxis.set_major_formatter(tick_label)
        axes.yaxis.set_major_formatter(tick_label)
    return figure


def recombined(measures: DatasetMeasures) -> Figure:
    """Discounted value from the logged starts, by the number of changes of episode."""
    found = measures.stitching
    names = ["as logged", "best single\nepisode", *(counted(m, "change") for m in found.changes)]
    values = [found.logged, found.single, *found.stitched]
    figure, (axes,) = theme.figure_row(1, 5.2, 3.4)
    with rc_context(theme.STYLE):
        axes.grid(axis="y")
        axes.plot(range(len(values)), values, color=COLORS["rule"], linewidth=1.5, zorder=1)
        colors = [COLORS["data"], COLORS["series-2"], *[COLORS["series-1"]] * len(found.changes)]
        axes.scatter(range(len(values)), values, s=52, color=colors, zorder=2)
        for i, value in enumerate(values):
            axes.annotate(
                tick_label(value), (i, value), xytext=(0, 8), textcoords="offset points", ha="center", fontsize=9.5
            )
        axes.margins(y=0.18)
        axes.set_xticks(range(len(names)), names)
        axes.tick_params(axis="x", labelsize=8.8, length=0)
        axes.set_ylabel(f"value at the start (discount {found.discount:g})")
        axes.yaxis.set_major_formatter(tick_label)
    return figure


def _thousands(value: float, _: Any = None) -> str:
    return f"{value / 1000:,.0f}k" if value >= 1000 and value % 1000 == 0 else f"{value:,.0f}"
