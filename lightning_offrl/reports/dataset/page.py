"""The page of a dataset report: verdict, advice, checks, figures, and how everything was measured."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from typing import TYPE_CHECKING

from lightning_offrl.data.describe import _number as compact
from lightning_offrl.data.describe import _observations as observation_facts
from lightning_offrl.reports import html, plots
from lightning_offrl.reports.compare_returns import number, with_error
from lightning_offrl.reports.dataset import figures
from lightning_offrl.reports.dataset.advice import Advice, Assessment, assess, command
from lightning_offrl.reports.dataset.evidence import Evidence, percent, several
from lightning_offrl.reports.dataset.findings import Finding, column_name
from lightning_offrl.reports.dataset.notes import definitions, limits
from lightning_offrl.reports.dataset.stitching import COUNTED
from lightning_offrl.reports.dataset.verdict import policy_returns, recombination
from lightning_offrl.reports.html import Block, Markup

if TYPE_CHECKING:
    from lightning_offrl.reports.dataset.measure import DatasetMeasures

_KIND = {"refuse": "No claim", "imitate": "Imitate", "improve": "Worth learning from"}
_LEVEL = {"problem": "repair", "warning": "know", "fine": "fine"}
_ROWS = 24
_MINUS = "\N{MINUS SIGN}"


def document(seen: DatasetMeasures) -> Markup:
    """The whole page."""
    opinion = assess(seen)
    episodes = seen.episodes
    where = f" \N{MIDDLE DOT} {episodes.environment}" if episodes.environment and episodes.environment[0] != "{" else ""
    page = html.page(
        opinion.verdict.headline,
        _top(seen, opinion),
        html.section("What to do", _advice(opinion), html.commands(command(seen, opinion))),
        html.section("Checks", _checks(opinion)),
        html.section("Returns and lengths", *_returns(seen)),
        html.section("Behavior", *_behavior(seen)),
        html.section("States", *_states(seen)),
        html.section("Rewards and time", *_rewards(seen)),
        html.section("What this page cannot tell", limits(seen)),
        html.section("How it was measured", definitions(seen)),
        eyebrow=f"dataset report \N{MIDDLE DOT} {episodes.name}{where}",
        footer=f"Fingerprint of the data: {episodes.fingerprint}. The same numbers, and more, are in the .json file "
        "beside this page.",
        style=files("lightning_offrl.reports").joinpath("dataset.css").read_text(encoding="utf-8"),
    )
    return Markup(page.replace(" %", "\N{NO-BREAK SPACE}%"))


def _top(seen: DatasetMeasures, opinion: Assessment) -> Markup:
    episodes, verdict = seen.episodes, opinion.verdict
    count = {level: sum(one.level == level for one in opinion.findings) for level in _LEVEL}
    facts = [
        (f"{episodes.n_episodes:,}", "episodes"),
        (f"{len(episodes):,}", "steps"),
        (with_error(seen.returns.mean, seen.returns.error), "return of an episode (mean ± standard error)"),
    ]
    if seen.score is not None:
        facts.append((with_error(seen.score.mean, seen.score.error), "score (0 random, 100 expert)"))
    more = "+" if seen.policies.at_most else ""
    facts += [
        (f"{seen.policies.effective:.1f}{more}", "effective policies"),
        (percent(seen.policies.randomness), "variety of actions (100 % is random)"),
        (percent(max(recombination(seen), 0.0)), "to gain by recombining (optimistic)"),
        (f"{count['problem']} / {count['warning']}", "to repair / to know"),
    ]
    kind, word = verdict.kind, _KIND[verdict.kind]
    if count["problem"] and kind != "refuse":
        kind, word = "refuse", "Repair first"
    badge = Markup(f'<p class="verdict {kind}">{html.text(word)}</p>')
    repairs = [one.topic.lower() for one in opinion.findings if one.level == "problem"]
    first: list[Block] = []
    if repairs:
        listing = ", ".join(dict.fromkeys(repairs))
        first.append(
            html.paragraph(f"Repair first: {listing}. What is said here of the data as it is may change.", "lead")
        )
    return html.join(
        [
            badge,
            *first,
            *(html.paragraph(sentence, "lead") for sentence in verdict.sentences),
            _evidence(verdict.evidence),
            html.tiles(facts),
        ]
    )


def _evidence(evidence: Iterable[Evidence]) -> Markup:
    rows = []
    for one in evidence:
        limit = f"; limit: {one.limit}" if one.limit else ""
        source = f" ({one.source})" if one.source else ""
        rows.append(f"<li>{html.text(one.name)}: <b>{html.text(one.value)}</b>{html.text(limit + source)}</li>")
    return Markup(f'<ul class="evidence">{"".join(rows)}</ul>' if rows else "")


def _item(kind: str, topic: str, sentence: str, evidence: Iterable[Evidence], level: str = "") -> Markup:
    mark = f'<span class="level">{html.text(level)}</span>' if level else ""
    said = html.paragraph(_code(sentence)) + _evidence(evidence)
    return Markup(f'<li class="{kind}"><h3>{html.text(topic)}</h3>{mark}{said}</li>')


def _code(sentence: str) -> Markup:
    """Backquoted words as code."""
    parts = [str(html.text(part)) for part in sentence.split("`")]
    return Markup("".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts)))


def _sayings(items: Iterable[Markup]) -> Markup:
    return Markup(f'<ul class="sayings">{html.join(items)}</ul>')


def _advice(opinion: Assessment) -> Markup:
    def item(one: Advice) -> Markup:
        return _item("advice", one.topic, one.sentence, one.evidence)

    return _sayings(item(one) for one in opinion.advice)


def _checks(opinion: Assessment) -> Markup:
    def item(one: Finding) -> Markup:
        return _item(one.level, one.topic, one.sentence, one.evidence, _LEVEL[one.level])

    bad = [item(one) for one in opinion.findings if one.level != "fine"]
    good = [item(one) for one in opinion.findings if one.level == "fine"]
    blocks: list[Block] = [_sayings(bad)] if bad else [html.paragraph("Nothing to repair, and nothing to worry about.")]
    if good:
        blocks.append(
            Markup(f"<details><summary>{several(len(good), 'check')} passed</summary>{_sayings(good)}</details>")
        )
    return html.join(blocks)


def _returns(seen: DatasetMeasures) -> list[Block]:
    found = seen.returns
    shares = [percent(part.count / found.count) for part in policy_returns(seen)]
    spoken = f"Mean {number(found.mean)}, from {number(found.smallest)} to {number(found.largest)}."
    blocks: list[Block] = [
        html.grid(
            html.figure(
                plots.svg(figures.returns(seen), f"Histogram of the returns of the episodes. {spoken}"),
                "Returns",
                "Undiscounted sums of the rewards as they are stored"
                + (", by the policy that acted." if seen.policies.number > 1 else "."),
            ),
            html.figure(
                plots.svg(
                    figures.lengths(seen),
                    f"Histogram of the lengths of the episodes. Median {seen.lengths.median:.0f} steps, from "
                    f"{seen.lengths.smallest:.0f} to {seen.lengths.largest:.0f}; {seen.endings.terminal} terminal, "
                    f"{seen.endings.cut} cut.",
                ),
                "Lengths",
                "Steps per episode, by how it ended: in a terminal state, or cut from outside.",
            ),
        )
    ]
    rows = [_row("return", found), _row("steps", seen.lengths)]
    if seen.score is not None:
        rows.append(_row("score", seen.score))
    header = ["per episode", "mean ± standard error", "smallest", "25 %", "median", "75 %", "largest"]
    blocks.append(html.table(header, rows))
    best = seen.imbalance
    rows = [["best tenth", "", with_error(best.best_tenth, best.best_tenth_error), percent(best.best_tenth_steps)]]
    if seen.policies.number > 1:
        length, number_of = seen.episodes.length.double(), seen.policies.of_episode
        total = float(length.sum())
        held = [percent(float(length[number_of == k].sum()) / total) for k in range(seen.policies.number)]
        parts = policy_returns(seen)
        rows = [
            [f"policy {k + 1}", shares[k], with_error(part.mean, part.error), held[k]] for k, part in enumerate(parts)
        ] + rows
    rows[-1][1] = percent(max(1, round(found.count / 10)) / found.count)
    caption = "Parts of the data" if seen.policies.number > 1 else "The best episodes"
    blocks.append(html.table(["part", "episodes", "mean return", "steps"], rows, caption=caption))
    return blocks


def _row(name: str, found: object) -> list[str]:
    from lightning_offrl.reports.dataset.statistics import Summary

    assert isinstance(found, Summary)
    keys = ("smallest", "quarter", "median", "three_quarters", "largest")
    return [name, with_error(found.mean, found.error), *(number(getattr(found, key)) for key in keys)]


def _behavior(seen: DatasetMeasures) -> list[Block]:
    policies, actions = seen.policies, seen.actions
    shares = ", ".join(percent(share) for share in policies.shares)
    more = " (or more: no larger number was tried)" if policies.at_most else ""
    text = (
        f"The episodes look like the work of {several(policies.number, 'policy', 'policies')}{more}"
        + (f", with shares of {shares}" if policies.number > 1 else "")
        + f": an effective number of {policies.effective:.1f}. The state explains {percent(policies.predictable)} "
        f"of the "
        "variance of the actions. "
    )
    at_random = f"{policies.uniform_entropy:.2f} if it were random"
    text += (
        f"Behavior entropy: {policies.entropy:.2f} ± {policies.entropy_error:.2f} nats per decision from the logged "
        f"probabilities, {at_random}.".replace("-", _MINUS)
        if policies.logged
        else f"Behavior entropy: about {policies.entropy:.2f} nats per decision, {at_random}.".replace("-", _MINUS)
    )
    shown = min(figures.WIDEST_ACTION, int(seen.episodes.spec["action_size"]))
    if actions.share is not None:
        top = max(range(len(actions.share)), key=lambda i: actions.share[i])  # type: ignore[index]
        spoken = f"The most frequent is {figures.action_label(seen, top)} with {percent(actions.share[top])}."
        caption = "Share of the steps in which each was taken."
    else:
        spoken = f"{percent(actions.any_saturated)} of the steps touch a bound."
        caption = "Dark where many steps are; at the edges the action is at its bound."
    figure = html.figure(
        plots.svg(figures.actions(seen), f"Distribution of the first {shown} actions or action dimensions. {spoken}"),
        "Actions",
        caption,
    )
    blocks: list[Block] = [html.paragraph(text)]
    if actions.saturated is None or policies.spread is None or actions.mean is None or actions.reach is None:
        taken = list(actions.share or ())[:_ROWS]
        rows = [
            [figures.action_label(seen, i), percent(s), f"{s * len(seen.episodes):,.0f}"] for i, s in enumerate(taken)
        ]
        blocks.append(html.grid(figure, html.table(["action", "share", "steps"], rows, caption="How often")))
        return blocks
    low, high = seen.episodes.spec["action_low"], seen.episodes.spec["action_high"]
    named = seen.columns.get("action")
    dimensions: list[list[Block]] = []
    for i in range(min(len(actions.saturated), _ROWS)):
        unit = f" {named[i]['unit']}" if isinstance(named, list) and i < len(named) and named[i].get("unit") else ""
        name = named[i]["name"] if isinstance(named, list) and i < len(named) else f"dimension {i}"
        dimensions.append(
            [
                name,
                f"{low[i]:g} to {high[i]:g}{unit}".replace("-", _MINUS),
                f"{actions.mean[i]:+.2f}".replace("-", _MINUS),
                f"{policies.spread[i]:.2f}",
                percent(actions.saturated[i]),
            ]
        )
    table = html.table(
        ["action", "bounds", "mean", "spread in a state", "at a bound"],
        dimensions,
        caption="Mean and spread in half ranges: −1 and 1 are the bounds, 0.58 is the spread of random actions",
    )
    return [*blocks, html.grid(figure, table)]


def _states(seen: DatasetMeasures) -> list[Block]:
    states, links = seen.states, seen.links
    repeated = (
        f"{states.distinct:,} different states"
        if states.tabular
        else f"{states.distinct:,} different observations in {len(seen.episodes):,} steps"
    )
    pairs = ""
    if states.pairs is not None and states.possible_pairs:
        share = states.pairs / states.possible_pairs
        pairs = (
            f" Of the {states.possible_pairs:,} pairs of these states and an action, {percent(share)} are in the data."
        )
    text = (
        f"{repeated[0].upper()}{repeated[1:]}, of {several(states.numbers, 'number')} that vary like "
        f"{states.effective_dimension:.1f} unrelated ones.{pairs} {percent(links.overlap)} of the sampled steps have "
        f"another episode within half a typical step: that is where episodes can be compared and recombined "
        f"({several(links.episodes.n_episodes, 'episode')}, {len(links.episodes):,} steps sampled)."
    )
    spoken = f"{len(states.map):,} sampled steps on the first two principal axes of the standardized observations."
    found = seen.stitching
    blocks: list[Block] = [
        html.paragraph(text),
        html.grid(
            html.figure(
                plots.svg(figures.density(seen), f"Map of the states, colored by how many steps are there. {spoken}"),
                "Where the data is",
                ("States that follow each other lie close together. " if seen.states.by_successors else "")
                + "On the two directions of largest variance (principal axes, in standard deviations). Light where few "
                "steps are, dark where many; blank where none is.",
            ),
            html.figure(
                plots.svg(
                    figures.value_map(seen), f"Map of the states, colored by the return of the episode. {spoken}"
                ),
                "Where the good episodes are",
                "Mean rank, among all steps, of the episodes that came through: orange the best, blue the worst.",
            ),
        ),
        html.grid(
            html.figure(
                plots.svg(
                    figures.recombined(seen),
                    f"Discounted value from the logged starts: {number(found.logged)} as logged, "
                    f"{number(found.single)} by the best single episode, "
                    f"{number(found.stitched[found.changes.index(COUNTED)])} with {COUNTED} changes of episode.",
                ),
                "Stitching potential",
                "What following the logged steps would earn if one could change to another episode where both pass "
                f"through the same state. {percent(found.improved)} of the starts gain; an optimistic estimate.",
            ),
            html.table(
                ["from the logged starts", "value"],
                [
                    ["as logged", number(found.logged)],
                    ["best single episode", number(found.single)],
                    *([several(m, "change"), number(v)] for m, v in zip(found.changes, found.stitched, strict=True)),
                    [f"potential ({COUNTED} changes)", with_error(found.gain, found.gain_error)],
                ],
                caption=f"Discounted by {found.discount:g} per step, mean over {found.episodes:,} starts",
            ),
        ),
        _observations(seen),
    ]
    return blocks


def _observations(seen: DatasetMeasures) -> Markup:
    rows: list[list[Block]] = []
    hidden, index = 0, 0
    named = seen.columns.get("observation")
    units = [one.get("unit") for one in named] if isinstance(named, list) else []
    for leaf in observation_facts(seen.episodes.data["observation"]):
        vector = len(leaf["shape"]) == 1
        for i in range(len(leaf["min"])):
            name = f"{leaf['name']} {i}".strip() if vector and leaf["name"] else f"observation {index}"
            name = leaf["name"] if not vector else column_name(seen, name)
            unit = units[index] if index < len(units) and units[index] else ""
            index += 1
            if len(rows) >= _ROWS:
                hidden += 1
                continue
            values = [compact(leaf[key][i]).replace("-", _MINUS) for key in ("min", "mean", "sd", "max")]
            rows.append([f"{name} ({unit})" if unit else name, *values])
    more = f"; {hidden} more are in the .json file" if hidden else ""
    return html.table(
        ["observation", "smallest", "mean", "deviation", "largest"], rows, caption=f"Observations as stored{more}"
    )


def _rewards(seen: DatasetMeasures) -> list[Block]:
    steps = seen.rewards.steps
    change = seen.drift[0] if seen.drift else None
    trend = (
        f"First third {number(change.first)}, last third {number(change.last)}, difference "
        f"{with_error(change.last - change.first, change.error)}."
        if change
        else "Too few episodes to compare their beginning and end."
    )
    log = " The scale of the counts is logarithmic." if seen.rewards.zero >= 0.9 else ""
    return [
        html.grid(
            html.figure(
                plots.svg(
                    figures.rewards(seen),
                    f"Histogram of the rewards of the steps: mean {steps.mean:.4g}, from {steps.smallest:.4g} to "
                    f"{steps.largest:.4g}, {percent(seen.rewards.zero)} are zero.",
                ),
                "Rewards",
                f"{percent(seen.rewards.zero)} are zero; values to learn will be of the size "
                f"{seen.rewards.size:.3g} at "
                f"a discount of {seen.discount:g}.{log}",
            ),
            html.figure(
                plots.svg(figures.over_time(seen), f"Return of each episode in the order of the data. {trend}"),
                "Over time",
                f"{trend} The band is one standard error.",
            ),
        )
    ]
