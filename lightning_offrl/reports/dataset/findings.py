"""Every check of a dataset, judged: one sentence each, with the number, the limit and where the limit comes from.

The checks of episodes (their number, ends, copies, lengths) are in this module, those of what is inside them (rewards,
actions, observations, drift) in `value_findings`.
"""

from __future__ import annotations

from collections.abc import Iterator

from lightning_offrl.reports.dataset.evidence import OURS, Evidence, Finding
from lightning_offrl.reports.dataset.measure import DatasetMeasures
from lightning_offrl.reports.dataset.value_findings import VALUE_CHECKS
from lightning_offrl.reports.formatting import counted, percent, short_number

COPIED = 0.05
"""Share of duplicated episodes from which they are a problem."""
FEW = 30
"""Distinct episodes below which nothing can be shown from the data alone."""


def check(measures: DatasetMeasures) -> list[Finding]:
    """The results of all checks, problems first."""
    found = [finding for one in (*_EPISODE_CHECKS, *VALUE_CHECKS, _lengths, _reading) for finding in one(measures)]
    return sorted(found, key=lambda one: ("problem", "warning", "fine").index(one.level))


def repeats(measures: DatasetMeasures) -> bool:
    """Whether states repeat exactly by themselves, so that equal episodes are chance and not copies."""
    return measures.states.tabular or measures.states.distinct * 2 <= len(measures.episodes) - measures.copied_steps


def distinct_episodes(measures: DatasetMeasures) -> int:
    """Episodes that are evidence: all, less the exact copies of others where states do not repeat by themselves."""
    return measures.episodes.n_episodes - (0 if repeats(measures) else measures.copies.duplicated)


def _size(measures: DatasetMeasures) -> Iterator[Finding]:
    count = distinct_episodes(measures)
    source = "this package's limit for importance-weighted estimates (effective sample size)"
    evidence = (Evidence("different episodes", f"{count:,}", f"at least {FEW}", source),)
    if count < FEW:
        yield Finding(
            "Amount",
            "problem",
            f"There are only {counted(count, 'different episode')}: the mean return is known to "
            f"±{short_number(measures.returns.error)}, and no estimate of another policy's return can be trusted.",
            evidence,
        )
    else:
        yield Finding(
            "Amount",
            "fine",
            f"{counted(count, 'different episode')} with {len(measures.episodes):,} steps.",
            evidence,
        )


def _terminal(measures: DatasetMeasures) -> Iterator[Finding]:
    ends, lengths = measures.endings, measures.lengths
    if ends.terminal == 0 and not ends.one_length:
        yield Finding(
            "Terminal states",
            "problem",
            f"No episode is marked as ended by the environment, yet their lengths go from {lengths.smallest:.0f} to "
            f"{lengths.largest:.0f} steps. If any of these were real ends (a fall, a success, a death), every value "
            "learned behind them is wrong: mark them as terminated.",
            (
                Evidence(
                    "terminal episodes",
                    f"0 of {measures.returns.count:,}",
                    "lengths that vary have a reason",
                    OURS,
                ),
            ),
        )
    elif ends.terminal == 0:
        yield Finding(
            "Terminal states",
            "fine",
            f"No episode ends in a terminal state; all are cut after {ends.longest} steps, as in a task without end.",
            (Evidence("cut at the longest length", f"{ends.cut_at_longest:,} of {measures.returns.count:,}"),),
        )
    else:
        yield Finding(
            "Terminal states",
            "fine",
            f"{counted(ends.terminal, 'episode')} of {measures.returns.count:,} end in a terminal state, "
            f"{ends.cut:,} are cut.",
            (Evidence("terminal", percent(ends.terminal / measures.returns.count)),),
        )


def _time_limits(measures: DatasetMeasures) -> Iterator[Finding]:
    ends, total = measures.endings, measures.returns.count
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


def _resets(measures: DatasetMeasures) -> Iterator[Finding]:
    ends = measures.endings
    if ends.terminal and ends.into_start / ends.terminal >= 0.1 and ends.into_start >= 2:
        yield Finding(
            "Last observations",
            "problem",
            f"In {counted(ends.into_start, 'terminal episode')} the last next observation is exactly the first "
            "observation of the following episode: the environment was reset before it was logged. Dynamics and "
            "rewards learned from these steps are wrong; log the observation before the reset.",
            (Evidence("into the next start", f"{ends.into_start:,} of {ends.terminal:,}", "below 10 %", OURS),),
        )


def _pieces(measures: DatasetMeasures) -> Iterator[Finding]:
    ends = measures.endings
    if ends.cut > 1 and ends.continued / ends.cut >= 0.1 and ends.continued >= 2:
        yield Finding(
            "Pieces",
            "warning",
            f"{counted(ends.continued, 'cut episode')} go on in the next episode without a gap: they are pieces of "
            "longer ones. A validation split by episode then puts neighbors on both sides; join them, or split by "
            "the longer unit.",
            (Evidence("continued", f"{ends.continued:,} of {ends.cut:,} cut episodes", "below 10 %", OURS),),
        )


def _copies(measures: DatasetMeasures) -> Iterator[Finding]:
    copies, total = measures.copies, measures.returns.count
    share = copies.duplicated / total
    if copies.duplicated == 0:
        yield Finding("Duplicates", "fine", f"No episode is an exact copy of another, among {total:,}.")
        return
    first, second = copies.example or (0, 0)
    natural = repeats(measures)
    reason = (
        " In a small set of states that happens by itself, but a validation split still sees them twice."
        if natural
        else " They count as evidence that is not there."
    )
    yield Finding(
        "Duplicates",
        "warning" if natural or share < COPIED else "problem",
        f"{counted(copies.duplicated, 'exact copy', 'exact copies')} of other episodes ({percent(share)}), for "
        f"example episodes {first} and {second}; of the episodes in a validation tenth, "
        f"{percent(copies.leak)} would also be in the training part.{reason}",
        (Evidence("duplicated episodes", percent(share), f"below {percent(COPIED)}", OURS),),
    )


def _shared(measures: DatasetMeasures) -> Iterator[Finding]:
    copies = measures.copies
    if repeats(measures) or copies.shared_steps == 0:
        return
    yield Finding(
        "Leaking episodes",
        "problem" if copies.shared_steps >= COPIED else "warning",
        f"{percent(copies.shared_steps)} of the steps also stand, to the last digit, in an episode with other content, "
        f"and {counted(copies.partly_shared, 'episode')} share at least half of their steps: parts were copied or "
        "logged twice. A split by episode leaks them into validation.",
        (Evidence("shared steps", percent(copies.shared_steps), "0 in continuous data", "equal floats by chance"),),
    )


def _lengths(measures: DatasetMeasures) -> Iterator[Finding]:
    share = measures.imbalance.longest_tenth_steps
    if share >= 0.5:
        yield Finding(
            "Length imbalance",
            "warning",
            f"The longest tenth of the episodes holds {percent(share)} of the steps: batches, and whatever is learned, "
            "are mostly theirs.",
            (Evidence("steps in the longest tenth", percent(share), "50 %", OURS),),
        )


def _reading(measures: DatasetMeasures) -> Iterator[Finding]:
    for note in measures.episodes.notes:
        yield Finding("How it was read", "warning", f"{note[0].upper()}{note[1:].rstrip('.')}.")
    for note in measures.columns.get("notes") or []:
        yield Finding("How it was imported", "warning", f"{note[0].upper()}{note[1:].rstrip('.')}.")


_EPISODE_CHECKS = (_size, _terminal, _time_limits, _resets, _pieces, _copies, _shared)
