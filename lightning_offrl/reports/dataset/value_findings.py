"""The checks of what is inside the episodes: rewards, actions, observations, and whether these drift."""

from __future__ import annotations

from collections.abc import Iterator

from lightning_offrl.reports.compare_returns import CLEAR
from lightning_offrl.reports.dataset.evidence import OURS, Evidence, Finding, Level
from lightning_offrl.reports.dataset.measure import DatasetMeasures
from lightning_offrl.reports.formatting import counted, percent, short_number

DRIFT, DRIFT_STATES = 0.2, 0.5
"""Change between the first and the last third, in standard deviations over episodes, that matters."""
SATURATION = 0.5
"""Share of the steps with an action at its bound from which it is a warning."""
NARROW_REACH = 0.5
"""Largest action, in half ranges, below which the bounds may be wrong."""


def _rewards(measures: DatasetMeasures) -> Iterator[Finding]:
    rewards = measures.rewards
    steps = rewards.steps
    evidence = (
        Evidence("zero rewards", percent(rewards.zero)),
        Evidence("different rewards", f"{rewards.distinct:,}", "at least 2", OURS),
    )
    if rewards.distinct == 1:
        level: Level = "warning" if measures.endings.terminal else "problem"
        pays = (
            "returns differ by the length of episodes alone"
            if measures.endings.terminal
            else "and without a terminal state nothing that is done makes a difference"
        )
        yield Finding("Rewards", level, f"Every reward is {steps.mean:.4g}: {pays}.", evidence)
    elif rewards.zero >= 0.95:
        yield Finding(
            "Rewards",
            "warning",
            f"Rewards are sparse: {percent(rewards.zero)} are zero, and {percent(rewards.at_end)} of the others come "
            "with the last step of an episode. Values have to travel far; only algorithms that bootstrap carry them.",
            (*evidence, Evidence("sparse", percent(rewards.zero), "95 % zero", OURS)),
        )
    else:
        yield Finding(
            "Rewards",
            "fine",
            f"Rewards are dense, from {steps.smallest:.4g} to {steps.largest:.4g} with the mean "
            f"{steps.mean:.4g}; {percent(rewards.zero)} are zero.",
            evidence,
        )


def _length_pays(measures: DatasetMeasures) -> Iterator[Finding]:
    explains, slope = measures.rewards.length_explains, measures.rewards.per_step
    if explains is None or slope is None or explains < 0.9 or measures.rewards.distinct == 1:
        return
    meaning = "staying alive" if slope > 0 else "ending soon"
    yield Finding(
        "What is rewarded",
        "warning",
        f"The length of an episode explains {percent(explains)} of the variance of returns ({slope:+.3g} per step): "
        f"the reward mostly pays for {meaning}.",
        (Evidence("explained by length", percent(explains), "90 %", OURS),),
    )


def _saturation(measures: DatasetMeasures) -> Iterator[Finding]:
    actions = measures.actions
    if actions.saturated is None:
        return
    worst = max(range(len(actions.saturated)), key=lambda i: actions.saturated[i])  # type: ignore[index]
    share = actions.any_saturated
    evidence = (Evidence("steps with a saturated action", percent(share), percent(SATURATION), OURS),)
    if share >= SATURATION:
        yield Finding(
            "Action saturation",
            "warning",
            f"In {percent(share)} of the steps an action lies within 1 % of its bound (most often dimension {worst}: "
            f"{percent(actions.saturated[worst])}). Log-densities of squashed Gaussians are steep there: prefer a "
            "deterministic policy, and check that the actions were logged before they were clipped.",
            evidence,
        )
    else:
        yield Finding("Action saturation", "fine", f"{percent(share)} of the steps touch a bound.", evidence)


def _action_range(measures: DatasetMeasures) -> Iterator[Finding]:
    reach = measures.actions.reach
    if reach is None or max(reach) >= NARROW_REACH:
        return
    yield Finding(
        "Action range",
        "warning",
        f"No action goes beyond {percent(max(reach))} of its half range: the bounds may be wrong (actions are scaled "
        "with them), or only a small part of what is possible was tried.",
        (Evidence("largest action", f"{max(reach):.2f} half ranges", f"at least {NARROW_REACH}", OURS),),
    )


def _unused(measures: DatasetMeasures) -> Iterator[Finding]:
    actions = measures.actions
    if actions.constant:
        what = "One action" if actions.share else counted(actions.constant, "action dimension")
        yield Finding(
            "Constant actions",
            "problem" if actions.share or actions.constant == measures.episodes.spec["action_size"] else "warning",
            f"{what} never changes: nothing can be learned about the alternatives.",
            (Evidence("constant", f"{actions.constant}", "0", OURS),),
        )
    elif actions.never:
        yield Finding(
            "Unused actions",
            "warning",
            f"{counted(actions.never, 'action')} of {measures.episodes.spec['action_size']} were never taken: their "
            "values are guesses. Mask them, or use an algorithm that stays with the data.",
            (Evidence("never taken", f"{actions.never}", "0", OURS),),
        )


def _constant(measures: DatasetMeasures) -> Iterator[Finding]:
    if measures.states.constant:
        yield Finding(
            "Constant observations",
            "warning",
            f"The observation has {counted(measures.states.constant, 'number')} that never "
            f"change{'s' if measures.states.constant == 1 else ''}: harmless, but check that the right columns were "
            f"logged.",
            (Evidence("constant", f"{measures.states.constant}", "0", OURS),),
        )


def _drift_return(measures: DatasetMeasures) -> Iterator[Finding]:
    if not measures.drift:
        return
    change = measures.drift[0]
    evidence = (
        Evidence(
            "change of the return", f"{change.z:+.1f} standard errors", f"{CLEAR:g}", "as for any comparison here"
        ),
        Evidence("in standard deviations", f"{change.size:+.2f}", f"{DRIFT}", "a small effect (Cohen 1988)"),
    )
    if abs(change.z) >= CLEAR and abs(change.size) >= DRIFT:
        yield Finding(
            "Drift of returns",
            "warning",
            f"Later episodes return {'more' if change.last > change.first else 'less'}: {short_number(change.last)} in "
            f"the last third, {short_number(change.first)} in the first (±{short_number(change.error)} on the "
            "difference). The behavior or the world changed; if the order is time, hold out the end for validation, "
            "not a random part.",
            evidence,
        )
    else:
        yield Finding(
            "Drift of returns", "fine", "First and last third return the same, as far as can be seen.", evidence
        )


def _drift_states(measures: DatasetMeasures) -> Iterator[Finding]:
    moved = [c for c in measures.drift[1:] if abs(c.z) >= CLEAR + 1 and abs(c.size) >= DRIFT_STATES]
    if not moved:
        return
    top = moved[0]
    name = measures.observation_name(top.name)
    yield Finding(
        "Drift of states and actions",
        "warning",
        f"{counted(len(moved), 'quantity', 'quantities')} drift{'s' if len(moved) == 1 else ''} "
        f"between the first and the last third of the episodes, most of all {name}, by {top.size:+.1f} standard "
        "deviations over episodes.",
        (
            Evidence(
                name,
                f"{top.z:+.0f} standard errors, {top.size:+.2f} standard deviations",
                f"{CLEAR + 1:g} and {DRIFT_STATES}",
                f"{OURS}: one more standard error, as {len(measures.drift)} quantities are compared",
            ),
        ),
    )


VALUE_CHECKS = (
    _rewards,
    _length_pays,
    _saturation,
    _action_range,
    _unused,
    _constant,
    _drift_return,
    _drift_states,
)
