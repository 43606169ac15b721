"""The pictures of ``gridworld.py``, drawn from its stored numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_offrl.envs.gridworld.environment import GridWorld
from lightning_offrl.envs.gridworld.layouts import STITCH_HALVES
from lightning_offrl.envs.tabular import without_action
from lightning_offrl.reports.theme import COLORS, save

NAMES = {"DQN": "DQN (naive)", "BC": "BC", "BCQ": "BCQ", "IQL": "IQL", "CQL": "CQL"}
HUES = {"DQN": "series-1", "BC": "data", "BCQ": "series-3", "IQL": "series-4", "CQL": "series-2"}
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLORS["rule"],
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.labelcolor": COLORS["ink"],
    "text.color": COLORS["ink"],
    "xtick.color": COLORS["muted"],
    "ytick.color": COLORS["muted"],
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def draw(results: dict[str, Any], folder: Path) -> None:
    """Three PNG files."""
    with rc_context(STYLE):
        save(missing_action(results), folder / "missing_action.png")
        save(bound(results), folder / "bound.png")
        save(stitch(results), folder / "stitch.png")


def number(value: float, digits: int = 2) -> str:
    """With a true minus sign.

    >>> number(-10.468), number(0.5, 1)
    ('−10.47', '0.5')
    """
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def spread(values: list[float], digits: int = 2) -> str:
    """Mean over seeds, and smallest to largest where they differ.

    >>> spread([-10.0, -10.0]), spread([-10.0, -12.0])
    ('−10.00', '−11.00 (−12.00 to −10.00)')
    """
    low, high = number(min(values), digits), number(max(values), digits)
    mean = number(float(np.mean(values)), digits)
    return mean if low == high else f"{mean} ({low} to {high})"


def _grid(axes: Axes, world: GridWorld, policy: np.ndarray, title: str) -> None:
    axes.imshow(world.picture(policy=policy, cell=48), interpolation="antialiased")
    axes.set_title(title)
    axes.set_axis_off()


def _only(policy: np.ndarray, states: np.ndarray) -> np.ndarray:
    """No arrows elsewhere."""
    return np.where(states[:, None], policy, 0.0)


def missing_action(results: dict[str, Any]) -> Figure:
    """What the data do, two learned policies, exact values over training, and what Q says about them."""
    part = results["missing_action"]
    world = GridWorld(**part["world"])
    figure = Figure(figsize=(11.5, 6.6), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.0, 2.2])
    grids = upper.subplots(1, 3)
    _grid(grids[0], world, without_action(world.mdp.uniform(), 1), "the data: random, and never left")
    for axes, name in zip(grids[1:], ("DQN", "CQL"), strict=True):
        learner = part["learners"][name]
        title = f"{NAMES[name]}, first seed: {number(learner['points'][-1]['value'][0], 1)}"
        _grid(axes, world, world.mdp.deterministic(np.array(learner["actions"][0])), title)
    left, right = lower.subplots(1, 2, width_ratios=[1.25, 1.0])
    for name, learner in part["learners"].items():
        updates = [point["updates"] for point in learner["points"]]
        values = np.array([point["value"] for point in learner["points"]])
        color = COLORS[HUES[name]]
        left.plot(updates, values, color=color, linewidth=0.8, alpha=0.35)
        left.plot(updates, values.mean(-1), color=color, linewidth=2, label=NAMES[name])
    for label, value in (("optimum", part["optimum"]["value"]), ("behavior", part["behavior"]["value"])):
        left.axhline(value, color=COLORS["ink"], linewidth=1, linestyle=(0, (5, 3)))
        below = label == "behavior"
        left.annotate(
            label,
            (1.0, value),
            xycoords=("axes fraction", "data"),
            xytext=(0, -3 if below else 3),
            textcoords="offset points",
            ha="right",
            va="top" if below else "bottom",
            fontsize=9,
        )
    left.set_title(f"exact value of the greedy policy at the start (thin: {results['seeds']} seeds)", pad=24)
    left.set_xlabel("gradient updates")
    left.set_xlim(left=0)
    left.set_ylim(-106, 4)
    left.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=5, columnspacing=1.2, handlelength=1.4)
    rows = [name for name in part["learners"] if "claim" in part["learners"][name]["points"][-1]]
    for row, name in enumerate(rows):
        last, color = part["learners"][name]["points"][-1], COLORS[HUES[name]]
        for claim, value in zip(last["claim"], last["value"], strict=True):
            right.plot([value, claim], [row, row], color=color, linewidth=1, alpha=0.4)
        right.scatter(last["value"], [row] * len(last["value"]), color=color, s=42, zorder=3)
        right.scatter(last["claim"], [row] * len(last["claim"]), facecolor="white", edgecolor=color, s=42, zorder=4)
    right.scatter([], [], color=COLORS["ink"], s=42, label="exact value")
    right.scatter([], [], facecolor="white", edgecolor=COLORS["ink"], s=42, label="what Q says")
    right.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=2, handletextpad=0.3)
    right.set_yticks(range(len(rows)), [NAMES[name] for name in rows])
    right.set_ylim(len(rows) - 0.4, -0.6)
    right.axvline(0.0, color=COLORS["rule"], linewidth=1, zorder=0)
    right.set_xlabel("value at the start")
    right.set_title("the greedy policy and its own Q (a dot per seed)", pad=24)
    return figure


def bound(results: dict[str, Any]) -> Figure:
    """E_pi Q against V_pi in the data's states, single actions, and the weight."""
    random, good = results["missing_action"], results["good_data"]
    figure = Figure(figsize=(11.5, 8.6), layout="constrained")
    (a, b), (c, d) = figure.subplots(2, 2)
    for axes, part, what in ((a, random, "random data"), (c, good, "data of quality 0.6")):
        below = np.concatenate([[run["value"], run["claim"]] for run in part["bound"]], axis=-1)
        _against(axes, *below)
        share = (below[1] <= below[0]).mean()
        axes.set_title(f"{what}: at or below in {100 * share:.0f} % of the states")
        axes.set_xlabel("exact value of the greedy policy, V")
        axes.set_ylabel("E$_{a\\sim\\pi}$ Q")
    excess = np.concatenate([run["excess"] for run in random["bound"]])
    bins = np.arange(np.floor(excess.min()), np.ceil(excess.max()) + 0.01, 0.25).tolist()
    b.hist(excess[excess <= 0.0], bins=bins, color=COLORS["series-2"], rwidth=0.9)
    b.hist(excess[excess > 0.0], bins=bins, color=COLORS["series-1"], rwidth=0.9, label="above: falls off the cliff")
    b.axvline(0.0, color=COLORS["ink"], linewidth=1)
    b.set_title("random data, single actions: some lie above their exact value")
    b.set_xlabel("Q(s, a) minus its exact value under the policy")
    b.set_ylabel("pairs of the data, all seeds")
    b.legend(loc="upper left")
    weights = np.array(random["scan"]["weight"])
    for part, color, what in ((random, "series-2", "random data"), (good, "series-1", "quality 0.6")):
        margin = np.array(part["scan"]["eq_4"])
        d.plot(
            weights,
            margin,
            color=COLORS[color],
            marker="o",
            markersize=4,
            linewidth=2,
            label=f"eq. 4 in a table, {what}",
        )
        d.plot(
            [results["weight"]] * results["seeds"],
            [run["margin"] for run in part["bound"]],
            color=COLORS[color],
            marker="x",
            markersize=8,
            markeredgewidth=1.5,
            linestyle="",
            label=f"trained, {what}",
        )
    d.plot(weights, random["scan"]["eq_2"], color=COLORS["data"], linewidth=2, label="eq. 2 in a table, random data")
    d.axhline(0.0, color=COLORS["ink"], linewidth=1)
    d.set_xscale("log")
    d.set_ylim(-2.6, 3.6)
    d.annotate(
        f"{number(min(random['scan']['eq_4']), 0)} at weight 10",
        (weights[-1], -2.6),
        xytext=(-4, 6),
        textcoords="offset points",
        ha="right",
        color=COLORS["series-2"],
        fontsize=9,
    )
    d.set_xticks([0.03, 0.1, 0.3, 1, 3, 10], ["0.03", "0.1", "0.3", "1", "3", "10"])
    d.minorticks_off()
    d.set_xlabel("weight of the conservative term")
    d.set_title("smallest V minus E$_{a\\sim\\pi}$ Q of the data's states (a bound where >= 0)")
    d.legend(
        loc="upper left",
        ncols=2,
        columnspacing=1.0,
        handlelength=1.4,
        frameon=True,
        facecolor="white",
        edgecolor="none",
        framealpha=0.9,
    )
    return figure


def _against(axes: Axes, exact: np.ndarray, claim: np.ndarray) -> None:
    above = claim > exact
    low, high = min(exact.min(), claim.min()) - 1.0, max(exact.max(), claim.max()) + 1.0
    axes.plot([low, high], [low, high], color=COLORS["ink"], linewidth=1)
    for mask, color in ((~above, "series-2"), (above, "series-1")):
        axes.scatter(exact[mask], claim[mask], s=14, color=COLORS[color], alpha=0.6, linewidth=0)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")


def stitch(results: dict[str, Any]) -> Figure:
    """The two halves, and what is learned from them."""
    part, world = results["stitch"], GridWorld("stitch")
    halves = [world.policy_from_text(drawing) for drawing in STITCH_HALVES]
    starts = [None, np.eye(world.mdp.n_states)[world.state(0, 4)]]
    walked = [world.mdp.visits(p, 30, start).sum(-1) > 0 for p, start in zip(halves, starts, strict=True)]
    figure = Figure(figsize=(11.5, 4.9), layout="constrained")
    grids = figure.subplots(2, 2)
    titles = ("from the start, then astray (twice in the data)", "from elsewhere to the goal (once)")
    for axes, policy, states, title in zip(grids[0], halves, walked, titles, strict=True):
        _grid(axes, world, _only(policy, states), title)
    for axes, name in zip(grids[1], ("DQN", "CQL"), strict=True):
        learner = part["learners"][name]
        policy = world.mdp.deterministic(np.array(learner["actions"][0]))
        states = world.mdp.visits(policy, 30).sum(-1) > 0
        done = learner["points"][-1]["return"]
        reached = sum(value > -30.0 for value in done)
        title = f"{NAMES[name]}: {reached} of {len(done)} seeds reach the goal, returns {spread(done, 0)}"
        _grid(axes, world, _only(policy, states), title)
    return figure
