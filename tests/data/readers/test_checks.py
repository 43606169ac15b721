"""Checks of arrays: what passes, in which form, and the sentence for what does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lightning_offrl.data.readers.checks import (
    array_leaves,
    as_arrays,
    check_finite,
    column,
    count,
    ends_of,
    flags,
    numbers,
    place,
    take,
    usable_log_prob,
)
from lightning_offrl.errors import InputError

ENDS = np.array([False, True, False, False, True])


def test_what_passes() -> None:
    assert column([[1], [2]], "rewards", "x").tolist() == [1.0, 2.0]
    assert flags([0, 1.0], "terminated", 2, "x").tolist() == [False, True]
    nested = as_arrays({"b": [1.0], "a": {"c": [2]}})
    assert [label for label, _ in array_leaves(nested, "o")] == ["o.a.c", "o.b"]
    assert take({"a": np.arange(3), "b": None}, np.array([2]))["a"].tolist() == [2]
    assert ends_of(np.array([2, 3]), np.zeros(5, bool), "x").tolist() == ENDS.tolist()
    check_finite(np.arange(5), "actions", ENDS, "x")


def test_a_row_is_named_by_episode_and_step() -> None:
    assert place(0, ENDS) == "episode 0, step 0 (row 0)"
    assert place(4, ENDS) == "episode 1, step 2 (row 4)"
    assert (count(1, "episode"), count(1200, "episode")) == ("1 episode", "1,200 episodes")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: numbers([[1], [1, 2]], "rewards"), "rewards must be a rectangular array of numbers"),
        (lambda: column(np.zeros((2, 2)), "rewards", "x"), "expected one number per transition"),
        (lambda: flags([0, 2], "terminated", 2, "x"), "must be true or false .* row 1 holds 2"),
        (lambda: flags([0], "terminated", 2, "x"), "has 1 rows but rewards has 2"),
        (lambda: ends_of(np.array([2, 2]), ENDS, "x"), "add up to 4, but there are 5"),
        (lambda: ends_of(np.array([5]), ENDS, "x"), "before the last step of the episode"),
        (lambda: check_finite(np.array([0, 0, 0, np.inf, 0]), "r", ENDS, "x"), "holds inf at episode 1, step 1"),
    ],
)
def test_what_is_refused(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        call()


def test_log_densities_that_are_not_finite_are_left_out_with_a_note() -> None:
    notes: list[str] = []
    assert usable_log_prob([0.0, np.nan], "log_prob", notes) is None and "1 values that are not finite" in notes[0]
    assert usable_log_prob([0.0, -1.0], "log_prob", notes).tolist() == [0.0, -1.0] and len(notes) == 1
