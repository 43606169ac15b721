"""The report of ``offrl quickstart``: what the data was, what was learned from it, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_offrl.data.text_table import aligned
from lightning_offrl.reports import html, plots, theme
from lightning_offrl.reports.compare_returns import (
    Difference,
    EvaluatedPolicy,
    ReturnComparison,
    compare_returns,
    difference,
    standard_error,
)
from lightning_offrl.reports.formatting import mean_and_error, true_minus
from lightning_offrl.reports.html import Markup, Table
from lightning_offrl.reports.plots import Curve, Group

Array = np.ndarray[Any, Any]

SPEED_LIMIT = 8.0
"""The largest angular velocity of Pendulum-v1, rad/s."""
_STEP = 0.05
"""Seconds per environment step of Pendulum-v1."""


@dataclass(frozen=True)
class TrainedPolicy:
    """One trained policy.

    Attributes:
        name: as shown.
        folder: its run directory, relative to the report.
        color: role in `theme.COLORS`.
        settings: what differs from the algorithm's defaults.
        returns: ``[E]``, one per evaluation episode after training.
        curve: evaluations during training.
        seconds: wall clock of the training, with its evaluations.
        angles: pole angle after each step of the first evaluation episode, radians, 0 upright, ``[T + 1]``.
        torques: the policy's action over angle (columns) and angular velocity (rows), N m, ``[H, W]``.
    """

    name: str
    folder: str
    color: str
    settings: str
    returns: list[float]
    curve: Curve
    seconds: float
    angles: list[float]
    torques: Array


@dataclass(frozen=True)
class QuickstartResult:
    """Everything that the report tells.

    Attributes:
        environment: Gymnasium id.
        dataset_id: Minari id.
        transitions: the number of steps in the data.
        references: returns that count as 0 and 100.
        returns: ``[E]``, of the dataset's episodes.
        behaviors: ``[E]``, the name of the behavior that made each episode.
        typical: angles of the episode whose return is nearest to the mean, radians, and that return.
        torques: mean logged action over angle and angular velocity, nan where there is no data, ``[H, W]``.
        learned: the trained policies; the first is the imitation.
        updates: gradient updates of each policy.
        seed: the seed of everything that is random.
        seconds: wall clock of the whole quickstart.
        versions: library to version.
        folder: as the user typed it, for the commands.
    """

    environment: str
    dataset_id: str
    transitions: int
    references: tuple[float, float]
    returns: list[float]
    behaviors: list[str]
    typical: tuple[list[float], float]
    torques: Array
    learned: list[TrainedPolicy]
    updates: int
    seed: int
    seconds: float
    folder: str
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def comparison(self) -> ReturnComparison:
        """What may be said of the results."""
        policies = [EvaluatedPolicy(one.name, one.returns) for one in self.learned]
        return compare_returns(self.returns, policies[0], policies[1:])

    def score(self, value: float) -> float:
        """0 for random actions, 100 for the controller without noise."""
        low, high = self.references
        return 100.0 * (value - low) / (high - low)


def rows(result: QuickstartResult) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the results, as plain text."""
    header = ["policy", "return per episode", "score (0-100)", "above the data", "above BC"]
    body = [["behavior (the data)", *_return_and_score(result, result.returns), "", ""]]
    for one in result.learned:
        over_data = difference(one.returns, result.returns, paired=False)
        over_bc = difference(one.returns, result.learned[0].returns, paired=True)
        beside = "" if one is result.learned[0] else _signed(over_bc)
        body.append([one.name, *_return_and_score(result, one.returns), _signed(over_data), beside])
    return header, body


def _return_and_score(result: QuickstartResult, returns: list[float]) -> list[str]:
    mean, error = float(np.mean(returns)), standard_error(returns)
    scale = 100.0 / (result.references[1] - result.references[0])
    return [mean_and_error(mean, error), true_minus(f"{result.score(mean):.0f} ± {error * scale:.0f}")]


def _signed(apart: Difference) -> str:
    text = mean_and_error(apart.mean, apart.error)
    return text if text.startswith("\N{MINUS SIGN}") else f"+{text}"


def text_table(result: QuickstartResult) -> str:
    """The results for a terminal."""
    header, body = rows(result)
    first, *rest = aligned([header, *body], numbers=True)
    return "\n".join([first, "-" * len(first), *rest])


def caveat(result: QuickstartResult) -> str:
    """What the numbers do not say."""
    return (
        f"± is one standard error over episodes ({len(result.returns)} of the data, {len(result.learned[0].returns)} "
        "per policy, the same starts for each). Each policy is a single training run: how much another seed would "
        "differ is not measured here."
    )


def strip(result: QuickstartResult, axes: Axes | None = None) -> Figure:
    """Every episode of the data and of each policy."""
    groups = [Group("the data", result.returns)]
    groups += [Group(one.name, one.returns, one.color) for one in result.learned]
    return plots.episode_strip(groups, x_label="return of an episode (0 is perfect)", axes=axes, height=3.7)


def curves(result: QuickstartResult, axes: Axes | None = None) -> Figure:
    """Evaluations during training, beside the data's mean."""
    return plots.learning_curves(
        [one.curve for one in result.learned],
        y_label="mean return of an episode",
        references={"the data": float(np.mean(result.returns))},
        axes=axes,
    )


def picture(result: QuickstartResult) -> Figure:
    """Learning curves and episodes side by side, to be saved as a file."""
    figure, (left, right) = theme.figure_row(2)
    curves(result, left)
    strip(result, right)
    return figure


def document(result: QuickstartResult) -> Markup:
    """The report as HTML."""
    comparison, parts = result.comparison, _behaviors(result)
    names = [one.name for one in result.learned]
    header, body = rows(result)
    return html.render(
        "quickstart.html.j2",
        title=comparison.headline,
        result=result,
        comparison=comparison,
        caveat=caveat(result),
        pendulums=_pendulums(result),
        results=Table(
            header,
            body,
            highlight=1 + names.index(comparison.best) if comparison.clear else None,
            colors=["data", *(one.color for one in result.learned)],
        ),
        behaviors=Table(
            ["behavior", "episodes", "mean return"],
            [
                [p.name, str(len(p.values)), mean_and_error(float(np.mean(p.values)), standard_error(p.values))]
                for p in parts
            ],
            caption="By behavior",
            colors=[part.color for part in parts],
        ),
        settings=Table(
            ["algorithm", "settings that differ from its defaults", "training"],
            [[one.name, one.settings, f"{one.seconds:.0f} s"] for one in result.learned],
            words=[1],
        ),
        best=result.learned[names.index(comparison.best)],
        strip=theme.svg(strip(result), "Strip plot: the return of every episode of the data and of each policy."),
        curves=theme.svg(curves(result), "Learning curves: mean return against gradient updates."),
        histogram=theme.svg(
            plots.histogram(result.returns, x_label="return of an episode (0 is perfect)", parts=parts, legend=False),
            "Histogram of the returns of the logged episodes, by behavior.",
        ),
        maps=[
            (name, theme.svg(_map(torques), f"Map of the torque over angle and angular velocity: {name}."))
            for name, torques in [("The data", result.torques), *((one.name, one.torques) for one in result.learned)]
        ],
    )


def _behaviors(result: QuickstartResult) -> list[Group]:
    """Returns of the logged episodes by the behavior that made them, the worst first."""
    returns, names = np.asarray(result.returns), np.asarray(result.behaviors)
    values = {name: returns[names == name].tolist() for name in dict.fromkeys(result.behaviors)}
    ranked = sorted(values.items(), key=lambda item: float(np.mean(item[1])))
    return [Group(name, part, color) for (name, part), color in zip(ranked, theme.STEPS, strict=False)]


def _map(torques: Array) -> Figure:
    return plots.field(
        torques,
        extent=(-180.0, 180.0, -SPEED_LIMIT, SPEED_LIMIT),
        x_label="angle (degrees)",
        y_label="angular velocity (rad/s)",
        color_label="torque (N m)",
        limit=2.0,
    )


def _pendulums(result: QuickstartResult) -> list[dict[str, Any]]:
    """What each moving pendulum is drawn from: the angle in degrees at each share of the episode, in percent."""
    angles, value = result.typical
    shown = [("the data", "data", angles, value)]
    shown += [(one.name, one.color, one.angles, one.returns[0]) for one in result.learned]
    found = []
    for name, color, angles, value in shown:
        # Gymnasium counts the angle counter-clockwise from upright, CSS clockwise.
        turned = (-np.degrees(np.unwrap(np.asarray(angles, dtype=np.float64)))[::2]).tolist()
        frames = [(100.0 * i / (len(turned) - 1), angle) for i, angle in enumerate(turned)]
        seconds = (len(angles) - 1) * _STEP
        found.append({"name": name, "color": color, "value": value, "frames": frames, "seconds": seconds})
    return found
