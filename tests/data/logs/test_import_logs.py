"""Logs become the episodes that they hold: against arrays, by hand, and however they are cut into pieces."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_offrl.data.logs import assemble, files
from lightning_offrl.data.readers import load
from tests.data.logs.log_files import HEADER, MAP, imported, parquet, rows_of, same, table


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


def test_what_the_map_leaves_out_is_not_stored(arrays: dict[str, Any], tmp_path: Path) -> None:
    settings = {key: value for key, value in MAP.items() if key != "time"}
    episodes = imported(table(tmp_path / "log.csv", HEADER, rows_of(arrays)), settings)
    assert "log" not in episodes.data.keys() and episodes.columns["log"] == []


MEASURE = """
import re, sys
from lightning_offrl.data.logs.import_logs import import_logs
from lightning_offrl.data.logs import files, order
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
