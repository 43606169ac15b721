"""Periods are given in gradient updates; Lightning counts some in batches, here blocks of K updates."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_offrl.errors import InputError

MAX_BLOCK = 50
"""K where nothing asks for less: at 7 ms an update a block lasts a third of a second."""


def periods_of(trainer: Any) -> dict[str, int]:
    """Every period of a trainer that must fall on the end of a block, in gradient updates, by the name to change it."""
    periods: dict[str, int] = {}
    if trainer.loggers:
        periods["trainer.log_every_n_steps"] = int(trainer.log_every_n_steps)
    if isinstance(trainer.val_check_interval, int) and trainer.enable_validation:
        periods["trainer.val_check_interval"] = trainer.val_check_interval
    for callback in trainer.callbacks:
        every = callback._every_n_train_steps if isinstance(callback, ModelCheckpoint) else None
        every = getattr(callback, "every", every)
        if isinstance(every, int) and every > 0:
            periods[f"{type(callback).__name__}.every"] = every
    return {name: period for name, period in periods.items() if period > 0}


def block_size(periods: dict[str, int], asked: int | None) -> int:
    """The number K of updates per Lightning step.

    Args:
        periods: as `periods_of` gives them.
        asked: K as the user set it, or None to choose the largest K up to 50 that divides every period.

    Raises:
        InputError: if ``asked`` does not divide a period; names the largest smaller K that divides all.
    """
    common = math.gcd(*periods.values()) if periods else MAX_BLOCK
    if asked is None:
        return max(k for k in range(1, MAX_BLOCK + 1) if common % k == 0)
    if asked < 1:
        raise InputError(f"data.updates_per_step must be at least 1, got {asked}")
    for name, period in periods.items():
        if period % asked:
            fits = max(k for k in range(1, asked + 1) if common % k == 0)
            raise InputError(
                f"{name} is {period} updates, which blocks of data.updates_per_step={asked} do not divide; "
                f"use data.updates_per_step={fits} or a multiple of {asked}"
            )
    return asked
