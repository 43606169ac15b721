"""What killed processes leave half written is removed, and nothing else: with processes that are really killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lightning_offrl.data.logs import order
from lightning_offrl.data.logs.import_logs import import_logs
from lightning_offrl.data.readers import load
from lightning_offrl.data.readers.minari import local_ids
from lightning_offrl.data.staging import LOCK, clear, staging
from lightning_offrl.data.writers.convert import Converted, convert
from lightning_offrl.data.writers.minari import HALF_WRITTEN
from lightning_offrl.errors import InputError
from tests.data.logs.log_files import HEADER, MAP, rows_of, table

pytest.importorskip("fcntl")

HOLD = """
import sys, time
from pathlib import Path
from lightning_offrl.data.staging import staging
with staging(Path(sys.argv[1]), sys.argv[2]) as folder:
    for name in sys.argv[3:]:
        (folder / name).mkdir(parents=True)
    print("writing", flush=True)
    time.sleep(600)
"""
IMPORT = """
import sys, time
from lightning_offrl.data.logs import import_logs as module
from lightning_offrl.data.logs import files, order, read_map
buffers, files.ROWS, order.BUCKET = module._buffers, 30, 30
def first(*arguments):
    yield next(found := buffers(*arguments))
    print("writing", flush=True)
    time.sleep(600)
module._buffers = first
module.import_logs(sys.argv[1], sys.argv[2], "test/killed-v0")
"""


@contextmanager
def writing(program: str, *arguments: Any) -> Iterator[Callable[[], None]]:
    """A process that is in the middle of writing; gives what kills it."""
    words = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "writing\n"

            def kill() -> None:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                assert process.returncode == -signal.SIGKILL

            yield kill
        finally:
            process.kill()


def hidden(path: Path) -> list[str]:
    return sorted(one.name for one in path.iterdir() if one.name.startswith("."))


def removed(done: Converted) -> list[str]:
    return [note for note in done.notes if "removed" in note]


def test_a_folder_is_there_while_it_is_used(tmp_path: Path) -> None:
    with staging(tmp_path, ".x") as folder:
        assert folder.parent == tmp_path and folder.name.startswith(".x-") and f"-{os.getpid()}-" in folder.name
        assert clear(tmp_path, ".x") == [] and folder.is_dir()  # this process is alive
    assert hidden(tmp_path) == []
    with pytest.raises(RuntimeError), staging(tmp_path, ".x"):
        raise RuntimeError
    assert hidden(tmp_path) == []


def test_only_what_dead_processes_left_is_removed(tmp_path: Path) -> None:
    with writing(HOLD, tmp_path, ".x", "data") as kill:
        (name,) = hidden(tmp_path)
        assert clear(tmp_path, ".x") == [] and hidden(tmp_path) == [name]
        kill()
    away = name.split("-")
    elsewhere, unlocked = "-".join([away[0], "elsewhere", *away[2:]]), "-".join([*away[:3], "unlocked"])
    shutil.copytree(tmp_path / name, tmp_path / elsewhere)
    shutil.copytree(tmp_path / name, tmp_path / unlocked)
    (tmp_path / unlocked / LOCK).unlink()
    (tmp_path / ".x-of-before").mkdir()
    seen: list[Path] = []
    assert clear(tmp_path, ".y") == []
    assert clear(tmp_path, ".x", seen.append) == [name] and seen == [tmp_path / name]
    assert hidden(tmp_path) == sorted([elsewhere, unlocked, ".x-of-before"])
    assert clear(tmp_path, ".x") == [] and clear(tmp_path / "nowhere", ".x") == []


def test_a_killed_import_is_cleaned_up_by_the_next(
    arrays: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves half a dataset in the store, and the rows that it was sorting in the temporary folder."""
    log, scratch, store = (
        table(tmp_path / "log.csv", HEADER, rows_of(arrays)),
        tmp_path / "scratch",
        tmp_path / "minari",
    )
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    (tmp_path / "map.yaml").write_text(
        "episode: e\ntime: t\norder: sort\nobservation: [o0, o1, o2]\nreward: r\nterminated: end\n"
        "action: [{column: a0, low: -1, high: 1}, {column: a1, low: -1, high: 1}]\n"
    )
    with writing(IMPORT, log, tmp_path / "map.yaml") as kill:
        (half,), (rows,) = hidden(store / "test"), [path.name for path in scratch.iterdir()]
        assert half.startswith(f"{HALF_WRITTEN}-") and rows.startswith(f"{order.FOLDER}-")
        done = import_logs(log, {**MAP, "order": "sort"}, "test/other-v0")
        assert removed(done) == [] and hidden(store / "test") == [half]  # the other one is alive
        kill()
    assert hidden(store / "test") == [half] and [path.name for path in scratch.iterdir()] == [rows]
    assert local_ids() == ["test/other-v0"]
    again = import_logs(log, {**MAP, "order": "sort"}, "test/killed-v0")
    assert removed(again) == [
        f"removed what a killed process had left half written in {store / 'test'}: {half}",
        f"removed what a killed import had left in {scratch}: {rows}",
    ]
    assert hidden(store / "test") == [] and list(scratch.iterdir()) == []
    assert load("test/killed-v0").fingerprint == load("test/other-v0").fingerprint
    assert removed(import_logs(log, MAP, "test/killed-v0", overwrite=True)) == []


def test_what_was_being_replaced_is_put_back(arrays: dict[str, Any], tmp_path: Path) -> None:
    """Killed when the old dataset was moved away, and the new one was not yet in its place."""
    old = convert(arrays, "test/walk-v0")
    before = load("test/walk-v0").fingerprint
    with writing(HOLD, old.path.parent, HALF_WRITTEN, "dataset/data", "replaced") as kill:
        (name,) = hidden(old.path.parent)
        old.path.rename(old.path.parent / name / "replaced" / "walk-v0")
        kill()
    assert local_ids() == []
    with pytest.raises(InputError, match="'test/walk-v0' already exists"):
        convert({**arrays, "rewards": arrays["rewards"] * 2}, "test/walk-v0")
    assert load("test/walk-v0").fingerprint == before and hidden(old.path.parent) == []
    with writing(HOLD, old.path.parent, HALF_WRITTEN, "replaced") as kill:
        (name,) = hidden(old.path.parent)
        old.path.rename(old.path.parent / name / "replaced" / "walk-v0")
        kill()
    done = convert(arrays, "test/other-v0")
    assert removed(done) == [
        f"removed what a killed process had left half written in {old.path.parent}: {name}, and put back "
        "what it was replacing: walk-v0"
    ]
    assert local_ids() == ["test/other-v0", "test/walk-v0"]
