"""Every check of a dataset, judged: one sentence each, with the number, the limit and where the limit comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lightning_offrl.reports.compare_returns import CLEAR, number
from lightning_offrl.reports.dataset.evidence import OURS, Evidence, percent, several

if TYPE_CHECKING:
    from lightning_offrl.reports.dataset.measure import DatasetMeasures

Level = Literal["problem", "warning", "fine"]

COPIED = 0.05
"""Share of duplicated episodes from which they are a problem."""
FEW = 30
"""Distinct episodes below which nothing can be shown from the data alone."""
DRIFT, DRIFT_STATES = 0.2, 0.5
"""Change between the first and the last third, in standard deviations over episodes, that matters."""
SATURATION = 0.5
NARROW_REACH = 0.5


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        topic: what was checked.
        level: "problem" (repair it), "warning" (know it), or "fine".
        sentence: what was found, and what follows.
        evidence: the numbers.
    """

    topic: str
    level: Level
    sentence: str
    evidence: tuple[Evidence, ...] = ()


def find(seen: DatasetMeasures) -> list[Finding]:
    """All checks, problems first."""
    found = [finding for check in _CHECKS for finding in check(seen)]
    return sorted(found, key=lambda one: ("problem", "warning", "fine").index(one.level))


def repeats(seen: DatasetMeasures) -> bool:
    """Whether states repeat exactly by themselves, so that equal episodes are chance and not copies."""
    return seen.states.tabular or seen.states.distinct * 2 <= len(seen.episodes) - seen.copied_steps


def distinct_episodes(seen: DatasetMeasures) -> int:
    """Episodes that are evidence: all, less the exact copies of others where states do not repeat by themselves."""
    return seen.episodes.n_episodes - (0 if repeats(seen) else seen.copies.duplicated)


def _size(seen: DatasetMeasures) -> Iterator[Finding]:
    count = distinct_episodes(seen)
    source = "this package's limit for importance-weighted estimates (effective sample size)"
    evidence = (Evidence("different episodes", f"{count:,}", f"at least {FEW}", source),)
    if count < FEW:
        yield Finding(
            "Amount",
            "problem",
            f"There are only {several(count, 'different episode')}: the mean return is known to "
            f"±{number(seen.returns.error)}, and no estimate of another policy's return can be trusted.",
            evidence,
        )
    else:
        yield Finding(
            "Amount",
            "fine",
            f"{several(count, 'different episode')} with {len(seen.episodes):,} steps.",
            evidence,
        )


def _terminal(seen: DatasetMeasures) -> Iterator[Finding]:
    ends, lengths = seen.endings, seen.lengths
    if ends.terminal == 0 and not ends.one_length:
        yield Finding(
            "Terminal states",
            "problem",
            f"No episode is marked as ended by the environment, yet their lengths go from {lengths.smallest:.0f} to "
            f"{lengths.largest:.0f} steps. If any of these were real ends (a fall, a success, a death), every value "
            "learned behind them is wrong: mark them as terminated.",
            (Evidence("terminal episodes", f"0 of {seen.returns.count:,}", "lengths that vary have a reason", OURS),),
        )
    elif ends.terminal == 0:
        yield Finding(
            "Terminal states",
            "fine",
            f"No episode ends in a terminal state; all are cut after {ends.longest} steps, as in a task without end.",
            (Evidence("cut at the longest length", f"{ends.cut_at_longest:,} of {seen.returns.count:,}"),),
        )
    else:
        yield Finding(
            "Terminal states",
            "fine",
            f"{several(ends.terminal, 'episode')} of {seen.returns.count:,} end in a terminal state, {ends.cut:,} are "
            "cut.",
            (Evidence("terminal", percent(ends.terminal / seen.returns.count)),),
        )


def _time_limits(seen: DatasetMeasures) -> Iterator[Finding]:
    ends, total = seen.endings, seen.returns.count
    share = ends.terminal_at_longest / total
    evidence = (
        Evidence(
            "terminal episodes of exactly the longest length",
            f"{ends.terminal_at_longest:,} of {total:,}, at {ends.longest} steps",
            f"below {percent(0.1)} while none is cut",
            OURS,
        ),
    )
    if ends.cut == 0 and ends.terminal_at_longest >= 2 and share >= 0.1:
        yield Finding(
            "Time limits",
            "problem" if not ends.one_length else "warning",
            f"{percent(share)} of the episodes end as terminal after exactly {ends.longest} steps and none is cut: "
            "that looks like a time limit stored as a terminal state, which teaches that the value there is 0. Mark "
            "these as truncated.",
            evidence,
        )


def _resets(seen: DatasetMeasures) -> Iterator[Finding]:
    ends = seen.endings
    if ends.terminal and ends.into_start / ends.terminal >= 0.1 and ends.into_start >= 2:
        yield Finding(
            "Last observations",
            "problem",
            f"In {several(ends.into_start, 'terminal episode')} the last next observation is exactly the first "
            "observation of the following episode: the environment was reset before it was logged. Dynamics and "
            "rewards learned from these steps are wrong; log the observation before the reset.",
            (Evidence("into the next start", f"{ends.into_start:,} of {ends.terminal:,}", "below 10 %", OURS),),
        )


def _pieces(seen: DatasetMeasures) -> Iterator[Finding]:
    ends = seen.endings
    if ends.cut > 1 and ends.continued / ends.cut >= 0.1 and ends.continued >= 2:
        yield Finding(
            "Pieces",
            "warning",
            f"{several(ends.continued, 'cut episode')} go on in the next episode without a gap: they are pieces of "
            "longer ones. A validation split by episode then puts neighbors on both sides; join them, or split by "
            "the longer unit.",
            (Evidence("continued", f"{ends.continued:,} of {ends.cut:,} cut episodes", "below 10 %", OURS),),
        )


def _copies(seen: DatasetMeasures) -> Iterator[Finding]:
    copies, total = seen.copies, seen.returns.count
    share = copies.duplicated / total
    if copies.duplicated == 0:
        yield Finding("Duplicates", "fine", f"No episode is an exact copy of another, among {total:,}.")
        return
    first, second = copies.example or (0, 0)
    natural = repeats(seen)
    reason = (
        " In a small set of states that happens by itself, but a validation split still sees them twice."
        if natural
        else " They count as evidence that is not there."
    )
    yield Finding(
        "Duplicates",
        "warning" if natural or share < COPIED else "problem",
        f"{several(copies.duplicated, 'exact copy', 'exact copies')} of other episodes ({percent(share)}), for "
        f"example episodes {first} and {second}; of the episodes in a validation tenth, "
        f"{percent(copies.leak)} would also be in the training part.{reason}",
        (Evidence("duplicated episodes", percent(share), f"below {percent(COPIED)}", OURS),),
    )


def _shared(seen: DatasetMeasures) -> Iterator[Finding]:
    copies = seen.copies
    if repeats(seen) or copies.shared_steps == 0:
        return
    yield Finding(
        "Leaking episodes",
        "problem" if copies.shared_steps >= COPIED else "warning",
        f"{percent(copies.shared_steps)} of the steps also stand, to the last digit, in an episode with other content, "
        f"and {several(copies.partly_shared, 'episode')} share at least half of their steps: parts were copied or "
        "logged twice. A split by episode leaks them into validation.",
        (Evidence("shared steps", percent(copies.shared_steps), "0 in continuous data", "equal floats by chance"),),
    )


def _rewards(seen: DatasetMeasures) -> Iterator[Finding]:
    rewards = seen.rewards
    steps = rewards.steps
    evidence = (
        Evidence("zero rewards", percent(rewards.zero)),
        Evidence("different rewards", f"{rewards.distinct:,}", "at least 2", OURS),
    )
    if rewards.distinct == 1:
        level: Level = "warning" if seen.endings.terminal else "problem"
        pays = (
            "returns differ by the length of episodes alone"
            if seen.endings.terminal
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


def _length_pays(seen: DatasetMeasures) -> Iterator[Finding]:
    explains, slope = seen.rewards.length_explains, seen.rewards.per_step
    if explains is None or slope is None or explains < 0.9 or seen.rewards.distinct == 1:
        return
    meaning = "staying alive" if slope > 0 else "ending soon"
    yield Finding(
        "What is rewarded",
        "warning",
        f"The length of an episode explains {percent(explains)} of the variance of returns ({slope:+.3g} per step): "
        f"the reward mostly pays for {meaning}.",
        (Evidence("explained by length", percent(explains), "90 %", OURS),),
    )


def _saturation(seen: DatasetMeasures) -> Iterator[Finding]:
    actions = seen.actions
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


def _action_range(seen: DatasetMeasures) -> Iterator[Finding]:
    reach = seen.actions.reach
    if reach is None or max(reach) >= NARROW_REACH:
        return
    yield Finding(
        "Action range",
        "warning",
        f"No action goes beyond {percent(max(reach))} of its half range: the bounds may be wrong (actions are scaled "
        "with them), or only a small part of what is possible was tried.",
        (Evidence("largest action", f"{max(reach):.2f} half ranges", f"at least {NARROW_REACH}", OURS),),
    )


def _unused(seen: DatasetMeasures) -> Iterator[Finding]:
    actions = seen.actions
    if actions.constant:
        what = "One action" if actions.share else several(actions.constant, "action dimension")
        yield Finding(
            "Constant actions",
            "problem" if actions.share or actions.constant == seen.episodes.spec["action_size"] else "warning",
            f"{what} never changes: nothing can be learned about the alternatives.",
            (Evidence("constant", f"{actions.constant}", "0", OURS),),
        )
    elif actions.never:
        yield Finding(
            "Unused actions",
            "warning",
            f"{several(actions.never, 'action')} of {seen.episodes.spec['action_size']} were never taken: their values "
            "are guesses. Mask them, or use an algorithm that stays with the data.",
            (Evidence("never taken", f"{actions.never}", "0", OURS),),
        )


def _constant(seen: DatasetMeasures) -> Iterator[Finding]:
    if seen.states.constant:
        yield Finding(
            "Constant observations",
            "warning",
            f"The observation has {several(seen.states.constant, 'number')} that never "
            f"change{'s' if seen.states.constant == 1 else ''}: harmless, but check that the right columns were "
            f"logged.",
            (Evidence("constant", f"{seen.states.constant}", "0", OURS),),
        )


def _drift_return(seen: DatasetMeasures) -> Iterator[Finding]:
    if not seen.drift:
        return
    change = seen.drift[0]
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
            f"Later episodes return {'more' if change.last > change.first else 'less'}: {number(change.last)} in the "
            f"last third, {number(change.first)} in the first (±{number(change.error)} on the difference). The "
            "behavior or the world changed; if the order is time, hold out the end for validation, not a random "
            "part.",
            evidence,
        )
    else:
        yield Finding(
            "Drift of returns", "fine", "First and last third return the same, as far as can be seen.", evidence
        )


def _drift_states(seen: DatasetMeasures) -> Iterator[Finding]:
    moved = [c for c in seen.drift[1:] if abs(c.z) >= CLEAR + 1 and abs(c.size) >= DRIFT_STATES]
    if not moved:
        return
    top = moved[0]
    name = column_name(seen, top.name)
    yield Finding(
        "Drift of states and actions",
        "warning",
        f"{several(len(moved), 'quantity', 'quantities')} drift{'s' if len(moved) == 1 else ''} "
        f"between the first and the last third of the episodes, most of all {name}, by {top.size:+.1f} standard "
        "deviations over episodes.",
        (
            Evidence(
                name,
                f"{top.z:+.0f} standard errors, {top.size:+.2f} standard deviations",
                f"{CLEAR + 1:g} and {DRIFT_STATES}",
                f"{OURS}: one more standard error, as {len(seen.drift)} quantities are compared",
            ),
        ),
    )


def column_name(seen: DatasetMeasures, name: str) -> str:
    """``observation 3`` as the log called it, where that is known."""
    names = seen.columns.get("observation")
    word, _, index = name.rpartition(" ")
    if word == "observation" and isinstance(names, list) and index.isdigit() and int(index) < len(names):
        return str(names[int(index)].get("name", name))
    return name


def _lengths(seen: DatasetMeasures) -> Iterator[Finding]:
    share = seen.imbalance.longest_tenth_steps
    if share >= 0.5:
        yield Finding(
            "Length imbalance",
            "warning",
            f"The longest tenth of the episodes holds {percent(share)} of the steps: batches, and whatever is learned, "
            "are mostly theirs.",
            (Evidence("steps in the longest tenth", percent(share), "50 %", OURS),),
        )


def _reading(seen: DatasetMeasures) -> Iterator[Finding]:
    for note in seen.episodes.notes:
        yield Finding("How it was read", "warning", f"{note[0].upper()}{note[1:].rstrip('.')}.")
    for note in seen.columns.get("notes") or []:
        yield Finding("How it was imported", "warning", f"{note[0].upper()}{note[1:].rstrip('.')}.")


_CHECKS = (
    _size,
    _terminal,
    _time_limits,
    _resets,
    _pieces,
    _copies,
    _shared,
    _rewards,
    _length_pays,
    _saturation,
    _action_range,
    _unused,
    _constant,
    _drift_return,
    _drift_states,
    _lengths,
    _reading,
)
