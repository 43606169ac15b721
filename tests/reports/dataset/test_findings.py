"""The checks of episodes, on data with the defects that they look for."""

from __future__ import annotations

import numpy as np

from lightning_offrl.reports.dataset.advice import command
from lightning_offrl.reports.dataset.findings import check, distinct_episodes, repeats
from lightning_offrl.reports.dataset.measure import measure
from lightning_offrl.reports.dataset.write import summary
from tests.reports.dataset.worlds import broken, judged, level, made, stitch


def test_a_defective_dataset_is_refused_with_every_defect_named() -> None:
    measures, assessment = judged(broken())
    assert assessment.verdict.kind == "refuse"
    assert assessment.verdict.headline == "This data cannot support an improvement claim"
    for topic in ("Terminal states", "Duplicates", "Rewards"):
        assert level(assessment, topic) == "problem", topic
    assert level(assessment, "Action saturation") == "warning" and level(assessment, "Constant actions") == "problem"
    assert measures.copies.duplicated == 20 and "20 exact copies of other episodes" in summary(measures)
    assert "--data.sampling.weight unique" in command(measures, assessment)


def test_time_limits_stored_as_terminals_and_resets_logged_as_ends() -> None:
    rng = np.random.default_rng(0)
    short = rng.integers(10, 39, 50)
    limited = made(50, lengths=(40, 41))
    keep, end = [], np.flatnonzero(limited["terminated"])
    for i, last in enumerate(end):
        steps = 40 if i % 2 else int(short[i])
        keep += range(last - 39, last - 39 + steps)
    arrays = {key: value[keep] for key, value in limited.items()}
    arrays["terminated"] = np.append(np.diff(np.searchsorted(end, keep)) > 0, True)
    _, assessment = judged(arrays)
    assert level(assessment, "Time limits") == "problem"
    reset = made(50)
    ends = np.flatnonzero(reset["terminated"])[:-1]
    reset["next_observations"][ends] = reset["observations"][ends + 1]
    _, assessment = judged(reset)
    assert level(assessment, "Last observations") == "problem"
    pieces = made(50, terminal=False)
    pieces["next_observations"][ends] = pieces["observations"][ends + 1]
    _, assessment = judged(pieces)
    assert level(assessment, "Pieces") == "warning"


def test_partly_copied_episodes_leak() -> None:
    arrays = made(60, lengths=(30, 31))
    for key in ("observations", "next_observations", "actions", "rewards"):
        arrays[key][300:600] = arrays[key][:300]
    arrays["rewards"][300:600:30] += 0.25  # so that no episode is a copy as a whole
    _, assessment = judged(arrays)
    assert level(assessment, "Leaking episodes") == "problem"


def test_copies_are_no_evidence_unless_states_repeat_by_themselves() -> None:
    measures = measure(broken())
    assert not repeats(measures) and distinct_episodes(measures) == 40
    world = measure(stitch(10))
    assert repeats(world) and distinct_episodes(world) == 20


def test_problems_come_first() -> None:
    levels = [one.level for one in check(measure(broken()))]
    assert levels == sorted(levels, key=["problem", "warning", "fine"].index) and set(levels) >= {"problem", "fine"}


def test_what_was_noted_while_reading_is_a_warning() -> None:
    measures = measure(made(40))
    measures.columns["notes"] = ["one row was left out"]
    assert ("How it was imported", "One row was left out.") in [(f.topic, f.sentence) for f in check(measures)]
