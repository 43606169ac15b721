"""The page of ``gridworld.py``: every number in it is computed from the stored results."""

from __future__ import annotations

from inspect import cleandoc
from pathlib import Path
from typing import Any

from gridworld_plots import NAMES, draw, number, spread

from lightning_offrl.envs.gridworld.environment import HORIZON, grid_name


def write(results: dict[str, Any], folder: Path) -> str:
    """Three pictures and ``README.md``; returns its text."""
    draw(results, folder)
    parts = (missing_action, bound, stitch, settings)
    text = "\n\n".join([introduction(results), *(part(results) for part in parts)]) + "\n"
    (folder / "README.md").write_text(text)
    return text


def growth(points: list[dict[str, Any]]) -> tuple[float, float]:
    """Largest absolute Q of all seeds half way and at the end."""
    reached = [max(map(abs, (*point["largest_q"], *point["smallest_q"]))) for point in points]
    return reached[len(reached) // 2], reached[-1]


def arrivals(points: list[dict[str, Any]]) -> float:
    """Share of the evaluations in the second half of training, over seeds, whose policy reaches the goal."""
    late = [value for point in points[len(points) // 2 :] for value in point["return"]]
    return sum(value > -HORIZON for value in late) / len(late)


def diverges(points: list[dict[str, Any]], discount: float) -> bool:
    """Whether Q has left what any value of the cliff can be, or grew by half since half way."""
    half, end = growth(points)
    return end > 1.0 / (1.0 - discount) + 20.0 or end > 1.5 * half


def table(header: str, rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; the first column is text."""
    line = "|---|" + "---:|" * (header.count("|") - 2)
    return "\n".join([header, line, *(f"| {' | '.join(row)} |" for row in rows)])


def introduction(results: dict[str, Any]) -> str:
    """What the numbers are."""
    return cleandoc(f"""
        # The reason for the field, on grids that are known exactly

        Made by `python benchmarks/gridworld.py`: {results["updates"]:,} gradient updates, {results["seeds"]} seeds, in
        {results["cpu_seconds"]:.0f} s of one core. Values are those of the greedy policy at the start, discounted by
        {results["discount"]} and solved from the grid's Bellman equations. Numbers are means over seeds with the
        smallest and the largest in brackets, or one number where all seeds agree.
    """)


def missing_action(results: dict[str, Any]) -> str:
    """The table of learners, and whether Q diverges."""
    part = results["missing_action"]
    naive, nearby = part["learners"]["DQN"]["points"], part["coordinates"]["points"]
    (half, end), far = growth(naive), growth(nearby)
    word = "diverges" if diverges(naive, results["discount"]) else "misleads, it does not diverge"
    sparse = part["goal_only"]
    limit = 1.0 / (1.0 - results["discount"])
    rows = []
    for name, learner in part["learners"].items():
        last, fixed = learner["points"][-1], part["fixed_points"].get(name)
        rows.append(
            (
                NAMES[name],
                spread(last["value"]),
                spread(last["return"], 1),
                f"{spread([100.0 * share for share in last['in_data']], 0)} %",
                spread(last["claim"]) if "claim" in last else "",
                f"{number(fixed['value'])}; {number(fixed['claim'])}" if fixed else "",
            )
        )
    header = "| learner | value | return, 100 steps | actions in the data | its Q says | in a table: value; Q says |"
    text = cleandoc(f"""
        ## An action that the data miss

        {grid_name(part["world"])}: a step costs 1; the cliff costs 20 more and ends the episode. The data are
        {part["episodes"]} episodes ({part["transitions"]:,} steps, {part["arrived"]} arrive) of uniformly random
        actions among up, right and down. Nobody ever goes left, which no good policy needs. The behavior is worth
        {number(part["behavior"]["value"])} (return {number(part["behavior"]["return"], 1)}), the best policy
        {number(part["optimum"]["value"])}, standing still for ever {number(-limit, 0)}.

        ![values](missing_action.png)

        TABLE

        "In a table" is the learner's fixed point with one number per state and action
        (`benchmarks/tabular_learning.py`). BC takes the most frequent action, which in uniform data is noise:
        its greedy policy can be worse than the random behavior that it imitates.

        The naive learner takes the missing action and stands still: its Q **{word}**. The largest absolute value in the
        data's states is {number(half, 1)} half way and {number(end, 1)} at the end; no value of this world exceeds
        {limit + 20.0:.0f}. It says {spread(naive[-1]["claim"])} about the start, where every policy is worth
        {number(part["optimum"]["value"])} or less: what is never trained stays near its initial value, and near zero is
        more than anything can be worth where steps cost. With coordinates as observations, where an update moves the
        values of other cells too, DQN is worth {spread(nearby[-1]["value"])} and says {spread(nearby[-1]["claim"])};
        the largest absolute value is {number(far[0], 1)} half way and {number(far[1], 1)} at the end.

        **With a goal reward only** (1 for the goal, nothing for steps and cliffs, the same episodes) the effect is
        hidden: near zero is then the least there is. DQN is worth {spread(sparse["points"][-1]["value"])} there, the
        optimum {number(sparse["optimum"])}, the behavior {number(sparse["behavior"])}; in a table with zero initial
        values the naive learner is worth {number(sparse["fixed_point"])}.
    """)
    return text.replace("TABLE", table(header, rows))


def bound(results: dict[str, Any]) -> str:
    """What the theorem says, what the page does, and where the page's bound fails."""
    random, good, weight = results["missing_action"], results["good_data"], results["weight"]
    exact, runs, wrong = random["bound_of_table"], random["bound"], good["bound_of_table"]
    pair = runs[0]["worst_pair"]
    excess = [run["worst_pair"]["q"] - run["worst_pair"]["exact"] for run in runs]
    broken = [w for w, m in zip(random["scan"]["weight"], random["scan"]["eq_4"], strict=True) if m < 0.0]
    rows = [
        (
            "equation 2, table",
            "100 %",
            number(exact["eq_2"]["margin"]),
            number(exact["eq_2"]["start"]),
            str(exact["eq_2"]["pairs_above"]),
        ),
        _bounded("equation 4, table", [exact], [random["fixed_points"]["CQL"]["claim"]]),
        _bounded("equation 4, trained", runs, random["learners"]["CQL"]["points"][-1]["claim"]),
        _bounded("equation 4, table, quality 0.6", [wrong], [good["fixed_points"]["CQL"]["claim"]]),
        _bounded("equation 4, trained, quality 0.6", good["bound"], good["points"][-1]["claim"]),
    ]
    header = "| | E_pi Q <= V_pi in | smallest V_pi - E_pi Q | E_pi Q at the start | single actions above |"
    text = cleandoc(f"""
        ## CQL's bound

        Theorem 3.2 of CQL is about its equation 2: a given policy is evaluated; the term pushes down what this policy
        does and up what the behavior does; the policy takes actions of the data only; Q has a number of its own for
        every pair; and the data's model is exact, as it is here, where nothing is random. Then E_pi Q <= V_pi in every
        state of the data for any weight > 0. (With random transitions the weight has to exceed a term that falls with
        the counts.) `tests/benchmarks/test_tabular_learning.py` checks all of it in tables.

        DiscreteCQL is not equation 2. It is equation 4, CQL(H), with the maximum in its target. In a table that has one
        fixed point for any weight, and for its greedy policy, b its action,

            V_pi - max Q = weight (I - gamma P_pi)^-1 (softmax(Q)(b|s) / pi_b(b|s) - 1)

        so that max Q is a lower bound where softmax(Q) takes b at least as often as the data do. Data uniform over n
        actions guarantee that up to noise in their counts, as softmax(Q)(b) >= 1/n. Hence the random data here, and the
        weight {weight:g}: larger ones make the margin larger until the penalty hides the way.

        TABLE

        With the random data no tolerance is needed: the smallest margin of the trained networks is
        {number(min(run["margin"] for run in runs))}, though they are up to
        {number(max(run["from_table"] for run in runs))} off the table's values somewhere.

        **A single action is not bounded.** From the cell in row {pair["cell"][0]}, column {pair["cell"][1]},
        {pair["action"]} leads off the cliff, which is worth {number(pair["exact"], 0)} exactly. The first seed's Q says
        {number(pair["q"])}; over seeds it is {spread(excess)} too much, in a table {weight:g}, as the data do it and
        softmax(Q) does not.

        **Where the page's bound fails.** Data that prefer the best action already (quality 0.6) give it more often than
        softmax(Q) does: max Q lies above the value in {100.0 * (1.0 - wrong["share_below"]):.0f} % of the states, by up
        to {number(-wrong["margin"])}, in the table as in the networks. A larger weight is no remedy: it draws
        softmax(Q) to the behavior. With the random data, of the weights tried, the bound breaks at
        {", ".join(f"{w:g}" for w in broken)}, where the greedy policy follows the noise of the counts.

        ![bound](bound.png)
    """)
    return text.replace("TABLE", table(header, rows))


def _bounded(name: str, runs: list[dict[str, Any]], start: list[float]) -> tuple[str, ...]:
    shares = spread([100.0 * run["share_below"] for run in runs], 0)
    above = spread([float(run["pairs_above"]) for run in runs], 0)
    return name, f"{shares} %", spread([run["margin"] for run in runs]), spread(start), above


def stitch(results: dict[str, Any]) -> str:
    """Who reaches the goal."""
    part = results["stitch"]
    rows = []
    for name, learner in part["learners"].items():
        last = learner["points"][-1]
        claim = spread(last["claim"]) if "claim" in last else ""
        share = f"{100.0 * arrivals(learner['points']):.0f} %"
        rows.append((NAMES[name], spread(last["return"], 0), spread(last["value"]), share, claim))
    text = cleandoc(f"""
        ## Stitching

        {part["trajectories_from_start"]} trajectories begin at the start, {part["of_these_arrived"]} of them arrive. A
        third begins elsewhere, crosses their way, and arrives. The way from the start to the goal is in no trajectory;
        the shortest has {number(-part["optimum"]["return"], 0)} steps.

        ![halves](stitch.png)

        TABLE

        BC follows the majority at the crossing, and the majority is lost. BCQ allows what is at least 0.3 times as
        likely as the most likely action; the right way is 1 : 2 there, and the noise of its imitation crosses that line
        now and then.
    """)
    columns = "return, 100 steps | value | policies of the second half that arrive | its Q says"
    header = f"| learner, {results['updates'] // 2:,} updates | {columns} |"
    return text.replace("TABLE", table(header, rows))


def settings(results: dict[str, Any]) -> str:
    """Target rate and Huber threshold."""
    part = results["settings"]
    points = part["runs"][0]["points"]
    shown = [p["updates"] for p in points if p["updates"] in (1000, 2000, 4000)] or [points[-1]["updates"]]
    rows = []
    for run in part["runs"]:
        at = {p["updates"]: p for p in run["points"]}
        threshold = "none" if run["huber_threshold"] is None else f"{run['huber_threshold']:g}"
        returns = [spread(at[u]["return"], 0) for u in shown]
        claim = spread(run["points"][-1]["claim"], 1)
        rows.append((run["data"], f"{run['tau']:g}", threshold, *returns, claim, number(run["table"], 1)))
    after = " | ".join(f"after {u:,}" for u in shown)
    header = f"| data | target rate | Huber threshold | {after} | max Q, start | in a table, half squares |"
    text = cleandoc(f"""
        ## Settings for small worlds

        DiscreteCQL with weight 1 on the layout "stitch": 150 episodes of mixed quality, as `offrl collect` makes them,
        or 100 random ones; {len(points[-1]["value"])} seeds. Greedy returns; the best is {number(part["optimum"], 0)}.

        TABLE

        Two settings matter. **The target rate**: a value moves one cell further in about 1 / rate updates, so that with
        the default 0.005 a goal ten steps away is not felt for some 2,000 updates; a larger learning rate does not
        help, `SoftTargetUpdate(tau=0.05)` does. **Huber's threshold**: the temporal difference pulls with no more than
        the threshold, so that where weight (softmax(Q) / pi_b - 1) asks for more, nothing stops Q from falling. Random
        data over four actions ask for up to 3 at weight 1: take `huber_threshold: null`, or a weight of at most
        threshold / (n - 1).
    """)
    return text.replace("TABLE", table(header, rows))
