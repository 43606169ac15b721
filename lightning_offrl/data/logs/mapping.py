"""The map: which column of a log is what. Read from YAML and checked before any log is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_offrl.data.logs.mask_setting import LegalActions, read_mask
from lightning_offrl.data.logs.settings import Column, category_text, choice, number, only, read_column, text
from lightning_offrl.data.logs.units import conversion, seconds
from lightning_offrl.errors import InputError

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""What counts as missing in a text column of a CSV, besides what the map adds."""


@dataclass(frozen=True)
class Flag:
    """A column that says whether something holds: true or 1, or one of ``values``."""

    name: str
    role: str
    values: tuple[str, ...] | None = None


@dataclass(frozen=True)
class LogMap:
    """The whole map; `EXAMPLE` shows every setting."""

    path: str
    observation: tuple[Column, ...]
    action: tuple[Column, ...]
    reward: Column
    episode: tuple[str, ...] = ()
    groups: tuple[Column, ...] = ()
    time: str | None = None
    time_unit: float = 1.0
    time_in_seconds: bool = False
    time_format: str | None = None
    ties: str = "error"
    order: str = "checked"
    gap: float | None = None
    at_gap: str = "split"
    max_length: int | None = None
    outcome_row: str = "same"
    terminated: Flag | None = None
    truncated: Flag | None = None
    last_row: str = "cut"
    propensity: str | None = None
    propensity_kind: str = "probability"
    action_mask: LegalActions | None = None
    missing_values: tuple[str, ...] = ()
    delimiter: str = ","
    dataset_id: str | None = None
    description: str | None = None
    environment: str | None = None
    references: tuple[float, float] | None = None

    @property
    def discrete(self) -> bool:
        """Whether actions are categories."""
        return self.action[0].categories is not None

    @property
    def columns(self) -> tuple[str, ...]:
        """Headers of all columns that are read, each once."""
        one = [*self.observation, *self.action, self.reward, *self.groups]
        names = [*(column.name for column in one), *self.episode]
        names += [flag.name for flag in (self.terminated, self.truncated) if flag is not None]
        names += [name for name in (self.time, self.propensity) if name is not None]
        names += () if self.action_mask is None else self.action_mask.names
        return tuple(dict.fromkeys(names))


EXAMPLE = """\
# offrl data import visits.parquet --map map.yaml
dataset_id: clinic/doses-v0        # namespace/name-v0; or --dataset_id
description: Doses at the clinic, 2019 to 2023.
episode: [patient, stay]           # rows with the same values are one episode
time: {column: charttime, ties: error}   # a timestamp, ISO text (or format: "%d.%m.%Y %H:%M"), or a number (unit: min)
order: checked                     # checked: rows must be in order; sort: bring them in order
gap: {longer_than: 12h, then: split}     # split: the episode is cut there; error; keep
max_length: 500                    # longer episodes are cut in pieces
observation:
  - age                            # a number; a missing one is an error
  - {column: temperature, unit: degF, to: degC, missing: [last, mean]}
  - {column: lactate, unit: mmol/l, missing: [last, 1.5, indicator]}
  - {column: ward, categories: [icu, er, home]}        # one number for each, 0 or 1
action:
  - {column: dose, low: 0, high: 10, unit: mg, clip: true}
# or a choice:  action: {column: arm, categories: [none, half, full]}
# which actions of a choice were legal, a column of 1/0 or true/false for each action, or one that lists them:
# action_mask: [may_none, may_half, may_full]        # in the order of the categories
# action_mask: {columns: {full: may_full, half: may_half, none: may_none}}    # by name
# action_mask: {column: allowed, separator: ";", missing: error}   # none;half, or lists in Parquet; missing: all
reward: {column: score, missing: 0, scale: 0.1}
outcome_row: same                  # same: reward and ends stand in the row of the action; next: in the row after
terminated: {column: status, values: [died, recovered]}     # or a column of true/false, 1/0
truncated: transferred
last_row: cut                      # an episode without an end: cut, terminated, drop, error
propensity: {column: p, kind: density}   # probability or density of the action that was taken; or log_...
missing_values: ["-999", "?"]      # besides empty, NA, NaN, null, None
references: [0, 100]               # returns that score 0 and 100
groups: [site, sex]                # kept aside, for offrl ope --by site; times are kept too, for --time charttime
"""


_INSIDE = {"path", "time_unit", "time_in_seconds", "time_format", "ties", "at_gap", "propensity_kind"}
"""Fields that stand within other settings of the map."""


def read_map(path: str | Path) -> LogMap:
    """Read and check a map.

    Raises:
        InputError: naming the file and the setting.
    """
    import yaml

    file = str(path)
    try:
        found = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as problem:
        raise InputError(f"the map {file} cannot be read ({problem.strerror or problem})") from problem
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        mark = getattr(problem, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark is not None else ""
        raise InputError(f"the map {file} is not YAML{place}; offrl data import --example prints one") from problem
    return parse_map(found, file)


def parse_map(found: Any, file: str = "map") -> LogMap:
    """The map from plain dictionaries and lists; see `EXAMPLE`.

    Raises:
        InputError: naming the file and the setting.
    """
    if not isinstance(found, Mapping):
        raise InputError(f"the map {file} must be settings with names, got {type(found).__name__}")
    known = set(LogMap.__dataclass_fields__) - _INSIDE
    only(found, known, f"the map {file}")
    for name in ("observation", "action", "reward"):
        if found.get(name) in (None, [], {}):
            raise InputError(f"the map {file} names no {name}; it needs observation, action and reward")
    settings: dict[str, Any] = {"path": file}
    observation = found["observation"] if isinstance(found["observation"], list) else [found["observation"]]
    action = found["action"] if isinstance(found["action"], list) else [found["action"]]
    settings["observation"] = tuple(read_column(one, f"observation[{i}]", file) for i, one in enumerate(observation))
    settings["action"] = tuple(read_column(one, f"action[{i}]", file) for i, one in enumerate(action))
    settings["reward"] = read_column(found["reward"], "reward", file)
    _actions(settings["action"], settings["reward"], file)
    episode = found.get("episode")
    if episode is not None:
        settings["episode"] = tuple(
            text(e, "episode", file) for e in (episode if isinstance(episode, list) else [episode])
        )
    groups = [] if found.get("groups") is None else found["groups"]
    groups = groups if isinstance(groups, list) else [groups]
    settings["groups"] = tuple(read_column(one, f"groups[{i}]", file) for i, one in enumerate(groups))
    settings |= _time(found.get("time"), file) | _gap(found.get("gap"), file)
    choices = {
        "order": ("checked", "sort"),
        "outcome_row": ("same", "next"),
        "last_row": ("cut", "terminated", "drop", "error"),
    }
    for name, allowed in choices.items():
        if name in found:
            settings[name] = choice(found[name], allowed, name, file)
    for name in ("terminated", "truncated"):
        if found.get(name) is not None:
            settings[name] = _flag(found[name], name, file)
    settings["action_mask"] = read_mask(found.get("action_mask"), settings["action"], file)
    settings |= _propensity(found.get("propensity"), settings["action"], file)
    for name in ("dataset_id", "description", "environment"):
        if found.get(name) is not None:
            settings[name] = text(found[name], name, file)
    if found.get("missing_values") is not None:
        values = found["missing_values"]
        settings["missing_values"] = tuple(str(v) for v in (values if isinstance(values, list) else [values]))
    if "delimiter" in found:
        settings["delimiter"] = text(found["delimiter"], "delimiter", file)
        if len(settings["delimiter"]) != 1:
            raise InputError(f"delimiter in {file} must be a single character, got {settings['delimiter']!r}")
    if found.get("max_length") is not None:
        value = found["max_length"]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"max_length in {file} must be a whole number of steps from 1 on, got {value!r}")
        settings["max_length"] = value
    if found.get("references") is not None:
        settings["references"] = _references(found["references"], file)
    out = LogMap(**settings)
    _together(out, file)
    return out


def _actions(action: tuple[Column, ...], reward: Column, file: str) -> None:
    kinds = {column.categories is not None for column in action}
    if len(kinds) > 1:
        raise InputError(f"the actions in {file} are numbers and categories; they must be all of one kind")
    if reward.categories is not None:
        raise InputError(f"reward in {file} has categories, but must be a number")


def _time(value: Any, file: str) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, str):
        return {"time": value}
    if not isinstance(value, Mapping):
        raise InputError(f"time in {file} must be the name of a column, or settings with a column, got {value!r}")
    only(value, {"column", "unit", "format", "ties"}, f"time in {file}")
    out: dict[str, Any] = {"time": text(value.get("column"), "time.column", file)}
    if value.get("unit") is not None:
        out["time_unit"] = conversion(text(value["unit"], "time.unit", file), "s", f"time in {file}")[0]
        out["time_in_seconds"] = True
    if value.get("format") is not None:
        out["time_format"] = text(value["format"], "time.format", file)
    if "ties" in value:
        out["ties"] = choice(value["ties"], ("error", "keep"), "time.ties", file)
    return out


def _gap(value: Any, file: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        return {"gap": seconds(value, f"gap in {file}")}
    only(value, {"longer_than", "then"}, f"gap in {file}")
    out: dict[str, Any] = {"gap": seconds(value.get("longer_than", ""), f"gap.longer_than in {file}")}
    if "then" in value:
        out["at_gap"] = choice(value["then"], ("split", "error", "keep"), "gap.then", file)
    return out


def _flag(value: Any, name: str, file: str) -> Flag:
    if isinstance(value, str):
        return Flag(value, name)
    if not isinstance(value, Mapping):
        raise InputError(f"{name} in {file} must be the name of a column, or settings with a column, got {value!r}")
    only(value, {"column", "values"}, f"{name} in {file}")
    values = value.get("values")
    if values is not None and (not isinstance(values, list) or not values):
        raise InputError(f"{name}.values in {file} must be a list of values that mean yes, got {values!r}")
    names = None if values is None else tuple(category_text(v) for v in values)
    return Flag(text(value.get("column"), f"{name}.column", file), name, names)


def _propensity(value: Any, action: tuple[Column, ...], file: str) -> dict[str, Any]:
    if value is None:
        return {}
    default = "probability" if action[0].categories is not None else "density"
    if isinstance(value, str):
        return {"propensity": value, "propensity_kind": default}
    if not isinstance(value, Mapping):
        raise InputError(f"propensity in {file} must be the name of a column, or settings with a column, got {value!r}")
    only(value, {"column", "kind"}, f"propensity in {file}")
    allowed = (default, f"log_{default}")
    kind = choice(value.get("kind", default), allowed, "propensity.kind", file)
    return {"propensity": text(value.get("column"), "propensity.column", file), "propensity_kind": kind}


def _references(value: Any, file: str) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise InputError(f"references in {file} must be two returns, those of score 0 and 100, got {value!r}")
    low, high = (number(v, "references", file) for v in value)
    if not low < high:
        raise InputError(f"references in {file} must be two returns, low < high, got {low:g} and {high:g}")
    return low, high


def _together(out: LogMap, file: str) -> None:
    """Settings that need each other."""
    if not out.episode and out.terminated is None and out.truncated is None and out.gap is None and not out.max_length:
        raise InputError(
            f"the map {file} does not say where episodes end; give episode (columns that name one), or terminated, "
            "truncated, gap or max_length"
        )
    for name, needed in (("gap", out.gap is not None), ("order", out.order == "sort")):
        if needed and out.time is None:
            raise InputError(f"{name} in {file} needs the time of each row; give time")
    if out.order == "sort" and not out.episode:
        raise InputError(f"order in {file} is sort, which needs episode (columns that name one)")
