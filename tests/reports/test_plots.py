from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from lightning_offrl.reports import plots
from lightning_offrl.reports.plots import Curve, Group


def curves() -> Figure:
    return plots.learning_curves(
        [Curve("A", [0, 100], [1.0, 2.0], [0.1, 0.1]), Curve("B", [0, 100], [2.0, 1.0], None, "series-2")],
        y_label="return (raw)",
        references={"the data": 1.5},
    )


FIGURES = {
    "curves": curves,
    "strip": lambda: plots.episode_strip([Group("A", [1.0, 2.0]), Group("B", [3.0], "series-1")], x_label="return"),
    "histogram": lambda: plots.histogram([1.0, 2.0, 3.0], x_label="return", parts=[Group("p", [1.0, 2.0, 3.0])]),
    "field": lambda: plots.field(
        np.array([[0.0, np.nan], [-1.0, 1.0]]),
        extent=(0.0, 1.0, 0.0, 1.0),
        x_label="x (m)",
        y_label="y (m)",
        color_label="force (N)",
        limit=1.0,
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_axes_are_labeled_and_the_file_is_a_picture(name: str, tmp_path: Path) -> None:
    figure = FIGURES[name]()
    axes = figure.axes[0]
    assert axes.get_xlabel()
    assert axes.get_ylabel() or name == "strip"
    path = plots.save(figure, tmp_path / "figure.png")
    assert Image.open(path).size[0] > 300


@pytest.mark.parametrize("name", FIGURES)
def test_svg_follows_the_theme_and_is_the_same_every_time(name: str) -> None:
    first = plots.svg(FIGURES[name](), "a <description>")
    assert first == plots.svg(FIGURES[name](), "a <description>")
    assert first.startswith('<svg role="img" aria-label="a &lt;description&gt;"')
    assert "var(--ink" in first
    # whatever color is left belongs to a picture inside, not to text or lines
    for role, color in plots.COLORS.items():
        assert first.count(color) == first.count(f"var(--{role}, {color})")
    assert "<metadata>" not in first
    assert "font-family" not in first


def test_two_figures_on_a_page_share_no_names() -> None:
    names = [set(re.findall(r'id="([^"]+)"', plots.svg(curves(), text))) for text in ("one", "two")]
    assert names[0] and not names[0] & names[1]


def test_roles_are_told_apart_without_color() -> None:
    """Lines differ by marker too, so the figure survives a gray printer."""
    markers = [line.get_marker() for line in curves().axes[0].get_lines() if line.get_marker() not in ("None", "")]
    assert len(set(markers)) == len(markers) == 2


def test_histogram_counts_every_value() -> None:
    values = np.random.default_rng(0).normal(size=137).tolist()
    figure = plots.histogram(values, x_label="return")
    assert sum(patch.get_height() for patch in figure.axes[0].patches) == 137


def test_standard_error() -> None:
    assert plots.standard_error([1.0, 3.0]) == pytest.approx(1.0)
    assert np.isnan(plots.standard_error([1.0]))
