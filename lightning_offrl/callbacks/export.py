"""Export of the trained policy to ``policy.pt`` at the end of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback


class ExportPolicy(Callback):
    """Writes the trained policy, which needs no configuration to act, and hands it to loggers that keep files.

    A run of several stacked seeds gets ``policies/seed0.pt``, ``policies/seed1.pt``, ... besides ``policy.pt``, which
    is that of the first seed: choosing the best one by its score would report the luckiest.

    Args:
        filename: The path, relative to the trainer's ``default_root_dir``, which is the run directory.
    """

    def __init__(self, filename: str = "policy.pt") -> None:
        self.filename = filename

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the file or files."""
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        from lightning_offrl.policy import export_policy

        path = Path(trainer.default_root_dir) / self.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        lead = tuple(pl_module.lead)
        for seed in range(lead[0] if lead else 0):
            one = path.parent / "policies" / f"seed{seed}{path.suffix}"
            one.parent.mkdir(exist_ok=True)
            export_policy(pl_module, one, seed_index=seed)
        export_policy(pl_module, path, seed_index=0 if lead else None)
        for logger in trainer.loggers:
            if hasattr(logger, "log_policy"):
                logger.log_policy(path)
