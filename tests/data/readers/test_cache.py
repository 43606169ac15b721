"""The memory-mapped cache: hit, miss, changed source, killed writer, places that cannot be written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers import cache, load, locate


def write(path: Path, arrays: dict[str, Any], *, old: bool = True) -> Path:
    """A D4RL file; its time lies an hour back, as a file written just now is not trusted to stay as it is."""
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = value
    if old:
        age(path)
    return path


def age(path: Path) -> None:
    stamp = time.time() - 3600
    os.utime(path, (stamp, stamp))


@pytest.fixture(autouse=True)
def _trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a file's inode cannot be set back, so the tests take files of now as settled."""
    monkeypatch.setattr(cache, "_RACY_NS", -3_600_000_000_000)


@pytest.fixture
def file(tmp_path: Path, arrays: dict[str, Any]) -> Path:
    return write(tmp_path / "walk.hdf5", arrays)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every reading of a D4RL file."""
    from lightning_offrl.data.readers import d4rl

    done: list[Path] = []
    original = d4rl.read

    def counted(path: Path, *words: Any) -> Episodes:
        done.append(path)
        return original(path, *words)

    monkeypatch.setattr(d4rl, "read", counted)
    return done


def test_the_second_start_reads_nothing(file: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(file, use_cache=False)
    assert len(reads) == 1
    cold = load(file)
    assert len(reads) == 2
    monkeypatch.setattr(cache, "_content_key", lambda *_: pytest.fail("the source was hashed again"))
    warm = load(file)
    assert len(reads) == 2
    for episodes in (cold, warm):
        assert episodes.fingerprint == first.fingerprint and episodes.spec == first.spec
        assert torch.equal(episodes.start, first.start) and torch.equal(episodes.length, first.length)
        assert (episodes.data == first.data).all()
        assert (episodes.name, episodes.notes, episodes.environment) == (first.name, first.notes, None)


def test_the_stored_fingerprint_is_that_of_the_content(file: Path) -> None:
    warm = load(file) and load(file)
    stored = warm.fingerprint
    warm._fingerprint = None
    assert warm.fingerprint == stored


def test_a_changed_source_is_noticed(file: Path, arrays: dict[str, Any], reads: list[Path]) -> None:
    before = load(file)
    size = file.stat().st_size
    write(file, {**arrays, "rewards": arrays["rewards"] + 1})
    assert file.stat().st_size == size
    after = load(file)
    assert len(reads) == 2 and after.fingerprint != before.fingerprint
    torch.testing.assert_close(after.data["next", "reward"], before.data["next", "reward"] + 1)


def test_a_change_within_the_clocks_grain_is_noticed(
    file: Path, arrays: dict[str, Any], reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_RACY_NS", 2_000_000_000)
    frozen = cache._stamp([file])
    monkeypatch.setattr(cache, "_stamp", lambda files: [list(row) for row in frozen])
    before = load(file)
    write(file, {**arrays, "rewards": arrays["rewards"] + 1})
    assert load(file).fingerprint != before.fingerprint


def test_a_touched_source_is_not_read_again(file: Path, reads: list[Path]) -> None:
    load(file)
    os.utime(file, (1_000_000_000, 1_000_000_000))
    load(file)
    assert len(reads) == 1


def test_a_copy_shares_the_entry_and_keeps_its_own_name(file: Path, tmp_path: Path, reads: list[Path]) -> None:
    load(file)
    copy = tmp_path / "elsewhere.hdf5"
    shutil.copy(file, copy)
    assert load(copy).name == "elsewhere" and load(file).name == "walk" and len(reads) == 1


def test_writing_to_the_table_does_not_reach_the_cache(file: Path) -> None:
    load(file)
    episodes = load(file)
    episodes.data["next", "reward"].add_(100)
    again = load(file)
    again._fingerprint = None
    assert again.fingerprint == load(file).fingerprint
    assert float(again.data["next", "reward"].max()) < 100


def test_nested_pictures_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "pictures.hdf5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["observations/camera"] = rng.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
        file["observations/state"] = rng.normal(size=(6, 2))
        file["actions"], file["rewards"] = rng.uniform(-1, 1, (6, 2)), np.arange(6.0)
        file["terminals"], file["timeouts"] = np.arange(6) == 2, np.arange(6) == 5
    direct, warm = load(path, use_cache=False), load(path) and load(path)
    assert (warm.data == direct.data).all() and warm.data["observation", "camera"].dtype == torch.uint8
    assert warm.notes == direct.notes != []


def test_short_float32_columns_lie_side_by_side(file: Path) -> None:
    """A transition is one row of one file; flags have their own."""
    load(file)
    data = load(file).data
    parts = [data["observation"], data["action"], data["next", "observation"], data["next", "reward"]]
    assert len({part.untyped_storage().data_ptr() for part in parts}) == 1
    assert {part.stride(0) for part in parts} == {3 + 2 + 3 + 1}
    assert data["next", "terminated"].is_contiguous()


@pytest.mark.parametrize("damage", ["cut", "cut table", "gone", "not json", "other format"])
def test_a_damaged_entry_is_made_again(file: Path, reads: list[Path], damage: str) -> None:
    before = load(file).fingerprint
    place = locate(file)
    entry = cache.entry_of(place.files, place.version)
    assert entry is not None
    if damage.startswith("cut"):
        column = entry / ("0.npy" if damage == "cut" else "table.npy")
        column.write_bytes(column.read_bytes()[:200])
    elif damage == "gone":
        (entry / "length.npy").unlink()
    elif damage == "not json":
        (entry / "episodes.json").write_text("{")
    else:
        record = json.loads((entry / "episodes.json").read_text())
        (entry / "episodes.json").write_text(json.dumps({**record, "format": -1}))
    assert load(file).fingerprint == before
    assert len(reads) == 2
    load(file)
    assert len(reads) == 2


def test_a_killed_writer_leaves_nothing_half(file: Path, tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        try:
            original, saved = np.save, []

            def save(*arguments: Any) -> None:
                if len(saved) == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                saved.append(original(*arguments))

            np.save = save
            load(file)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    place = locate(file)
    assert cache.entry_of(place.files, place.version) is None
    left = list((tmp_path / "cache" / "episodes").iterdir())
    assert [path.name.startswith(".tmp-") for path in left] == [True]
    assert len(load(file)) == 120
    assert not left[0].exists()  # removed by the next writer


def test_a_cache_that_cannot_be_written_costs_a_warning(file: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the directory should be")
    with pytest.warns(UserWarning, match="data cache .*taken cannot be written .* OFFRL_CACHE"):
        episodes = load(file, cache_dir=tmp_path / "taken")
    assert len(episodes) == 120


def test_two_writers_at_once(file: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    other = load(file).fingerprint
    place = locate(file)
    entry = cache.entry_of(place.files, place.version)
    assert entry is not None
    cache._write(entry, load(file, use_cache=False))  # finds the entry there already
    assert load(file).fingerprint == other
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]


def test_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache.directory("~/x") == Path.home() / "x"
    assert cache.directory() == tmp_path / "cache"
    monkeypatch.delenv("OFFRL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.directory() == tmp_path / "lightning_offrl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.directory() == Path.home() / ".cache" / "lightning_offrl"


def test_the_second_start_imports_no_reader(file: Path) -> None:
    load(file)
    code = f"""
import sys
from lightning_offrl.data.readers import cache
from lightning_offrl.data.readers import load
cache._RACY_NS = -3_600_000_000_000
assert len(load({str(file)!r})) == 120
print(*sorted({{"h5py", "minari", "gymnasium", "lightning", "torchrl"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
