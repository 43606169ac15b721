"""All measures of a dataset in one, and what the log called its columns."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_offrl.errors import InputError
from lightning_offrl.reports.dataset.measure import measure
from tests.reports.dataset.worlds import broken, made


def test_bad_python_arguments() -> None:
    with pytest.raises(InputError, match="a data source is a Minari id"):
        measure(3)
    with pytest.raises(InputError, match=r"discount of a report must lie in \[0, 1\), got 1.0"):
        measure(made(4), discount=1.0)


def test_copied_steps_are_those_of_the_later_copies() -> None:
    arrays = broken()
    measures = measure(arrays)
    assert measures.copied_steps == int(measures.episodes.length[40:].sum()) > 0
    assert measure(made(8)).copied_steps == 0


def test_columns_are_called_what_the_log_called_them() -> None:
    measures = measure(made(8))
    assert measures.observation_name("observation 1") == "observation 1" and measures.action_name(0) == "dimension 0"
    assert measures.observation_unit(1) == measures.action_unit(0) == "" and measures.action_label(3) == "action 3"
    columns: dict[str, Any] = {
        "observation": [{"name": "age"}, {"name": "lactate", "unit": "mmol/l"}],
        "action": [{"name": "dose", "unit": "mg"}],
        "action_labels": ["none", "full"],
    }
    measures.columns.update(columns)
    assert measures.observation_name("observation 1") == "lactate" and measures.observation_unit(1) == "mmol/l"
    assert measures.observation_name("observation 2") == "observation 2" and measures.observation_unit(0) == ""
    assert measures.observation_name("length") == "length"
    assert (measures.action_name(0), measures.action_unit(0), measures.action_label(1)) == ("dose", "mg", "full")
