"""One small figure of each kind."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

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
