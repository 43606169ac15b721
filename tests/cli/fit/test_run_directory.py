"""Where a run keeps its files, and how configurations are found by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_offrl.cli.fit.run_directory import choose, dataset_slug, find_config, home_of
from lightning_offrl.errors import InputError


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("OFFRL_RUN_DIR", "LOCAL_RANK"):
        monkeypatch.setenv(name, "")  # so that both are restored afterwards
        monkeypatch.delenv(name)


def chosen(run_dir: str | None = None, name: str | None = None, ckpt_path: str | None = None):
    return choose(run_dir=run_dir, name=name, ckpt_path=ckpt_path, algorithm="IQL", source="test/log-v0")


def run(folder: str) -> Path:
    """A run directory with a configuration and a checkpoint."""
    checkpoint = Path(folder, "checkpoints", "last.ckpt")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    Path(folder, "config.yaml").touch()
    return checkpoint


def test_a_new_run_has_the_directory_the_name_or_the_time():
    assert chosen(run_dir="mine", name="x") == (Path("mine"), None)
    assert chosen(name="my run") == (Path("runs/iql-test-log-v0-my-run"), None)
    assert chosen()[0].name.startswith("iql-test-log-v0-2")


def test_a_resumed_run_stays_in_its_directory():
    checkpoint = run("mine")
    assert home_of(str(checkpoint)) == Path("mine") and home_of("elsewhere/last.ckpt") is None
    assert chosen(ckpt_path=str(checkpoint)) == (Path("mine"), checkpoint)
    assert chosen(run_dir="mine", ckpt_path="last") == (Path("mine"), checkpoint)
    with pytest.raises(InputError, match="mine holds a run already"):
        chosen(run_dir="mine")
    with pytest.raises(InputError, match=r"no checkpoint at mine/checkpoints/step=1.ckpt; there are last.ckpt"):
        chosen(ckpt_path="mine/checkpoints/step=1.ckpt")


def test_last_without_a_directory_names_the_newest_run():
    with pytest.raises(InputError, match="there is no run of this kind in runs/"):
        chosen(ckpt_path="last")
    run("runs/iql-test-log-v0-a")
    with pytest.raises(InputError, match="add --run_dir runs/iql-test-log-v0-a"):
        chosen(ckpt_path="last")


def test_names_of_datasets_in_file_names():
    assert dataset_slug("a/b-v0") == "a-b-v0" and dataset_slug(Path("x/hopper v2.hdf5")) == "hopper-v2"
    assert dataset_slug(["a/b-v0", "c/d-v0"]) == "a-b-v0-and-1-more" and dataset_slug({}) == "data"


def test_configurations_are_found_by_name():
    assert find_config("iql").endswith("iql.yaml") and find_config("configs/iql.yaml").endswith("iql.yaml")
    Path("mine.yaml").touch()
    assert find_config("mine.yaml") == "mine.yaml"
    with pytest.raises(InputError, match="no configuration file 'iqll'; did you mean iql"):
        find_config("iqll")
