"""The page that ``offrl quickstart`` ends with: what the data was, what was learned from it, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_offrl.reports import html, plots
from lightning_offrl.reports.compare_returns import (
    Difference,
    EvaluatedPolicy,
    Verdict,
    difference,
    judge,
    number,
    with_error,
)
from lightning_offrl.reports.html import Markup
from lightning_offrl.reports.plots import Curve, Group, standard_error

Array = np.ndarray[Any, Any]

SPEED_LIMIT = 8.0
"""Of Pendulum-v1, rad/s."""
_STEP = 0.05
"""Seconds per environment step of Pendulum-v1."""


@dataclass(frozen=True)
class TrainedPolicy:
    """One trained policy.

    Attributes:
        name: as shown.
        folder: its run directory, relative to the page.
        color: role of `plots.COLORS`.
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
    """Everything the page tells.

    Attributes:
        environment: Gymnasium id.
        dataset_id: Minari id.
        transitions: steps in the data.
        references: returns that count as 0 and 100.
        returns: ``[E]``, of the dataset's episodes.
        behaviors: ``[E]``, who made each episode.
        typical: angles of the episode whose return is nearest to the mean, radians, and that return.
        torques: mean logged action over angle and angular velocity, nan where there is no data, ``[H, W]``.
        learned: the trained policies; the first is the imitation.
        updates: gradient updates of each.
        seed: of everything.
        seconds: wall clock of the whole.
        versions: libraries.
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
    def verdict(self) -> Verdict:
        """What may be said of the results."""
        contestants = [EvaluatedPolicy(one.name, one.returns) for one in self.learned]
        return judge(self.returns, contestants[0], contestants[1:])

    def score(self, value: float) -> float:
        """0 for random actions, 100 for the controller without noise."""
        low, high = self.references
        return 100.0 * (value - low) / (high - low)


def rows(story: QuickstartResult) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the results, as plain text."""
    header = ["policy", "return per episode", "score (0-100)", "above the data", "above BC"]
    scale = 100.0 / (story.references[1] - story.references[0])
    data_error = standard_error(story.returns)
    body = [
        [
            "behavior (the data)",
            with_error(float(np.mean(story.returns)), data_error),
            f"{story.score(float(np.mean(story.returns))):.0f} ± {data_error * scale:.0f}",
            "",
            "",
        ]
    ]
    for one in story.learned:
        mean, error = float(np.mean(one.returns)), standard_error(one.returns)
        over_data = difference(one.returns, story.returns, paired=False)
        over_bc = difference(one.returns, story.learned[0].returns, paired=True)
        score = f"{story.score(mean):.0f} ± {error * scale:.0f}".replace("-", "\N{MINUS SIGN}")
        beside = "" if one is story.learned[0] else _signed(over_bc)
        body.append([one.name, with_error(mean, error), score, _signed(over_data), beside])
    return header, body


def _signed(apart: Difference) -> str:
    text = with_error(apart.mean, apart.error)
    return text if text.startswith("\N{MINUS SIGN}") else f"+{text}"


def text_table(story: QuickstartResult) -> str:
    """The results for a terminal."""
    header, body = rows(story)
    widths = [max(len(row[i]) for row in [header, *body]) for i in range(len(header))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in [header, *body]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def caveat(story: QuickstartResult) -> str:
    """What the numbers do not say."""
    return (
        f"± is one standard error over episodes ({len(story.returns)} of the data, {len(story.learned[0].returns)} "
        "per policy, the same starts for each). Each policy is a single training run: how much another seed would "
        "differ is not measured here."
    )


def strip(story: QuickstartResult, axes: Axes | None = None) -> Figure:
    """Every episode of the data and of each policy."""
    groups = [Group("the data", story.returns)]
    groups += [Group(one.name, one.returns, one.color) for one in story.learned]
    return plots.episode_strip(groups, x_label="return of an episode (0 is perfect)", axes=axes, height=3.7)


def curves(story: QuickstartResult, axes: Axes | None = None) -> Figure:
    """Evaluations during training, beside the data's mean."""
    return plots.learning_curves(
        [one.curve for one in story.learned],
        y_label="mean return of an episode",
        references={"the data": float(np.mean(story.returns))},
        axes=axes,
    )


def picture(story: QuickstartResult) -> Figure:
    """Learning curves and episodes side by side, to be saved as a file."""
    figure, (left, right) = plots.row(2)
    curves(story, left)
    strip(story, right)
    return figure


def document(story: QuickstartResult) -> Markup:
    """The page."""
    verdict = story.verdict
    names = [one.name for one in story.learned]
    header, body = rows(story)
    dots = ["data", *(one.color for one in story.learned)]
    table = html.table(
        header,
        [[Markup(html.swatch(dot) + html.text(row[0])), *row[1:]] for dot, row in zip(dots, body, strict=True)],
        highlight=1 + names.index(verdict.best) if verdict.clear else None,
    )
    low, high = story.references
    minutes = f"{story.seconds / 60:.1f} min"
    facts = html.tiles(
        [
            (f"{story.transitions:,}", "logged steps"),
            (f"{len(story.returns):,}", "logged episodes"),
            (f"{story.updates:,}", "gradient updates each"),
            ("0", "new steps to learn from"),
            (minutes, "from no data to this page"),
        ]
    )
    blocks = [
        html.join([html.paragraph(" ".join(verdict.sentences), "lead"), html.paragraph(caveat(story), "note"), facts]),
        html.section(
            "One episode each, in real time",
            html.paragraph(
                "The learned policies start from the same state, that of the first evaluation episode. The first "
                "pendulum replays the logged episode whose return is nearest to the data's mean."
            ),
            pendulums(story),
        ),
        html.section(
            "Results",
            table,
            html.paragraph(
                f"Score 0 is uniformly random actions ({number(low)}), score 100 the hand-made controller without "
                f"noise ({number(high)}); both were measured over 100 episodes.",
                "note",
            ),
            html.grid(
                html.figure(
                    plots.svg(strip(story), "Strip plot: the return of every episode of the data and of each policy."),
                    "Every episode",
                    "One dot per episode; the bars are means, with their standard error.",
                ),
                html.figure(
                    plots.svg(curves(story), "Learning curves: mean return against gradient updates."),
                    "While they learned",
                    f"Mean of {len(story.learned[0].returns)} episodes at each point; bands are one standard error.",
                ),
            ),
        ),
        html.section("The data", *_data(story)),
        html.section(
            "What the policies do",
            html.paragraph(
                "Torque by the state of the pole, which stands upright at angle 0. To swing it up, one has to push "
                "along with its motion, and near the top against it."
            ),
            html.grid(*_maps(story), smallest=150),
        ),
        html.section("How it was made, and how to go on", *_how(story)),
    ]
    versions = ", ".join(f"{name} {version}" for name, version in story.versions.items())
    return html.page(
        verdict.headline,
        *blocks,
        eyebrow=f"lightning_offrl quickstart \N{MIDDLE DOT} {story.environment}",
        footer=f"{versions}. Seed {story.seed}.",
        style=files(__package__).joinpath("pendulum.css").read_text(encoding="utf-8"),
    )


def _data(story: QuickstartResult) -> list[Markup]:
    returns, names = np.asarray(story.returns), np.asarray(story.behaviors)
    values = {name: returns[names == name].tolist() for name in dict.fromkeys(story.behaviors)}
    ranked = sorted(values.items(), key=lambda item: float(np.mean(item[1])))
    parts = [Group(name, part, color) for (name, part), color in zip(ranked, plots.STEPS, strict=False)]
    header = ["who acted", "episodes", "mean return"]
    body = [
        [
            Markup(html.swatch(part.color) + html.text(part.name)),
            str(len(part.values)),
            with_error(float(np.mean(part.values)), standard_error(part.values)),
        ]
        for part in parts
    ]
    return [
        html.paragraph(
            f"{len(returns)} episodes of {story.environment} by behaviors of mixed quality, most of them bad: random "
            "torques, a hand-made controller followed only part of the time, and the same controller the wrong way "
            "round. The algorithms see the steps, not who made them."
        ),
        html.grid(
            html.figure(
                plots.svg(
                    plots.histogram(
                        story.returns, x_label="return of an episode (0 is perfect)", parts=parts, legend=False
                    ),
                    "Histogram of the returns of the logged episodes, by behavior.",
                ),
                "Returns of the logged episodes",
            ),
            html.table(header, body, caption="By behavior"),
        ),
    ]


def _maps(story: QuickstartResult) -> list[Markup]:
    panels = [("The data", story.torques), *((one.name, one.torques) for one in story.learned)]
    return [
        html.figure(
            plots.svg(
                plots.field(
                    torques,
                    extent=(-180.0, 180.0, -SPEED_LIMIT, SPEED_LIMIT),
                    x_label="angle (degrees)",
                    y_label="angular velocity (rad/s)",
                    color_label="torque (N m)",
                    limit=2.0,
                ),
                f"Map of the torque over angle and angular velocity: {name}.",
            ),
            name,
            "mean logged torque; blank where nothing was logged" if i == 0 else "",
        )
        for i, (name, torques) in enumerate(panels)
    ]


def _how(story: QuickstartResult) -> list[Markup]:
    body = [[one.name, one.settings, f"{one.seconds:.0f} s"] for one in story.learned]
    best = next(one for one in story.learned if one.name == story.verdict.best)
    return [
        html.table(["algorithm", "settings that differ from its defaults", "training"], body, words=[1]),
        html.commands(
            f"""\
# after `make quickstart`, offrl is here: . .venv/bin/activate

# the dataset, in words and numbers
MINARI_DATASETS_PATH={story.folder}/data offrl data show {story.dataset_id}

# the best policy again, on other episodes
offrl evaluate {story.folder}/{best.folder}/policy.pt --environment {story.environment} --episodes 50 --seed 9000

# your own data: a Minari id or a D4RL-layout .hdf5 file
offrl fit --config iql --data.source path/to/data.hdf5"""
        ),
        html.commands(
            f"""\
from lightning_offrl import load_policy

policy = load_policy("{story.folder}/{best.folder}/policy.pt")
action = policy.act(observation)   # an environment's observation, alone or a batch"""
        ),
    ]


def pendulums(story: QuickstartResult) -> Markup:
    """One moving pendulum per policy, drawn from logged angles; still where the reader asked for less motion."""
    angles, value = story.typical
    cards = [("the data", "data", angles, value)]
    cards += [(one.name, one.color, one.angles, one.returns[0]) for one in story.learned]
    drawn = [_pendulum(i, *card) for i, card in enumerate(cards)]
    return html.grid(*drawn, smallest=150)


def _pendulum(index: int, name: str, color: str, angles: list[float], value: float) -> Markup:
    # Gymnasium counts the angle counter-clockwise from upright, CSS clockwise.
    turned = -np.degrees(np.unwrap(np.asarray(angles, dtype=np.float64)))[::2]
    share = 100.0 / (len(turned) - 1)
    frames = "".join(f"{i * share:.4g}%{{transform:rotate({angle:.1f}deg)}}" for i, angle in enumerate(turned))
    seconds = (len(angles) - 1) * _STEP
    motion = f"animation:swing{index} {seconds:g}s linear infinite;transform:rotate({turned[-1]:.1f}deg)"
    return Markup(
        f"""<figure class="pendulum">
<style>@keyframes swing{index}{{{frames}}}#rod{index}{{{motion}}}</style>
<svg viewBox="-60 -60 120 120" role="img" aria-label="Moving pendulum: {html.text(name)}">
<circle r="50" class="orbit"/><path d="M-13 -50.5 A52 52 0 0 1 13 -50.5" class="goal"/>
<g id="rod{index}" class="rod" style="color:var(--{color})"><path d="M0 0V-40"/><circle cy="-40" r="8"/></g>
<circle r="3.4" class="pivot"/>
</svg>
<figcaption><h3>{html.text(name)}</h3><p>return {html.text(number(value))}</p></figcaption>
</figure>"""
    )
