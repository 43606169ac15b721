"""The setting ``action_mask`` of a map."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from lightning_offrl.data.logs import EXAMPLE, parse_map
from lightning_offrl.data.logs.mask_setting import LegalActions, places, read_mask
from lightning_offrl.data.logs.settings import Column
from lightning_offrl.errors import InputError


def test_the_example_shows_every_way() -> None:
    lines = EXAMPLE.splitlines()
    settings = yaml.safe_load(EXAMPLE)
    del settings["propensity"]
    (choice,) = (line for line in lines if line.startswith("# or a choice:"))
    settings |= yaml.safe_load(choice.removeprefix("# or a choice:"))
    flags, named, listed = (
        parse_map({**settings, **yaml.safe_load(line.removeprefix("# "))}).action_mask
        for line in lines
        if line.startswith("# action_mask:")
    )
    assert flags == LegalActions(columns=("may_none", "may_half", "may_full"))
    assert named == LegalActions(columns=("may_full", "may_half", "may_none"), actions=("full", "half", "none"))
    assert listed == LegalActions(column="allowed", separator=";")


ACTION = (Column("arm", "action[0]", categories=("none", "half", "full")),)


def test_columns_by_position_and_by_name() -> None:
    by_place = read_mask(["a", "b", "c"], ACTION, "map")
    by_name = read_mask({"columns": {"full": "c", "none": "a", "half": "b"}}, ACTION, "map")
    assert by_place.names == ("a", "b", "c") and places(by_place, ACTION, "map") == [0, 1, 2]
    assert by_name.names == ("c", "a", "b") and places(by_name, ACTION, "map") == [2, 0, 1]
    assert read_mask(None, ACTION, "map") is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (["a", "b"], "lists 2 columns, but there are 3 actions"),
        (["a", "b", "b"], "has the column 'b' twice"),
        ({"columns": {"full": "a", "hal": "b", "none": "c"}}, "names the action 'hal', .*did you mean 'half'"),
        ({"columns": {"full": "a", "half": "b"}}, "names no column for the action 'none'"),
        ({"column": "x", "columns": ["a"]}, "either columns or column"),
    ],
)
def test_what_does_not_fit_the_actions(value: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_mask(value, ACTION, "map")


def test_a_number_has_no_mask() -> None:
    with pytest.raises(InputError, match="is for actions that are a choice, but dose is a number"):
        read_mask("x", (Column("dose", "action[0]"),), "map")
