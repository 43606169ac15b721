"""What a checkpoint given to ``offrl fit`` may decide, and what the command line decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

_SCHEDULED = ("T_max", "total_iters", "total_steps")


class CommandLineDecides(Callback):
    """After a resume, the command line's learning rates and schedules hold, not those stored with the optimizers.

    Restoring an optimizer restores its learning rate, and restoring a schedule its horizon: a changed
    ``model.learning_rate`` or ``trainer.max_steps`` would be ignored without a word. Where they are unchanged, nothing
    is touched, so that the run goes on bit for bit.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what the command line asked for; Lightning restores afterwards."""
        self._rates = [[_base_rate(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers]
        self._horizons = [
            {name: vars(config.scheduler)[name] for name in _SCHEDULED if name in vars(config.scheduler)}
            for config in trainer.lr_scheduler_configs
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put it back where the checkpoint changed it."""
        for optimizer, rates in zip(trainer.optimizers, self._rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                before = _base_rate(group)
                if before != rate:
                    group["lr"] = group["lr"] * rate / before if before else rate
                    if "initial_lr" in group:
                        group["initial_lr"] = rate
        for config, horizons in zip(trainer.lr_scheduler_configs, self._horizons, strict=True):
            scheduler: Any = config.scheduler
            groups = scheduler.optimizer.param_groups
            rates = [_base_rate(group) for group in groups]
            changed = {name: value for name, value in horizons.items() if getattr(scheduler, name) != value}
            if rates == list(getattr(scheduler, "base_lrs", rates)) and not changed:
                continue
            scheduler.base_lrs = rates
            vars(scheduler).update(changed)
            if hasattr(scheduler, "_get_closed_form_lr"):
                for group, rate in zip(groups, scheduler._get_closed_form_lr(), strict=True):
                    group["lr"] = rate
            scheduler._last_lr = [group["lr"] for group in groups]


def _base_rate(group: dict[str, Any]) -> float:
    return float(group.get("initial_lr", group["lr"]))


def warn_of_changes(checkpoint: dict[str, Any], hyper_parameters: dict[str, Any], path: Path) -> list[str]:
    """Say in one sentence which constructor arguments differ from the checkpoint's.

    Args:
        checkpoint: its content.
        hyper_parameters: of the model that the command line built.
        path: of the checkpoint, for the sentence.

    Returns:
        The names that differ, ``spec`` aside: other spaces are refused elsewhere.
    """
    saved = checkpoint.get("hyper_parameters", {})
    same = _plain(saved), _plain(hyper_parameters)
    names = [name for name in saved.keys() & hyper_parameters.keys() if same[0][name] != same[1][name]]
    names = sorted(set(names) - {"spec"})
    if names:
        changes = ", ".join(f"{name} {saved[name]} -> {hyper_parameters[name]}" for name in names)
        rank_zero_warn(
            f"the command line differs from {path} ({changes}): the new values hold from here on, so this is no exact "
            "resumption"
        )
    return names


def _plain(values: Any) -> Any:
    """Tuples as lists: YAML knows no difference."""
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    return [_plain(value) for value in values] if isinstance(values, list | tuple) else values
