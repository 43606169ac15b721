"""Masks of legal actions from tables: the same tensors as from arrays, in every spelling, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.logs import assemble, files, order
from lightning_offrl.data.logs.import_logs import import_logs
from lightning_offrl.data.readers import load
from lightning_offrl.errors import InputError
from tests.data.logs.bad_log import run
from tests.data.logs.log_files import imported, parquet, table

ARMS = ["none", "half", "full"]
LENGTHS = (4, 3, 5)  # terminal, cut, terminal
T, E = sum(LENGTHS), len(LENGTHS)
LAST = np.cumsum(LENGTHS) - 1
EPISODE = np.repeat(np.arange(E), LENGTHS)
RNG = np.random.default_rng(7)
OBSERVATION = RNG.normal(size=(T, 2)).astype(np.float32)
ACTION = RNG.integers(3, size=T)
MASK = RNG.random((T, 3)) < 0.4
MASK[np.arange(T), ACTION] = True
REWARD = RNG.normal(size=T)
TERMINAL, CUT = np.isin(np.arange(T), LAST[[0, 2]]), np.arange(T) == LAST[1]

ARRAYS: dict[str, Any] = {
    "observations": OBSERVATION,
    "actions": ACTION,
    "rewards": REWARD,
    "terminals": TERMINAL,
    "timeouts": CUT,
    "action_mask": MASK,
    "action_space": spaces.Discrete(3),
}
"""Without next observations and next masks: the last step of the cut episode goes, as what came after is not known."""

HEADER = "e o0 o1 arm r died cut may_none may_half may_full allowed printed"
MAP: dict[str, Any] = {
    "episode": "e",
    "observation": ["o0", "o1"],
    "action": {"column": "arm", "categories": ARMS},
    "reward": "r",
    "terminated": "died",
    "truncated": "cut",
}
LISTED = {"column": "allowed"}
SPELLINGS: dict[str, Any] = {
    "flags in order": ["may_none", "may_half", "may_full"],
    "flags by name": {"columns": {"full": "may_full", "none": "may_none", "half": "may_half"}},
    "a list": LISTED,
    "a list, briefly": "allowed",
    "a list that was printed": {"column": "printed", "separator": ","},
}


def cells(mask: np.ndarray) -> list[Any]:
    """One mask in every spelling."""
    names = [arm for arm, fine in zip(ARMS, mask, strict=True) if fine]
    return [*map(int, mask), " ; ".join(names), repr(names)]


def rows() -> list[list[Any]]:
    """Rows of decisions alone."""
    return [
        [EPISODE[t], *map(float, OBSERVATION[t]), ARMS[ACTION[t]], REWARD[t], int(TERMINAL[t]), int(CUT[t])]
        + cells(MASK[t])
        for t in range(T)
    ]


def written(path: Path, log: list[list[Any]]) -> Path:
    return table(path / "log.csv", HEADER, log)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_tables_give_what_arrays_give(tmp_path: Path, kind: str, spelling: str) -> None:
    path = written(tmp_path, rows())
    path = parquet(path) if kind == "parquet" else path
    episodes, want = imported(path, {**MAP, "action_mask": SPELLINGS[spelling]}), load(ARRAYS)
    assert episodes.fingerprint == want.fingerprint and (episodes.data == want.data).all()
    assert episodes.length.tolist() == [4, 2, 5]
    kept = np.arange(T) != LAST[1]
    assert episodes.data["action_mask"].numpy().tolist() == MASK[kept].tolist()
    onward = ~TERMINAL[kept]
    assert episodes.data["next", "action_mask"].numpy()[onward].tolist() == MASK[1:][kept[:-1]][onward[:-1]].tolist()


def test_masks_of_every_observation_with_outcomes_one_row_later(tmp_path: Path) -> None:
    """As arrays with next observations and next masks: nothing is legal after an end, and the cut step stays."""
    following = np.roll(OBSERVATION, -1, 0)
    following[LAST] = RNG.normal(size=(E, 2)).astype(np.float32)
    after = np.roll(MASK, -1, 0)
    after[LAST] = [[False] * 3, [False, True, True], [False] * 3]
    log = []
    for i, last in enumerate(LAST):
        first = last - LENGTHS[i] + 1
        for t in range(first, last + 2):
            now, mask = (OBSERVATION[t], MASK[t]) if t <= last else (following[last], after[last])
            arm, reward = ARMS[ACTION[t]] if t <= last else "", REWARD[t - 1] if t > first else ""
            ends = [int(t > last and TERMINAL[last]), int(t > last and CUT[last])]
            log.append([i, *map(float, now), arm, reward, *ends, *cells(mask)])
    arrays = {**ARRAYS, "next_observations": following, "next_action_mask": after}
    for spelling in SPELLINGS.values():
        episodes = imported(written(tmp_path, log), {**MAP, "outcome_row": "next", "action_mask": spelling})
        assert episodes.fingerprint == load(arrays).fingerprint and episodes.length.tolist() == list(LENGTHS)
    # Of the observation after an end nothing has to be known.
    blank = [[*row[:7], *[""] * 5] if row[5] else row for row in log]
    for spelling in SPELLINGS.values():
        again = imported(written(tmp_path, blank), {**MAP, "outcome_row": "next", "action_mask": spelling})
        assert again.fingerprint == load(arrays).fingerprint


def test_lists_of_parquet(tmp_path: Path) -> None:
    """Of texts, of numbers where the actions are, of flags; short, large, of one size, and with equal texts shared."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    plain = pq.read_table(parquet(written(tmp_path, rows())))
    names = [[arm for arm, fine in zip(ARMS, mask, strict=True) if fine] for mask in MASK]
    numbers = [np.flatnonzero(mask).tolist() for mask in MASK]
    shared = pa.ListArray.from_arrays(
        pa.array(np.cumsum([0, *map(len, names)]), pa.int32()), pa.array(sum(names, [])).dictionary_encode()
    )
    numbered = {**MAP, "action": {"column": "number", "categories": [0, 1, 2]}}
    for column, settings in (
        (pa.array(names), MAP),
        (pa.array(names, pa.large_list(pa.string())), MAP),
        (shared, MAP),
        (pa.array(MASK.tolist()), MAP),
        (pa.array(MASK.tolist(), pa.list_(pa.bool_(), 3)), MAP),
        (pa.array(numbers), numbered),
        (pa.array([list(map(float, one)) for one in numbers]), numbered),
    ):
        made = plain.append_column("legal", column).append_column("number", pa.array(ACTION))
        pq.write_table(made, tmp_path / "lists.parquet", row_group_size=5)
        episodes = imported(tmp_path / "lists.parquet", {**settings, "action_mask": "legal"})
        assert episodes.fingerprint == load(ARRAYS).fingerprint, column.type
    with pytest.raises(InputError, match=r"column 'legal': values of the type list<.* cannot be used"):
        import_logs(tmp_path / "lists.parquet", {**numbered, "groups": ["legal"]}, "test/other-v0")
    for bad, said in (
        ([["none"]] * 4 + [["none", None]] + [["none"]] * 7, "row 5, column 'legal': the legal actions hold a missing"),
        (
            [ARMS] * 7 + [["nome"]] + [ARMS] * 4,
            "row 8, column 'legal': the legal actions hold 'nome', which is none of",
        ),
        ([[True] * 3] * 11 + [[True] * 2], "row 12, column 'legal': the mask has 2 flags, but there are 3 actions"),
        ([ARMS] * 4 + [[]] + [ARMS] * 7, "row 5, column 'legal': the mask allows no action, but the episode goes on"),
        ([ARMS] * 4 + [None] + [ARMS] * 7, "row 5, column 'legal': the mask of legal actions is missing; fill it in"),
        ([ARMS] * 6 + [[]] + [ARMS] * 5, "row 7, column 'legal': the mask allows no action, but the episode goes on"),
    ):
        pq.write_table(plain.append_column("legal", pa.array(bad)), tmp_path / "bad.parquet", row_group_size=5)
        with pytest.raises(InputError, match=said):
            import_logs(tmp_path / "bad.parquet", {**MAP, "action_mask": "legal"}, "test/other-v0")


@pytest.mark.parametrize("spelling", ["flags in order", "a list"])
def test_pieces_and_sorting_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    settings = {**MAP, "time": "t", "action_mask": SPELLINGS[spelling]}
    log = [[*row, t] for t, row in enumerate(rows())]
    path = table(tmp_path / "log.csv", HEADER + " t", log)
    # Episodes come out in the order in which they first appear.
    mixed = table(tmp_path / "mixed.csv", HEADER + " t", [log[i] for i in (2, 0, 5, 9, 1, 3, 7, 8, 4, 6, 11, 10)])
    want = imported(path, settings)
    for count in (1, 2, 5):
        monkeypatch.setattr(files, "ROWS", count)
        monkeypatch.setattr(order, "BUCKET", 3 * count)
        assert imported(path, settings).fingerprint == want.fingerprint
        assert imported(mixed, {**settings, "order": "sort"}).fingerprint == want.fingerprint


def test_long_episodes_given_out_early_keep_their_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 rows in pieces of 30: every next mask is that of the following row, also across a border."""
    rng = np.random.default_rng(1)
    mask = rng.random((1000, 3)) < 0.5
    action = rng.integers(3, size=1000)
    mask[np.arange(1000), action] = True
    log = [[t, t, ARMS[action[t]], 1, *map(int, mask[t])] for t in range(1000)]
    path = table(tmp_path / "log.csv", "t o arm r may_none may_half may_full", log)
    settings = {"time": "t", "observation": "o", "action": MAP["action"], "reward": "r", "max_length": 30}
    settings["action_mask"] = SPELLINGS["flags in order"]
    whole = imported(path, settings)
    monkeypatch.setattr(files, "ROWS", 64)
    monkeypatch.setattr(assemble, "MANY", 50)
    early = imported(path, settings)
    assert early.fingerprint == whole.fingerprint and early.length.tolist() == [30] * 33 + [9]
    assert early.data["action_mask"].numpy().tolist() == mask[:999].tolist()
    assert early.data["next", "action_mask"].numpy().tolist() == mask[1:].tolist()


def test_a_last_row_without_a_mask_is_left_out(tmp_path: Path) -> None:
    """The row after the last decision of a cut episode says what was observed, and not what was legal then."""
    log = rows()
    log[LAST[1]][-5:] = [""] * 5
    for spelling in SPELLINGS.values():
        done = import_logs(written(tmp_path, log), {**MAP, "action_mask": spelling}, "test/log-v0", overwrite=True)
        assert "1 last row without a mask left out: what was legal there is not known" in done.notes
        episodes = load("test/log-v0")
        assert episodes.length.tolist() == [4, 1, 5]
        assert episodes.data["next", "action_mask"][4].tolist() == MASK[5].tolist()


def test_rows_without_a_mask_may_mean_that_all_is_legal(tmp_path: Path) -> None:
    log = rows()
    for t in (1, int(LAST[1])):
        log[t][-5:] = [""] * 5
    mask = MASK.copy()
    mask[[1, LAST[1]]] = True
    for name in ("allowed", "printed"):
        spelling = {"column": name, "separator": ";" if name == "allowed" else ",", "missing": "all"}
        episodes = imported(written(tmp_path, log), {**MAP, "action_mask": spelling})
        assert episodes.fingerprint == load({**ARRAYS, "action_mask": mask}).fingerprint
    flags = {"columns": SPELLINGS["flags in order"], "missing": "all"}
    assert imported(written(tmp_path, log), {**MAP, "action_mask": flags}).fingerprint == episodes.fingerprint


def test_combinations_of_columns(tmp_path: Path) -> None:
    """Two columns of actions: the last one changes fastest, and a combination is called by both."""
    log = [["a", 0.0, "lo", "on", 1, 0, "lo, on | hi, off"], ["a", 1.0, "hi", "off", 1, 1, "hi, off"]]
    settings = {
        "episode": "e",
        "observation": "o",
        "action": [
            {"column": "level", "categories": ["lo", "hi"]},
            {"column": "switch", "categories": ["off", "on"]},
        ],
        "reward": "r",
        "terminated": "end",
        "action_mask": {"column": "legal", "separator": "|"},
    }
    episodes = imported(table(tmp_path / "log.csv", "e o level switch r end legal", log), settings)
    assert episodes.data["action_mask"].int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 0]]
    assert episodes.columns["action_labels"] == ["lo, off", "lo, on", "hi, off", "hi, on"]


def test_actions_that_the_map_leaves_open(tmp_path: Path) -> None:
    """The categories are those that were taken; masks name them."""
    settings = {**MAP, "action": {"column": "arm", "categories": "auto"}}
    want = {"full": 0, "half": 1, "none": 2}  # sorted
    for spelling in ("a list", "flags by name"):
        episodes: Episodes = imported(written(tmp_path, rows()), {**settings, "action_mask": SPELLINGS[spelling]})
        kept = np.arange(T) != LAST[1]
        mask = MASK[:, [ARMS.index(arm) for arm in want]][kept]
        assert episodes.data["action_mask"].numpy().tolist() == mask.tolist()
    log = [row if row[3] != "full" else [*row[:3], "none", *row[4:7], 1, *row[8:]] for row in rows()]
    with pytest.raises(InputError, match="names the action 'full', which is none of the actions; .* never taken has"):
        import_logs(written(tmp_path, log), {**settings, "action_mask": SPELLINGS["flags by name"]}, "test/x-v0")


# -- what is refused ---------------------------------------------------------------------------------------------------


def spoilt(row: int, column: str, value: Any) -> list[list[Any]]:
    """The log with another cell; rows count from 1."""
    log = rows()
    log[row - 1][HEADER.split().index(column)] = value
    return log


def without_legal(row: int) -> list[list[Any]]:
    log = rows()
    log[row - 1][7:10] = [0, 0, 0]
    return log


TAKEN = int(np.flatnonzero(ACTION == 1)[0]) + 1
LISTS, FLAGS = {"action_mask": LISTED}, {"action_mask": SPELLINGS["flags in order"]}
AUTO = {"column": "arm", "categories": "auto"}
REFUSED: dict[str, tuple[list[list[Any]], dict[str, Any], str]] = {
    "an action that was illegal": (
        spoilt(TAKEN, "may_half", 0),
        FLAGS,
        f"log.csv, row {TAKEN} (line {TAKEN + 1}), column 'may_none, may_half, may_full': the action 'half' was taken, "
        "which the mask of its row forbids (legal: ",
    ),
    "an action that is not listed": (
        spoilt(TAKEN, "allowed", "none;full"),
        LISTS,
        f"row {TAKEN} (line {TAKEN + 1}), column 'allowed': the action 'half' was taken, which the mask of its row "
        "forbids (legal: none; full)",
    ),
    "nothing legal": (
        without_legal(3),
        FLAGS,
        "row 3 (line 4), column 'may_none, may_half, may_full': the mask allows",
    ),
    "nothing legal where an episode was cut": (without_legal(7), FLAGS, "row 7 (line 8)"),
    "no mask": (
        spoilt(2, "allowed", ""),
        LISTS,
        "row 2 (line 3), column 'allowed': the mask of legal actions is missing",
    ),
    "half a mask": (
        spoilt(2, "may_full", ""),
        FLAGS,
        "row 2 (line 3), column 'may_full': the flag is missing beside others of its row; write 0 where",
    ),
    "a flag that is none": (
        spoilt(5, "may_half", "maybe"),
        FLAGS,
        "row 5 (line 6), column 'may_half': action_mask must be yes or no (true/false, 1/0), got 'maybe'; write 1",
    ),
    "an unknown action": (
        spoilt(5, "allowed", "none;ful"),
        LISTS,
        "row 5 (line 6), column 'allowed': the legal actions 'none;ful' hold 'ful', which is none of the actions; did "
        "you mean 'full'?",
    ),
    "another separator": (
        spoilt(5, "allowed", "none|full"),
        LISTS,
        "the legal actions 'none|full' are separated by '|', not ';': set action_mask.separator in the map",
    ),
    "continuous actions": (
        rows(),
        {**LISTS, "action": {"column": "r", "low": -9, "high": 9}, "reward": "o0"},
        "action_mask in map.yaml is for actions that are a choice, but r is a number; give the action categories",
    ),
    "too few columns": (
        rows(),
        {"action_mask": ["may_none", "may_half"]},
        "action_mask in map.yaml lists 2 columns, but there are 3 actions (none; half; full); give one column for each",
    ),
    "an action without a column": (
        rows(),
        {"action_mask": {"columns": {"none": "may_none", "full": "may_full"}}},
        "action_mask in map.yaml names no column for the action 'half'; every action needs one: none; half; full",
    ),
    "a column of an unknown action": (
        rows(),
        {"action_mask": {"columns": {"none": "may_none", "halv": "may_half", "full": "may_full"}}},
        "action_mask in map.yaml names the action 'halv', which is none of the actions; did you mean 'half'?",
    ),
    "a column twice": (
        rows(),
        {"action_mask": ["may_none", "may_none", "may_full"]},
        "action_mask.columns in map.yaml has the column 'may_none' twice; every action needs its own",
    ),
    "columns in no order": (
        rows(),
        {**FLAGS, "action": AUTO},
        "action_mask in map.yaml lists columns in the order of the actions, which the map leaves open; list the",
    ),
    "both ways at once": (
        rows(),
        {"action_mask": {"column": "allowed", "columns": ["may_none"]}},
        "action_mask in map.yaml must be a list of columns, one for each action, or settings with either columns or",
    ),
    "neither way": (rows(), {"action_mask": {"separator": ";"}}, "settings with either columns or column"),
    "a misspelt setting": (
        rows(),
        {"action_mask": {"column": "allowed", "seperator": "|"}},
        "action_mask in map.yaml has the setting 'seperator', which means nothing; did you mean 'separator'?",
    ),
    "a column that is not there": (
        rows(),
        {"action_mask": "alowed"},
        "log.csv has no column 'alowed', which the map map.yaml names; did you mean 'allowed'?",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, settings, want = REFUSED[name]
    text = written(place, log).read_text()
    absent = dict.fromkeys(("time", "propensity"))
    assert want in run(text, {**MAP, **absent, **settings}, place, capsys)
