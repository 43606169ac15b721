"""The figures that reports share: labeled, and with every value in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_offrl.reports import plots, theme
from tests.reports.figures import FIGURES, curves


@pytest.mark.parametrize("name", FIGURES)
def test_axes_are_labeled_and_the_file_is_a_picture(name: str, tmp_path: Path) -> None:
    figure = FIGURES[name]()
    axes = figure.axes[0]
    assert axes.get_xlabel()
    assert axes.get_ylabel() or name == "strip"
    path = theme.save(figure, tmp_path / "figure.png")
    assert Image.open(path).size[0] > 300


def test_roles_are_told_apart_without_color() -> None:
    """Lines differ by marker too, so the figure survives a gray printer."""
    markers = [line.get_marker() for line in curves().axes[0].get_lines() if line.get_marker() not in ("None", "")]
    assert len(set(markers)) == len(markers) == 2


def test_histogram_counts_every_value() -> None:
    values = np.random.default_rng(0).normal(size=137).tolist()
    figure = plots.histogram(values, x_label="return")
    assert sum(patch.get_height() for patch in figure.axes[0].patches) == 137
