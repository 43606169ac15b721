"""What a checkpoint given to ``offrl fit`` may decide, and what the command line decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_offrl.cli.fit.run_directory import home_of
from lightning_offrl.training import old_names
from lightning_offrl.training.files import read_checkpoint

_SCHEDULED = ("T_max", "total_iters", "total_steps")


class CommandLineDecides(Callback):
    """After a resume, the command line's learning rates and schedules hold, not those stored with the optimizers.

    Restoring an optimizer restores its learning rate, and restoring a schedule its horizon: a changed
    ``model.learning_rate`` or ``trainer.max_steps`` would be ignored without a word. Where they are unchanged, nothing
    is touched, so that the run goes on bit for bit.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the learning rates and schedules of the command line, before Lightning restores the checkpoint's."""
        self._rates = [[_base_rate(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers]
        self._horizons = [
            {name: vars(config.scheduler)[name] for name in _SCHEDULED if name in vars(config.scheduler)}
            for config in trainer.lr_scheduler_configs
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the learning rates and schedules of the command line where the checkpoint changed them."""
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


def warn_of_changes(checkpoint: Path, hyper_parameters: dict[str, Any], data: dict[str, Any]) -> list[str]:
    """Say in one sentence what differs from the run that the checkpoint belongs to.

    Args:
        checkpoint: The file; its run directory, if it lies in one, has the configuration of the data.
        hyper_parameters: The constructor arguments of the model that the command line built.
        data: The ``data`` section of the command line's configuration.

    Returns:
        The names that differ, ``spec`` aside: other spaces are refused elsewhere.
    """
    saved = read_checkpoint(checkpoint).get("hyper_parameters", {})
    changes = {
        name: (saved[name], hyper_parameters[name]) for name in saved.keys() & hyper_parameters.keys() - {"spec"}
    }
    if (home := home_of(str(checkpoint))) is not None:
        written = yaml.safe_load((home / "config.yaml").read_text(encoding="utf-8")) or {}
        before = old_names.configuration(written).get("data", {})
        changes |= {f"data.{name}": (before[name], data[name]) for name in before.keys() & data.keys()}
    changes = {name: pair for name, pair in changes.items() if _plain(pair[0]) != _plain(pair[1])}
    if changes:
        listed = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in sorted(changes.items()))
        rank_zero_warn(
            f"the command line differs from {checkpoint} ({listed}): the new values hold from here on, so this is no "
            "exact resumption"
        )
    return sorted(changes)


def _plain(values: Any) -> Any:
    """The values with lists in place of tuples, which YAML does not tell apart."""
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    return [_plain(value) for value in values] if isinstance(values, list | tuple) else values
