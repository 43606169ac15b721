"""Logs become the episodes that they hold: against arrays, by hand, and however they are cut into pieces."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_offrl.batch import unscale_action
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.import_logs import import_logs
from lightning_offrl.data.sources import load
from lightning_offrl.data.sources.logs import EXAMPLE, assemble, files, order, parse_map
from lightning_offrl.data.sources.minari import data_directory
from lightning_offrl.errors import InputError
from lightning_offrl.ope.groups import elapsed_of, labels_of


def table(path: Path, header: str, rows: Iterable[Iterable[Any]]) -> Path:
    """A CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split())
        writer.writerows(rows)
    return path


def imported(path: Any, settings: dict[str, Any], name: str = "test/log-v0") -> Episodes:
    import_logs(path, settings, name, overwrite=True)
    return load(name)


def parquet(path: Path) -> Path:
    """The same CSV as Parquet, in several row groups."""
    pytest.importorskip("pyarrow")
    import pyarrow.csv
    import pyarrow.parquet

    out = path.with_suffix(".parquet")
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(path), out, row_group_size=17)
    return out


MAP: dict[str, Any] = {
    "episode": "e",
    "time": "t",
    "observation": ["o0", "o1", "o2"],
    "action": [{"column": "a0", "low": -1, "high": 1}, {"column": "a1", "low": -1, "high": 1}],
    "reward": "r",
    "terminated": "end",
}
HEADER = "e t o0 o1 o2 a0 a1 r end"


def rows_of(arrays: dict[str, Any]) -> list[list[Any]]:
    """Episodes of `random_arrays` as a log: a row for each step, and one more for the last observation of a cut one."""
    out = []
    for i in range(6):
        for t in range(20):
            k = 20 * i + t
            numbers = [*arrays["observations"][k], *arrays["actions"][k], arrays["rewards"][k]]
            out.append([f"run {i}", t, *map(float, numbers), int(arrays["terminals"][k])])
        if not arrays["terminals"][k]:
            out.append([f"run {i}", 20, *map(float, arrays["next_observations"][k]), "", "", "", 0])
    return out


def same(one: Episodes, arrays: dict[str, Any]) -> None:
    other = load(arrays)
    assert torch.equal(one.length, other.length)
    for key in ("observation", "action", ("next", "reward"), ("next", "terminated"), ("next", "truncated")):
        torch.testing.assert_close(one.data[key], other.data[key], rtol=0, atol=1e-7)
    inside = ~other.data["next", "terminated"]  # behind a terminal state nothing was logged
    torch.testing.assert_close(
        one.data["next", "observation"][inside], other.data["next", "observation"][inside], rtol=0, atol=0
    )


@pytest.mark.parametrize("kind", ["csv", "parquet", "gz"])
def test_a_log_becomes_the_episodes_it_holds(arrays: dict[str, Any], tmp_path: Path, kind: str) -> None:
    path = table(tmp_path / "log.csv", HEADER, rows_of(arrays))
    if kind == "parquet":
        path = parquet(path)
    elif kind == "gz":
        import gzip

        packed = tmp_path / "log.csv.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    same(imported(path, MAP), arrays)


@pytest.mark.parametrize("rows", [1, 2, 7, 21, 50])
def test_pieces_of_any_size_give_the_same(
    arrays: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    path = table(tmp_path / "log.csv", HEADER, rows_of(arrays))
    monkeypatch.setattr(files, "ROWS", rows)
    same(imported(path, MAP), arrays)


def test_several_files_and_a_directory(arrays: dict[str, Any], tmp_path: Path) -> None:
    rows = rows_of(arrays)
    (tmp_path / "logs").mkdir()
    first = table(tmp_path / "logs" / "1.csv", HEADER, rows[:50])  # in the middle of an episode
    second = table(tmp_path / "logs" / "2.csv", HEADER, rows[50:])
    same(imported([first, second], MAP), arrays)
    same(imported(tmp_path / "logs", MAP), arrays)


def test_shuffled_rows_are_sorted_on_disk(
    arrays: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(arrays)
    mixed = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    # Episodes come out in the order in which they first appear.
    mixed = [row for i in range(6) for row in mixed if row[0] == f"run {i}" and row[1] == 0] + [
        row for row in mixed if row[1] != 0
    ]
    path = table(tmp_path / "log.csv", HEADER, mixed)
    monkeypatch.setattr(files, "ROWS", 13)
    for bucket in (10, 45, 1000):
        monkeypatch.setattr(order, "BUCKET", bucket)
        same(imported(path, {**MAP, "order": "sort"}), arrays)


def test_outcomes_one_row_later(arrays: dict[str, Any], tmp_path: Path) -> None:
    """dm_env's layout: reward and end stand with the observation that they came with."""
    out: list[list[Any]] = []
    for i in range(6):
        for t in range(21):
            k = 20 * i + min(t, 19)
            observation = arrays["observations"][k] if t < 20 else arrays["next_observations"][k]
            action = list(map(float, arrays["actions"][k])) if t < 20 else ["", ""]
            reward = float(arrays["rewards"][k - 1 if t < 20 else k]) if t else ""
            end = int(t == 20 and arrays["terminals"][k])
            out.append([i, t, *map(float, observation), *action, reward, end])
    got = imported(table(tmp_path / "log.csv", HEADER, out), {**MAP, "outcome_row": "next"})
    same(got, arrays)
    # Here the observation after the terminal step is in the log.
    torch.testing.assert_close(got.data["next", "observation"], load(arrays).data["next", "observation"])


def test_long_episodes_are_cut_and_given_out_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One episode of 1,000 rows, pieces of 30 steps: the same held whole and given out as it is read."""
    rng = np.random.default_rng(0)
    observation = np.where(rng.random(1000) < 0.5, math.nan, rng.normal(size=1000))
    observation[0] = 3.0
    rows = [[i, "" if math.isnan(o) else o, i % 7, i / 10] for i, o in enumerate(observation)]
    path = table(tmp_path / "log.csv", "t o a r", rows)
    settings = {
        "time": "t",
        "observation": {"column": "o", "missing": ["last", "indicator"]},
        "action": {"column": "a", "categories": [0, 1, 2, 3, 4, 5, 6]},
        "reward": "r",
        "max_length": 30,
    }
    whole = imported(path, settings)
    monkeypatch.setattr(files, "ROWS", 64)
    monkeypatch.setattr(assemble, "MANY", 50)
    early = imported(path, settings)
    assert early.length.tolist() == [30] * 33 + [9] and not early.data["next", "terminated"].any()
    assert early.fingerprint == whole.fingerprint
    filled = np.array([observation[: i + 1][~np.isnan(observation[: i + 1])][-1] for i in range(999)])
    np.testing.assert_allclose(early.data["observation"][:, 0], filled, rtol=1e-6)
    np.testing.assert_array_equal(early.data["observation"][:, 1], np.isnan(observation[:999]))
    np.testing.assert_allclose(early.data["next", "observation"][29, 0], filled[30], rtol=1e-6)
    assert early.data["action"].tolist() == [i % 7 for i in range(999)]


def test_missing_values_by_hand(tmp_path: Path) -> None:
    """last carries on within an episode, mean is that of the log (in the map's unit), a number is itself."""
    rows = [
        ["a", "", 32, "x", 1, 1, 0],
        ["a", 4, "", "", 1, "", 0],
        ["a", "-999", 212, "y", 1, 3, 1],
        ["b", "", "", "y", 1, 4, 0],
        ["b", 8, "", "x", 1, 5, 1],
    ]
    settings = {
        "episode": "e",
        "observation": [
            {"column": "o", "missing": ["last", "mean", "indicator"]},
            {"column": "temp", "unit": "degF", "to": "degC", "missing": "mean"},
            {"column": "kind", "categories": "auto", "missing": "indicator"},
        ],
        "action": {"column": "a", "low": 0, "high": 2},
        "reward": {"column": "r", "missing": 7, "scale": 2},
        "terminated": "end",
        "missing_values": [-999],
    }
    done = import_logs(table(tmp_path / "log.csv", "e o temp kind a r end", rows), settings, "test/log-v0")
    data = load("test/log-v0").data
    # o, temp, kind = x, kind = y, o is missing, kind is missing
    want = [
        [6.0, 0.0, 1.0, 0.0, 1.0, 0.0],
        [4.0, 50.0, 0.0, 0.0, 0.0, 1.0],
        [4.0, 100.0, 0.0, 1.0, 1.0, 0.0],
        [6.0, 50.0, 0.0, 1.0, 1.0, 0.0],
        [8.0, 50.0, 1.0, 0.0, 0.0, 0.0],
    ]
    torch.testing.assert_close(data["observation"], torch.tensor(want), rtol=1e-6, atol=1e-6)
    assert data["next", "reward"].tolist() == [2.0, 7.0, 6.0, 8.0, 10.0]
    said = " ".join(done.notes)
    assert "3 missing values of o filled in" in said and "the categories of kind are those in the log: x, y" in said


def test_actions_and_propensities(tmp_path: Path) -> None:
    """A dose in mg logged in g: the density shrinks by 1000; its log density in [-1, 1] gains log(half the range)."""
    rows = [["a", 0.0, 0.002, 500.0, 1.0, 0], ["a", 0.0, 0.012, 250.0, 1.0, 1]]
    path = table(tmp_path / "log.csv", "e o dose p r end", rows)
    settings = {
        "episode": "e",
        "observation": "o",
        "action": {"column": "dose", "unit": "g", "to": "mg", "low": 0, "high": 10, "clip": True},
        "reward": "r",
        "terminated": "end",
        "propensity": "p",
    }
    done = import_logs(path, settings, "test/log-v0")
    episodes = load("test/log-v0")
    torch.testing.assert_close(unscale_action(episodes.data["action"], episodes.spec), torch.tensor([[2.0], [10.0]]))
    assert "1 action outside of the bounds, cut at them" in done.notes
    assert episodes.data["behavior_log_prob"].tolist() == pytest.approx([math.log(0.5 * 5), math.log(0.25 * 5)])
    rows = [["a", 0.0, "lo", "on", math.log(0.5), 1.0, 0], ["a", 0.0, "hi", "off", math.log(0.25), 1.0, 1]]
    path = table(tmp_path / "log.csv", "e o level switch p r end", rows)
    settings["action"] = [
        {"column": "level", "categories": ["lo", "mid", "hi"]},
        {"column": "switch", "categories": ["off", "on"]},
    ]
    settings["propensity"] = {"column": "p", "kind": "log_probability"}
    import_logs(path, settings, "test/log-v0", overwrite=True)
    episodes = load("test/log-v0")
    assert episodes.spec["action_size"] == 6 and episodes.data["action"].tolist() == [0 * 2 + 1, 2 * 2 + 0]
    assert episodes.data["behavior_log_prob"].exp().tolist() == pytest.approx([0.5, 0.25])


def test_bounds_from_the_log_are_noted(tmp_path: Path) -> None:
    rows = [["a", 0.0, a, 1.0, int(a == 3)] for a in (-1, 1, 3)]
    settings = {"episode": "e", "observation": "o", "action": "a", "reward": "r", "terminated": "end"}
    done = import_logs(table(tmp_path / "log.csv", "e o a r end", rows), settings, "test/log-v0")
    assert "the bounds of the action a are not in the map: taken from the log, -1 to 3" in done.notes
    assert load("test/log-v0").data["action"].tolist() == [[-1.0], [0.0], [1.0]]


GAPS = [["a", f"2024-01-01T{h:02}:00:00", h, 1, 1] for h in (0, 1, 2, 9, 10, 11)]


@pytest.mark.parametrize(
    ("gap", "lengths"),
    [(None, [5]), ("6h", [2, 2]), ({"longer_than": "6h", "then": "keep"}, [5]), ("8 h", [5]), ("59min", [])],
)
def test_gaps_in_time(tmp_path: Path, gap: Any, lengths: list[int]) -> None:
    path = table(tmp_path / "log.csv", "e t o a r", GAPS)
    settings = {"episode": "e", "time": "t", "observation": "o", "reward": "r"}
    settings |= {"action": {"column": "a", "low": 0, "high": 2}, **({"gap": gap} if gap else {})}
    if not lengths:
        with pytest.raises(InputError, match="holds no episode with a step in it"):
            import_logs(path, settings, "test/log-v0")
        assert data_directory("test/log-v0") is None
        return
    done = import_logs(path, settings, "test/log-v0")
    episodes = load("test/log-v0")
    assert episodes.length.tolist() == lengths
    # The row after a gap is no next observation: the piece before it ends with its own last row.
    first = lengths[0] - 1
    assert episodes.data["next", "observation"][first, 0] == (2.0 if len(lengths) == 2 else 11.0)
    assert any("gap" in note for note in done.notes) == (len(lengths) == 2)


def test_long_gaps_that_the_map_does_not_mention_are_noted(tmp_path: Path) -> None:
    rows = [["a", t, t, 1, 1] for t in [*range(0, 1200, 60), *range(90_000, 91_200, 60)]]
    settings = {"episode": "e", "time": "t", "observation": "o", "reward": "r"}
    settings["action"] = {"column": "a", "low": 0, "high": 2}
    done = import_logs(table(tmp_path / "log.csv", "e t o a r", rows), settings, "test/log-v0")
    assert any("1 step took more than 10 times as long as the median step (about 60)" in note for note in done.notes)


@pytest.mark.parametrize(
    ("last_row", "steps", "terminal"), [("cut", [1, 2], [0, 0]), ("terminated", [2, 3, 1], [1, 1, 1]), ("drop", [], [])]
)
def test_episodes_without_an_end(tmp_path: Path, last_row: str, steps: list[int], terminal: list[int]) -> None:
    rows = [["a", 1, 1, 1], ["a", 2, 1, 1], ["b", 3, 1, 1], ["b", 4, 1, 1], ["b", 5, 1, 1], ["c", 6, 1, 1]]
    path = table(tmp_path / "log.csv", "e o a r", rows)
    settings = {"episode": "e", "observation": "o", "reward": "r", "last_row": last_row}
    settings["action"] = {"column": "a", "low": 0, "high": 2}
    if not steps:
        with pytest.raises(InputError, match="holds no episode"):
            import_logs(path, settings, "test/log-v0")
        return
    done = import_logs(path, settings, "test/log-v0")
    episodes = load("test/log-v0")
    assert episodes.length.tolist() == steps
    last = episodes.start + episodes.length - 1
    assert episodes.data["next", "terminated"][last].int().tolist() == terminal
    assert any("1 episode of a single row left out" in note for note in done.notes) == (last_row == "cut")


def test_flags_alone_can_end_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        [1, 1, 0, "go"],
        [2, 1, 1, "won"],
        [3, 1, 0, "go"],
        [4, 1, 0, "out of time"],
        [5, 1, 0, "go"],
        [6, 1, 2, "lost"],
    ]
    path = table(tmp_path / "log.csv", "o a r status", rows)
    settings = {
        "observation": "o",
        "action": {"column": "a", "categories": [1, 2]},
        "reward": "r",
        "terminated": {"column": "status", "values": ["won", "lost"]},
        "truncated": {"column": "status", "values": ["out of time"]},
    }
    for rows_at_once in (1, 2, 100):
        monkeypatch.setattr(files, "ROWS", rows_at_once)
        episodes = imported(path, settings)
        assert episodes.length.tolist() == [2, 1, 2] and episodes.returns().tolist() == [1.0, 0.0, 2.0]
        assert episodes.data["next", "truncated"].tolist() == [False, False, True, False, False]


def test_a_category_may_be_called_none_and_misspelt_ends_are_noted(tmp_path: Path) -> None:
    rows = [["a", 1, "None", 1, ""], ["a", 2, "full", 1, "died"], ["b", 3, "None", 1, ""], ["b", 4, "None", 1, "ok"]]
    settings = {
        "episode": "e",
        "observation": "o",
        "action": {"column": "dose", "categories": ["None", "full"]},
        "reward": "r",
        "terminated": {"column": "status", "values": ["died", "okay"]},
    }
    done = import_logs(table(tmp_path / "log.csv", "e o dose r status", rows), settings, "test/log-v0")
    assert load("test/log-v0").data["action"].tolist() == [0, 1, 0]
    assert "no row has terminated 'okay': is it spelt as in the log?" in done.notes


def test_whole_numbers_name_the_same_episode_in_files_with_and_without_gaps(tmp_path: Path) -> None:
    """pandas stores whole numbers as floats where a column has a gap; here one file has floats, the other integers."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    numbers = pa.array([0.0, 1.0, 2.0])
    for name, kind in (("1.parquet", pa.float64()), ("2.parquet", pa.int64())):
        columns = {"e": pa.array([7, 7, 7], kind), "o": numbers, "a": numbers, "r": numbers}
        pq.write_table(pa.table(columns), tmp_path / name)
    settings = {"episode": "e", "observation": "o", "reward": "r", "action": {"column": "a", "low": 0, "high": 2}}
    assert imported(tmp_path, settings).length.tolist() == [5]


def test_names_and_units_reach_the_report(tmp_path: Path) -> None:
    from lightning_offrl.report.dataset import examine
    from lightning_offrl.report.dataset_page import document

    rng = np.random.default_rng(0)
    rows = [
        [e, float(rng.normal()), rng.choice(["none", "full"]), 1.0, int(t == 4)] for e in range(6) for t in range(5)
    ]
    rows.append(["alone", 0.0, "none", 1.0, 0])
    settings = {
        "episode": "e",
        "observation": {"column": "lactate", "unit": "mmol/l"},
        "action": {"column": "dose", "categories": ["none", "full"]},
        "reward": "r",
        "terminated": "end",
    }
    import_logs(table(tmp_path / "log.csv", "e lactate dose r end", rows), settings, "test/log-v0")
    page = document(examine("test/log-v0"))
    assert "lactate (mmol/l)" in page and ">full<" in page and "1 episode of a single row left out" in page


def test_the_example_is_a_map() -> None:
    import yaml

    settings = parse_map(yaml.safe_load(EXAMPLE))
    assert settings.episode == ("patient", "stay") and settings.gap == 12 * 3600 and not settings.discrete
    assert settings.observation[1].fill == ("last", "mean") and settings.observation[2].indicator


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"not installed: pip install 'lightning-offrl\[logs\]'"):
        import_logs(tmp_path / "x.parquet", MAP, "test/log-v0")


def test_groups_and_times_are_kept_aside(tmp_path: Path) -> None:
    """Texts as labels, numbers as they are, each carried on within its episode; times in seconds."""
    rows = [
        ["a", "2024-01-01T00:00:00", 1, 0, 1, "north", 61],
        ["a", "2024-01-01T02:00:00", 2, 1, 1, "", ""],
        ["a", "2024-01-01T03:00:00", 3, 0, 1, "south", 61],
        ["b", "2024-01-01T00:00:00", 4, 1, 1, "", 45],
        ["b", "2024-01-01T00:30:00", 5, 1, 1, "", 45],
    ]
    path = table(tmp_path / "log.csv", "e t o a r site age", rows)
    settings = {
        "episode": "e",
        "time": "t",
        "observation": {"column": "o", "categories": [1, 2, 3, 4, 5]},
        "action": {"column": "a", "categories": [0, 1]},
        "reward": "r",
        "groups": ["site", "age"],
        "last_row": "terminated",
    }
    done = import_logs(path, settings, "test/log-v0")
    assert "1 episode with a group that changes: the one of the first step counts" in done.notes
    for _ in range(2):  # read, and from the cache
        episodes = load("test/log-v0")
        assert episodes.columns["log"] == [
            {"name": "t", "unit": "s"},
            {"name": "site", "unit": None, "labels": ["north", "south"]},
            {"name": "age", "unit": None, "labels": None},
        ]
        midnight = 1704067200.0  # `date -ud 2024-01-01 +%s`
        time, site, age = episodes.data["log"].T
        assert (time - midnight).tolist() == [0.0, 7200.0, 10800.0, 0.0, 1800.0]
        np.testing.assert_array_equal(site, [0, 0, 0, math.nan, math.nan])
        assert age.tolist() == [61, 61, 61, 45, 45]
    assert labels_of(episodes, "site") == ["north", "missing"] and labels_of(episodes, "age") == ["61", "45"]
    assert labels_of(episodes, "o") == ["1", "4"]
    assert elapsed_of(episodes, "t", "h").tolist() == [0.0, 2.0, 3.0, 0.0, 0.5]
    with pytest.raises(InputError, match="the times in t are in s, and a discount per s differs from one per hour"):
        elapsed_of(episodes, "t")
    with pytest.raises(InputError, match=r"no column 'sites'; did you mean 'site'\? it has t, site, age, o, and ac"):
        labels_of(episodes, "sites")
    other = Episodes.join([episodes, episodes.select([1])])
    assert labels_of(other, "site") == ["north", "missing", "missing"]


def test_groups_survive_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A label in the first row only, and an episode given out while it is read: every piece has it."""
    rows = [[i, i, 0, 1, "north" if i == 0 else ""] for i in range(500)]
    path = table(tmp_path / "log.csv", "t o a r site", rows)
    settings = {"time": {"column": "t", "unit": "min"}, "observation": "o", "reward": "r", "max_length": 30}
    settings |= {"action": {"column": "a", "categories": [0, 1]}, "groups": "site"}
    monkeypatch.setattr(files, "ROWS", 64)
    monkeypatch.setattr(assemble, "MANY", 50)
    episodes = imported(path, settings)
    assert episodes.n_episodes == 17 and labels_of(episodes, "site") == ["north"] * 17
    assert elapsed_of(episodes, "t", "min")[:31].tolist() == [*range(30), 0]


def test_what_the_map_leaves_out_is_not_stored(arrays: dict[str, Any], tmp_path: Path) -> None:
    settings = {key: value for key, value in MAP.items() if key != "time"}
    episodes = imported(table(tmp_path / "log.csv", HEADER, rows_of(arrays)), settings)
    assert "log" not in episodes.data.keys() and episodes.columns["log"] == []


MEASURE = """
import re, sys
from lightning_offrl.data.import_logs import import_logs
from lightning_offrl.data.sources.logs import files, order
files.ROWS, order.BUCKET = 4_000, 10_000
done = import_logs(sys.argv[1], sys.argv[2], sys.argv[3])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())  # getrusage counts the parent's, too
print(done.transitions, int(peak[1]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("kind", ["csv", "parquet", "sort"])
def test_memory_does_not_grow_with_the_log(tmp_path: Path, kind: str) -> None:
    """Peak memory of the whole process at 18,000 and at 300,000 rows, with pieces of 4,000: the first fills them.

    Both have 600 episodes, as HDF5 keeps up to 32 MiB about the datasets in a file.
    """
    (tmp_path / "map.yaml").write_text(
        "episode: e\ntime: t\nobservation: [o0, o1, {column: o2, missing: [last, mean]}]\n"
        "action: {column: a, low: -1, high: 1}\nreward: r\nterminated: end\n"
        f"order: {'sort' if kind == 'sort' else 'checked'}\n"
    )
    peaks = []
    for number, steps in enumerate((30, 500)):
        rng = np.random.default_rng(0)
        path = tmp_path / f"log{number}.csv"
        with path.open("w") as file:
            file.write("e,t,o0,o1,o2,a,r,end\n")
            for e in range(600):
                values = rng.normal(size=(steps, 5)).clip(-1, 1)
                for t, (x, y, z, a, r) in enumerate(values.tolist()):
                    o2, end = "" if t % 5 == 3 else f"{z:.5f}", int(t == steps - 1)
                    file.write(f"{e},{t},{x:.5f},{y:.5f},{o2},{a:.5f},{r:.5f},{end}\n")
        if kind == "parquet":
            path = parquet_streamed(path)
        words = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / "map.yaml"), f"test/log{number}-v0"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        transitions, peak = map(int, done.stdout.split())
        assert transitions == 600 * steps
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 12, peaks  # MiB; 282,000 more rows are 18 as float64, 140 as the texts of a CSV


def parquet_streamed(path: Path) -> Path:
    pytest.importorskip("pyarrow")
    import pyarrow.csv
    import pyarrow.parquet

    out = path.with_suffix(".parquet")
    with pyarrow.csv.open_csv(path) as reader, pyarrow.parquet.ParquetWriter(out, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch, row_group_size=100_000)
    return out
