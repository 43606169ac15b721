from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from lightning_offrl.loggers import WandbLogger
from lightning_offrl.loggers import wandb as module


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "WANDB_MODE",
        "WANDB_PROJECT",
        "WANDB_API_KEY",
        "WANDB_IDENTITY_TOKEN_FILE",
        "NETRC",
        "WANDB_BASE_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


class Run:
    """What `WandbLogger` uses of a wandb run."""

    disabled = False

    def __init__(self, **options: Any) -> None:
        self.options, self.logged, self.metrics, self.exit_code = options, [], [], None
        self.id = options["id"]

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def define_metric(self, name: str, **options: Any) -> None:
        self.metrics.append((name, options))

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    import wandb

    begun: list[Run] = []

    def init(**options: Any) -> Run:
        begun.append(Run(**options))
        return begun[-1]

    monkeypatch.setattr(wandb, "init", init)
    return begun


def test_without_a_key_the_run_is_offline_and_one_line_says_so(no_key, runs, tmp_path: Path, capsys):
    logger = WandbLogger()
    logger.use_run_dir(str(tmp_path / "iql-x"))
    logger.log_metrics({"loss": 1.0, "epoch": 0}, step=500)
    logger.log_metrics({"loss": 2.0}, step=1000)
    (run,) = runs
    assert run.options["mode"] == "offline" and run.options["name"] == "iql-x" and run.options["resume"] == "allow"
    assert run.options["dir"] == str(tmp_path / "iql-x")
    assert run.logged == [{"loss": 1.0, "updates": 500}, {"loss": 2.0, "updates": 1000}]
    assert ("*", {"step_metric": "updates", "step_sync": True}) in run.metrics
    assert capsys.readouterr().err.count("\n") == 1
    logger.finalize("success")
    assert run.exit_code == 0


def test_with_a_key_the_run_is_online(no_key, runs, monkeypatch, tmp_path: Path, capsys):
    home = tmp_path / "home"
    home.mkdir()
    (home / ".netrc").write_text("machine api.wandb.ai login user password abc\n")
    logger = WandbLogger(save_dir=str(tmp_path))
    logger.log_metrics({"loss": 1.0}, step=1)
    assert runs[0].options["mode"] == "online"
    assert capsys.readouterr().err == ""


def test_a_resumed_run_has_the_same_id(no_key, runs, tmp_path: Path):
    first = WandbLogger(save_dir=str(tmp_path / "run"))
    first.log_metrics({"loss": 1.0}, step=1)
    again = WandbLogger(save_dir=str(tmp_path / "run"))
    assert again.experiment is not None  # as Lightning does before it reads the checkpoint
    again.resume_at(1)
    again.log_metrics({"loss": 1.0}, step=2)
    moved = WandbLogger(save_dir=str(tmp_path / "other"))
    moved.resume_at(1, run_id=first.run_id)
    moved.log_metrics({"loss": 1.0}, step=2)
    new = WandbLogger(save_dir=str(tmp_path / "new"))
    new.log_metrics({"loss": 1.0}, step=2)
    assert runs[0].id == runs[1].id == runs[2].id != runs[3].id


def test_without_the_package_metrics_are_dropped_with_one_line(monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name == "wandb" else real(name))
    logger = WandbLogger()
    for step in (1, 2):
        logger.log_metrics({"loss": 1.0}, step=step)
    logger.log_hyperparams({"a": 1})
    logger.log_policy("policy.pt")
    logger.finalize("success")
    assert capsys.readouterr().err.count("wandb is not installed") == 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_the_real_package(monkeypatch, tmp_path: Path, mode: str):
    monkeypatch.setenv("WANDB_MODE", mode)
    policy = tmp_path / "policy.pt"
    policy.write_bytes(b"weights")
    ids = []
    for session in range(2):
        logger = WandbLogger(save_dir=str(tmp_path / "run"))
        if session:
            logger.resume_at(1)
        logger.log_hyperparams({"config": {"model": {"tau": 0.1}}})
        logger.log_metrics({"loss": 1.0}, step=1 + session)
        logger.log_policy(policy)
        ids.append(logger.run_id)
        logger.finalize("success")
    made = sorted((tmp_path / "run" / "wandb").glob("offline-run-*")) if mode == "offline" else []
    if mode == "offline":
        assert ids[0] == ids[1] and made
        assert all((path / f"run-{ids[0]}.wandb").stat().st_size > 0 for path in made)
