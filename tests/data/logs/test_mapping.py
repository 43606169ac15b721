"""Bad maps, each with its sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightning_offrl.data.logs import EXAMPLE, parse_map
from tests.data.logs.bad_log import CATEGORICAL, good, run

MAPS: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt setting": (
        {"rewrd": "r"},
        "the map map.yaml has the setting 'rewrd', which means nothing; did you mean 'reward'?",
    ),
    "a misspelt column setting": (
        {"action": {"column": "dose", "hihg": 5}},
        "action[0] in map.yaml has the setting 'hihg', which means nothing; did you mean 'high'?",
    ),
    "no reward": ({"reward": None}, "the map map.yaml names no reward; it needs observation, action and reward"),
    "no end": (
        {"episode": None, "terminated": None},
        "the map map.yaml does not say where episodes end; give episode",
    ),
    "an unknown fill": (
        {"observation": {"column": "x", "missing": "latest"}},
        "observation[0].missing in map.yaml must be last, mean, indicator, error, a number, or a list of these, got "
        "'latest' (did you mean 'last'?)",
    ),
    "a mean of actions": (
        {"action": {"column": "dose", "missing": "mean"}},
        "action[0].missing in map.yaml may be last or a number; mean and indicator are for observations",
    ),
    "a mean of categories": (
        {"observation": {**CATEGORICAL, "missing": "mean"}},
        "observation[0].missing in map.yaml is mean, but categories have none",
    ),
    "a fill that is no category": (
        {"observation": {**CATEGORICAL, "missing": "icus"}},
        "observation[0].missing in map.yaml has 'icus', which is none of its categories; did you mean 'icu'?",
    ),
    "a category twice": (
        {"action": {"column": "ward", "categories": ["icu", "icu"]}},
        "action[0].categories in map.yaml has 'icu' twice",
    ),
    "actions of two kinds": (
        {"action": ["dose", CATEGORICAL]},
        "the actions in map.yaml are numbers and categories; they must be all of one kind",
    ),
    "bounds the wrong way round": (
        {"action": {"column": "dose", "low": 5, "high": 0}},
        "action[0] in map.yaml has the bounds low 5 and high 0; low must be the smaller one",
    ),
    "an unknown unit": (
        {"observation": {"column": "x", "unit": "degc", "to": "K"}},
        "observation[0] in map.yaml is to be converted with the unit 'degc', which is not known; did you mean 'degC'?",
    ),
    "units that do not match": (
        {"observation": {"column": "x", "unit": "kg", "to": "m"}},
        "observation[0] in map.yaml cannot be converted from kg (mass) to m (length)",
    ),
    "a duration that is none": (
        {"gap": "soon"},
        "gap in map.yaml must be a duration above zero such as 6h, 30min or 90, got 'soon'",
    ),
    "a gap without time": ({"time": None, "gap": "6h"}, "gap in map.yaml needs the time of each row; give time"),
    "sorting without time": (
        {"time": None, "order": "sort"},
        "order in map.yaml needs the time of each row; give time",
    ),
    "an unknown order": ({"order": "sorted"}, "order in map.yaml must be one of checked, sort, got 'sorted'"),
    "an unknown kind of propensity": (
        {"propensity": {"column": "p", "kind": "probability"}},
        "propensity.kind in map.yaml must be one of density, log_density, got 'probability'",
    ),
    "references the wrong way round": (
        {"references": [100, 0]},
        "references in map.yaml must be two returns, low < high, got 100 and 0",
    ),
    "a length that is none": (
        {"max_length": 0},
        "max_length in map.yaml must be a whole number of steps from 1 on, got 0",
    ),
    "labels that are scaled": (
        {"groups": [{"column": "ward", "scale": 2}]},
        "groups[0] in map.yaml has the setting 'scale', which means nothing; known are ['categories', 'column']",
    ),
    "a header that is a number": (
        {"observation": [3]},
        "observation[0] in map.yaml must be the name of a column, or settings with a column, got 3; a header that is a",
    ),
    "an environment of another kind": (
        {"environment": "CartPole-v1"},
        "environment in map.yaml is CartPole-v1, whose observations are [4], but the map makes [3] of the log",
    ),
    "a malformed id": ({"dataset_id": "bad"}, "'bad' is not a dataset id: it has the form namespace/name-v0"),
    "an unknown environment": ({"environment": "Nothing-v0"}, "Nothing-v0"),
}


@pytest.mark.parametrize("name", MAPS)
def test_bad_maps(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, want = MAPS[name]
    assert want in run(good(), settings, place, capsys)


def test_the_example_is_a_map() -> None:
    import yaml

    settings = parse_map(yaml.safe_load(EXAMPLE))
    assert settings.episode == ("patient", "stay") and settings.gap == 12 * 3600 and not settings.discrete
    assert settings.observation[1].fill == ("last", "mean") and settings.observation[2].indicator
