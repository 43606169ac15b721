"""A logger for Weights & Biases that works with and without a key, and across interruptions."""

from __future__ import annotations

import importlib.util
import netrc
import os
import secrets
import sys
import warnings
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.loggers.logger import DummyExperiment, Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

STEP = "updates"
"""The x axis of every chart: gradient updates."""
_ID_FILE = "wandb_id.txt"


class WandbLogger(LightningWandbLogger):
    """Lightning's ``WandbLogger``, with three differences.

    * Without an API key (and without ``WANDB_MODE``) the run is kept offline in the run directory, and one line says
      so; without the ``wandb`` package nothing is sent, and one line says that.
    * The run's id is written into the run directory and the checkpoint, so that a resumed run goes on in the same W&B
      run.
    * Every chart's x axis is ``updates``, gradient updates; at the end of training ``policy.pt`` becomes an artifact.

    Args:
        project: The W&B project; None takes ``WANDB_PROJECT`` of the environment, or else ``lightning-offrl``.
        name: The name on display; None takes that of the run directory.
        save_dir: The directory in which wandb makes its ``wandb`` folder; None takes the run directory on the command
            line, and the current directory from Python.
        offline: Whether the run is kept offline; None means exactly if no key is found and ``WANDB_MODE`` is not set.
        id: The id of the W&B run to continue; None takes the one stored in the run directory, or else a new one.
        **kwargs: Further arguments of ``wandb.init`` (``entity``, ``group``, ``tags``, ...).
    """

    def __init__(
        self,
        project: str | None = None,
        name: str | None = None,
        save_dir: str | None = None,
        offline: bool | None = None,
        id: str | None = None,  # noqa: A002 (wandb's own word)
        **kwargs: Any,
    ) -> None:
        self._available = importlib.util.find_spec("wandb") is not None
        self._said = False
        if not self._available:
            Logger.__init__(self)
            self._save_dir, self._project, self._name, self._id, self._experiment = save_dir, project, name, id, None
            return
        super().__init__(
            project=project or os.environ.get("WANDB_PROJECT", "lightning-offrl"),
            name=name,
            save_dir=save_dir or ".",
            offline=_offline(offline),
            id=id,
            **kwargs,
        )
        self._save_dir = save_dir

    def use_run_dir(self, run_dir: str) -> None:
        """Keep wandb's files and the run's id in ``run_dir`` unless a directory was given to the constructor."""
        self._save_dir = self._save_dir or run_dir
        self._name = self._name or Path(run_dir).name

    @rank_zero_only
    def resume_at(self, step: int, run_id: str | None = None) -> None:
        """Continue the W&B run whose id the run directory holds, or else the checkpoint.

        Args:
            step: The number of gradient updates that the checkpoint has made.
            run_id: The id stored in the checkpoint.
        """
        self._id = self._id or self._stored_id() or run_id

    @property
    def run_id(self) -> str | None:
        """The id of the W&B run, for the checkpoint; None where there is no run."""
        return self._id if self._experiment is not None else None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The ``wandb`` run, which begins when something of it is first used.

        It must not begin sooner: Lightning asks for it before it reads the checkpoint with the id of the run.
        """
        if not self._available:
            self._say("wandb is not installed: metrics go to metrics.csv alone (pip install wandb to have both)")
            return DummyExperiment()
        return _Later(self) if self._experiment is None else self._experiment

    def begin(self) -> Any:
        """Start, or continue, the ``wandb`` run."""
        if self._experiment is not None:
            return self._experiment
        import wandb

        mode = os.environ.get("WANDB_MODE") or ("offline" if self._offline else "online")
        directory = Path(self._save_dir or ".")
        directory.mkdir(parents=True, exist_ok=True)
        self._id = self._id or secrets.token_hex(4)
        settings = wandb.Settings(silent=True, console="off") if mode != "online" else wandb.Settings()
        options = {key: value for key, value in self._wandb_init.items() if key != "anonymous" and value is not None}
        options |= {"dir": str(directory), "id": self._id, "name": self._name, "mode": mode, "resume": "allow"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # wandb's own
            self._experiment = wandb.init(**{"settings": settings, **options})
        if mode == "disabled":
            return self._experiment
        (directory / _ID_FILE).write_text(f"{self._id}\n", encoding="utf-8")
        self._experiment.define_metric(STEP)
        self._experiment.define_metric("*", step_metric=STEP, step_sync=True)
        if mode == "offline" and os.environ.get("WANDB_MODE") is None:
            self._say(
                f"W&B: no API key, so the run is kept offline; upload it with: wandb sync {directory}/wandb/offline*"
            )
        return self._experiment

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Add ``params`` to the run's config."""
        if self._available:
            super().log_hyperparams(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send ``metrics`` at ``step`` gradient updates."""
        values = {key: value for key, value in metrics.items() if key != "epoch"}
        if values:
            self.experiment.log(values if step is None else {**values, STEP: step})

    @rank_zero_only
    def log_policy(self, path: str | Path) -> None:
        """Store an exported policy file as an artifact of type ``policy``."""
        if not self._available or getattr(self.experiment, "disabled", False):
            return
        import wandb

        artifact = wandb.Artifact(name=f"policy-{self._id}", type="policy")
        artifact.add_file(str(path), name=Path(path).name)
        self.experiment.log_artifact(artifact)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the W&B run, so that the process can start another; a later call continues it."""
        if self._available:
            super().finalize(status)
            if self._experiment is not None:
                self._experiment.finish(exit_code=0 if status == "success" else 1)
        self._experiment = None

    def _stored_id(self) -> str | None:
        file = Path(self._save_dir or ".") / _ID_FILE
        return file.read_text(encoding="utf-8").strip() or None if file.exists() else None

    def _say(self, sentence: str) -> None:
        if not self._said:
            print(sentence, file=sys.stderr, flush=True)
        self._said = True


class _Later:
    """Stands for a run that has not begun; any use of it begins it."""

    def __init__(self, logger: WandbLogger) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger.begin(), name)


def _offline(wanted: bool | None) -> bool:
    return not _has_key() if wanted is None and not os.environ.get("WANDB_MODE") else bool(wanted)


def _has_key() -> bool:
    """Whether wandb could log in without asking: it must never stop a training run with a prompt."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    file = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        return file.exists() and netrc.netrc(str(file)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
