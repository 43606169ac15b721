"""Three results of a run, kept apart: the last policy, the best by the environment, and the one chosen offline."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_offrl.callbacks.evaluate_env import EvaluateEnv
from lightning_offrl.callbacks.evaluate_ope import EvaluateOPE
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.files import write_atomically


class RunSummary(Callback):
    """Writes ``summary.json`` at the end of a run that was evaluated, and says the same in up to three lines.

    There are three policies, and each supports another claim:

        last                   no choice was made; what papers report
        best_by_environment    the best of many noisy evaluations: too high, and not to be had without the environment
        chosen_offline         the largest lower bound of `EvaluateOPE`; what the environment said of *this* policy, if
                               it was asked then, is a fair value, for it took no part in the choice

    Each has its gradient updates, its checkpoint where one was kept, and ``return`` and ``score`` of the environment
    where it was evaluated at these updates; what was estimated offline stands under ``ope``. Without `EvaluateEnv` or
    `EvaluateOPE` nothing is written.

    Args:
        filename: The path, relative to the trainer's ``default_root_dir``.
    """

    def __init__(self, filename: str = "summary.json") -> None:
        self.filename = filename

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file and print the sentences."""
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        found = summary(trainer, cast(OfflineAlgorithm, pl_module).updates)
        if not found:
            return
        text = json.dumps(found, indent=1, allow_nan=False) + "\n"
        path = Path(trainer.default_root_dir) / self.filename
        write_atomically(path, memoryview(text.encode()), what="the summary of the run")
        for sentence in sentences(found):
            rank_zero_info(sentence)


def summary(trainer: Trainer, updates: int) -> dict[str, dict[str, Any]]:
    """``last``, ``best_by_environment`` and ``chosen_offline``, as far as the run has them, as plain values.

    Args:
        trainer: The trainer with the callbacks of the run.
        updates: The number of gradient updates made.
    """
    played = next((c for c in trainer.callbacks if isinstance(c, EvaluateEnv) and c.curve), None)  # type: ignore[attr-defined]
    offline = next((c for c in trainer.callbacks if isinstance(c, EvaluateOPE) and c.curve), None)  # type: ignore[attr-defined]
    if played is None and offline is None:
        return {}

    def entry(at: int) -> dict[str, Any]:
        out: dict[str, Any] = {"updates": at, "checkpoint": _checkpoint(trainer, at, last=at == updates)}
        for point in played.curve if played is not None else ():
            if point.updates == at and math.isfinite(point.mean):
                out |= {"return": point.mean, "episodes": sum(map(len, point.returns))}
                out |= {} if point.score is None else {"score": point.score}
        metrics = dict(offline.curve).get(at) if offline is not None else None
        if metrics is not None:
            out["ope"] = {name: value for name, value in metrics.items() if math.isfinite(value)}
        return out

    out = {"last": entry(updates)}
    if played is not None and played.best is not None:
        out["best_by_environment"] = entry(played.best.updates) | {"evaluations": len(played.curve)}
    if offline is not None and offline.chosen is not None:
        out["chosen_offline"] = entry(offline.chosen) | {"by": offline.choose_by, "evaluations": len(offline.curve)}
    return out


def sentences(found: dict[str, dict[str, Any]]) -> list[str]:
    """One sentence for each policy in `summary`."""
    out = []
    for name, one in found.items():
        parts = [f"update {one['updates']:,}"]
        key = "score" if "score" in one else "return"
        if key in one:
            parts.append(f"{key} {one[key]:.4g}")
        elif name != "last":
            parts.append("not played in the environment")
        if name == "best_by_environment" and one["evaluations"] > 1:
            parts.append(f"the best of {one['evaluations']}, so too high")
        if name == "chosen_offline":
            parts.append(f"the largest {one['by']} of {one['evaluations']}: {one['ope'][one['by']]:.4g}")
        if one["checkpoint"] is not None:
            parts.append(one["checkpoint"])
        out.append(f"{name.replace('_', ' ')}: {', '.join(parts)}")
    return out


def _checkpoint(trainer: Trainer, updates: int, last: bool) -> str | None:
    """The checkpoint that was kept of a policy, relative to the run directory if it lies in there."""
    root = Path(trainer.default_root_dir)
    for callback in trainer.checkpoint_callbacks:
        folder = getattr(callback, "dirpath", None) if isinstance(callback, ModelCheckpoint) else None
        for name in (f"step={updates}.ckpt", *(("last.ckpt",) if last else ())):
            if folder is not None and (Path(folder) / name).is_file():
                path = Path(folder) / name
                inside = path.resolve().is_relative_to(root.resolve())
                return str(path.resolve().relative_to(root.resolve()) if inside else path)
    return None
