"""Columns of a map: read with their conversion, and numbered as actions."""

from __future__ import annotations

import pytest

from lightning_offrl.data.logs.settings import Column, action_count, action_labels, category_text, read_column
from lightning_offrl.errors import InputError


def test_a_column_by_name_or_by_settings() -> None:
    assert read_column("x", "reward", "map") == Column("x", "reward")
    assert read_column("site", "groups[0]", "map").categories == ()  # texts or numbers: seen in the log
    heat = read_column({"column": "t", "unit": "degF", "to": "degC", "missing": ["last", 37]}, "observation[0]", "map")
    assert heat.unit == "degC" and heat.fill == ("last", 37.0)
    assert heat.scale * 212.0 + heat.shift == pytest.approx(100.0)
    marked = read_column({"column": "t", "missing": "indicator"}, "observation[0]", "map")
    assert marked.indicator and marked.fill == ("mean",)  # something has to stand there


def test_categories_are_compared_as_texts() -> None:
    assert [category_text(value) for value in (1, 1.0, "1", True, 0.5)] == ["1", "1", "1", "true", "0.5"]
    with pytest.raises(InputError, match="has '1' twice"):
        read_column({"column": "x", "categories": [1, 1.0]}, "observation[0]", "map")


def test_every_combination_of_categories_is_an_action() -> None:
    columns = [Column("a", "action[0]", categories=("low", "high")), Column("b", "action[1]", categories=("on", "off"))]
    assert action_count(columns, "map") == 4
    assert action_labels(columns) == ["low, on", "low, off", "high, on", "high, off"]
    with pytest.raises(InputError, match="10,201 combinations"):
        many = tuple(map(str, range(101)))
        action_count([Column("a", "action[0]", categories=many), Column("b", "action[1]", categories=many)], "map")
