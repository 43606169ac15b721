"""The options that ``offrl ope`` and ``offrl select`` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightning_offrl.cli.ope_options import INTERVALS as SHOWN
from lightning_offrl.cli.ope_options import DirectOptions, OPEOptions, add_options, check_outputs, read_options
from lightning_offrl.cli.parser import Parser
from lightning_offrl.errors import InputError
from lightning_offrl.ope.weighting.intervals import METHODS


def read(*words: str) -> tuple[OPEOptions, dict[str, Any]]:
    """The options, and what was left of the parsed words."""
    parser = Parser(prog="offrl try")
    add_options(parser)
    parsed = vars(parser.parse_args(["--data", "log.npz", *words]))
    return read_options(parsed), parsed


def test_every_option_reaches_its_class():
    words = "--validation_fraction 0.2 --split_seed 4 --cluster ward --direct lstd,dice --updates 7 --refits 3"
    more = "--estimators wis,dr --discount 0.9 --horizon 5 --reward_range 0 1 --seed 8 --kind stochastic --time hour"
    asked, rest = read(*words.split(), *more.split())
    assert asked.log.data == "log.npz" and asked.log.validation_fraction == 0.2 and asked.log.split_seed == 4
    assert asked.log.cluster == "ward" and asked.time == "hour" and asked.kind == "stochastic"
    assert asked.direct == DirectOptions(("lstd", "dice"), updates=7, refits=3)
    assert asked.direct.given_updates == {"updates": 7} and DirectOptions().given_updates == {}
    settings = asked.settings
    assert (settings.estimators, settings.discount, settings.horizon) == (("wis", "dr"), 0.9, 5)
    assert tuple(settings.reward_range) == (0.0, 1.0) and settings.seed == 8
    assert rest == {"json": None, "report": None}


def test_intervals_shown_are_those_of_the_package():
    assert SHOWN == METHODS


def test_mistakes_are_sentences(tmp_path: Path):
    with pytest.raises(InputError, match="say which of its columns with --cluster COLUMN"):
        read("--labels", "labels.csv")
    with pytest.raises(InputError, match="give --time too"):
        read("--time_unit", "h")
    with pytest.raises(InputError, match="--updates must be at least 1, got 0"):
        DirectOptions(updates=0)
    with pytest.raises(InputError, match="is no file; name another place"):
        check_outputs({"json": str(tmp_path)})
    check_outputs({"json": str(tmp_path / "new" / "out.json"), "report": None})
