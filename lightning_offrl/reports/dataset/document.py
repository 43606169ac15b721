"""The document of a dataset report: verdict, advice, checks, figures, and how everything was measured.

What it says around the numbers is in ``templates/dataset.html.j2``.
"""

from __future__ import annotations

from typing import Any

from lightning_offrl.data.describe import compact_number, observation_facts
from lightning_offrl.reports import html
from lightning_offrl.reports.dataset import figures
from lightning_offrl.reports.dataset.advice import Assessment, assess, command
from lightning_offrl.reports.dataset.measure import DatasetMeasures
from lightning_offrl.reports.dataset.statistics import Summary
from lightning_offrl.reports.dataset.stitching import COUNTED
from lightning_offrl.reports.dataset.verdict import policy_returns, recombination
from lightning_offrl.reports.formatting import counted, mean_and_error, percent, short_number, true_minus
from lightning_offrl.reports.html import Markup, Table
from lightning_offrl.reports.theme import svg

_KIND = {"refuse": "No claim", "imitate": "Imitate", "improve": "Worth learning from"}
_ROWS = 24


def document(measures: DatasetMeasures) -> Markup:
    """The report as HTML."""
    assessment = assess(measures)
    kind = assessment.verdict.kind
    repairs = [one.topic.lower() for one in assessment.findings if one.level == "problem"]
    change = measures.drift[0] if measures.drift else None
    trend = (
        f"First third {short_number(change.first)}, last third {short_number(change.last)}, difference "
        f"{mean_and_error(change.last - change.first, change.error)}."
        if change
        else "Too few episodes to compare their beginning and end."
    )
    return html.render(
        "dataset.html.j2",
        title=assessment.verdict.headline,
        measures=measures,
        policies=measures.policies,
        verdict=assessment.verdict,
        assessment=assessment,
        badge_of=("refuse", "Repair first") if repairs and kind != "refuse" else (kind, _KIND[kind]),
        repairs=list(dict.fromkeys(repairs)),
        facts=_facts(measures, assessment),
        command=command(measures, assessment),
        pictures=_pictures(measures, trend),
        trend=trend,
        returns=_returns(measures),
        parts=_parts(measures),
        actions=_actions(measures),
        stitching=_stitching(measures),
        observations=_observations(measures),
        counted_changes=COUNTED,
    )


def _facts(measures: DatasetMeasures, assessment: Assessment) -> list[tuple[str, str]]:
    episodes, policies = measures.episodes, measures.policies
    problems, warnings = (sum(one.level == level for one in assessment.findings) for level in ("problem", "warning"))
    returns, score = measures.returns, measures.score
    facts = [
        (f"{episodes.n_episodes:,}", "episodes"),
        (f"{len(episodes):,}", "steps"),
        (mean_and_error(returns.mean, returns.error), "return of an episode (mean ± standard error)"),
    ]
    if score is not None:
        facts.append((mean_and_error(score.mean, score.error), "score (0 random, 100 expert)"))
    return [
        *facts,
        (f"{policies.effective:.1f}{'+' if policies.at_most else ''}", "effective policies"),
        (percent(policies.randomness), "variety of actions (100 % is random)"),
        (percent(max(recombination(measures), 0.0)), "to gain by recombining (optimistic)"),
        (f"{problems}", "problem to repair" if problems == 1 else "problems to repair"),
        (f"{warnings}", "warning" if warnings == 1 else "warnings"),
    ]


def _pictures(measures: DatasetMeasures, trend: str) -> dict[str, Markup]:
    """Every figure, with what a reader who cannot see it should hear."""
    returns, lengths, ends = measures.returns, measures.lengths, measures.endings
    steps, found, actions = measures.rewards.steps, measures.stitching, measures.actions
    size = int(measures.episodes.spec["action_size"])
    if actions.share is not None:
        top = max(range(size), key=actions.share.__getitem__)
        used = f"The most frequent is {measures.action_label(top)} with {percent(actions.share[top])}."
    else:
        used = f"{percent(actions.any_saturated)} of the steps touch a bound."
    axes = (
        f"{len(measures.states.map):,} sampled steps on the first two principal axes of the standardized observations."
    )
    described = {
        figures.returns: f"Histogram of the returns of the episodes. Mean {short_number(returns.mean)}, from "
        f"{short_number(returns.smallest)} to {short_number(returns.largest)}.",
        figures.lengths: f"Histogram of the lengths of the episodes. Median {lengths.median:.0f} steps, from "
        f"{lengths.smallest:.0f} to {lengths.largest:.0f}; {ends.terminal} terminal, {ends.cut} cut.",
        figures.actions: f"Distribution of the first {min(figures.WIDEST_ACTION, size)} actions or action dimensions. "
        f"{used}",
        figures.density: f"Map of the states, colored by how many steps are there. {axes}",
        figures.value_map: f"Map of the states, colored by the return of the episode. {axes}",
        figures.recombined: f"Discounted value from the logged starts: {short_number(found.logged)} as logged, "
        f"{short_number(found.single)} by the best single episode, "
        f"{short_number(found.stitched[found.changes.index(COUNTED)])} with {COUNTED} changes of episode.",
        figures.rewards: f"Histogram of the rewards of the steps: mean {steps.mean:.4g}, from {steps.smallest:.4g} to "
        f"{steps.largest:.4g}, {percent(measures.rewards.zero)} are zero.",
        figures.over_time: f"Return of each episode in the order of the data. {trend}",
    }
    return {draw.__name__: svg(draw(measures), description) for draw, description in described.items()}


def _returns(measures: DatasetMeasures) -> Table:
    summaries = {"return": measures.returns, "steps": measures.lengths, "score": measures.score}
    rows = [_summary_row(name, found) for name, found in summaries.items() if found is not None]
    return Table(["per episode", "mean ± standard error", "smallest", "25 %", "median", "75 %", "largest"], rows)


def _summary_row(name: str, found: Summary) -> list[str]:
    order = (found.smallest, found.quarter, found.median, found.three_quarters, found.largest)
    return [name, mean_and_error(found.mean, found.error), *map(short_number, order)]


def _parts(measures: DatasetMeasures) -> Table:
    """The parts of the data by policy, and its best tenth."""
    count, length = measures.returns.count, measures.episodes.length.double()
    rows = []
    if measures.policies.number > 1:
        for k, part in enumerate(policy_returns(measures)):
            held = float(length[measures.policies.of_episode == k].sum()) / float(length.sum())
            returned = mean_and_error(part.mean, part.error)
            rows.append([f"policy {k + 1}", percent(part.count / count), returned, percent(held)])
    best = measures.imbalance
    returned = mean_and_error(best.best_tenth, best.best_tenth_error)
    rows.append(["best tenth", percent(max(1, round(count / 10)) / count), returned, percent(best.best_tenth_steps)])
    caption = "Parts of the data" if measures.policies.number > 1 else "The best episodes"
    return Table(["part", "episodes", "mean return", "steps"], rows, caption=caption)


def _actions(measures: DatasetMeasures) -> Table:
    actions, spread, spec = measures.actions, measures.policies.spread, measures.episodes.spec
    if actions.saturated is None or spread is None or actions.mean is None:
        taken = list(actions.share or ())[:_ROWS]
        rows = [
            [measures.action_label(i), percent(share), f"{share * len(measures.episodes):,.0f}"]
            for i, share in enumerate(taken)
        ]
        return Table(["action", "share", "steps"], rows, caption="How often")
    rows = [
        [
            measures.action_name(i),
            true_minus(f"{low:g} to {high:g} {measures.action_unit(i)}".rstrip()),
            true_minus(f"{actions.mean[i]:+.2f}"),
            f"{spread[i]:.2f}",
            percent(actions.saturated[i]),
        ]
        for i, (low, high) in enumerate(zip(spec["action_low"], spec["action_high"], strict=True))
    ]
    return Table(
        ["action", "bounds", "mean", "spread in a state", "at a bound"],
        rows[:_ROWS],
        caption="Mean and spread in half ranges: −1 and 1 are the bounds, 0.58 is the spread of random actions",
    )


def _stitching(measures: DatasetMeasures) -> Table:
    found = measures.stitching
    return Table(
        ["from the logged starts", "value"],
        [
            ["as logged", short_number(found.logged)],
            ["best single episode", short_number(found.single)],
            *([counted(m, "change"), short_number(v)] for m, v in zip(found.changes, found.stitched, strict=True)),
            [f"potential ({COUNTED} changes)", mean_and_error(found.gain, found.gain_error)],
        ],
        caption=f"Discounted by {found.discount:g} per step, mean over {found.episodes:,} starts",
    )


def _observations(measures: DatasetMeasures) -> Table:
    rows = [
        [name, *(true_minus(compact_number(leaf[key][i])) for key in ("min", "mean", "sd", "max"))]
        for name, leaf, i in _numbers(measures)
    ]
    more = f"; {len(rows) - _ROWS} more are in the .json file" if len(rows) > _ROWS else ""
    header = ["observation", "smallest", "mean", "deviation", "largest"]
    return Table(header, rows[:_ROWS], caption=f"Observations as stored{more}")


def _numbers(measures: DatasetMeasures) -> list[tuple[str, dict[str, Any], int]]:
    """Each number of the observation: its name with its unit, the facts of its array, and where it is in these."""
    found: list[tuple[str, dict[str, Any], int]] = []
    for leaf in observation_facts(measures.episodes.data["observation"]):
        for i in range(len(leaf["min"])):
            name = leaf["name"]
            if len(leaf["shape"]) == 1:  # an array of more dimensions, such as a picture, is one row
                name = measures.observation_name(f"{name} {i}" if name else f"observation {len(found)}")
            unit = measures.observation_unit(len(found))
            found.append((f"{name} ({unit})" if unit else name, leaf, i))
    return found
