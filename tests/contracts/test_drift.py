"""bf16-mixed leads no further from float32 than its number format does."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import pytest
import torch

from tests.contracts.pages import every_algorithm, fit

UPDATES = 50
ROUNDINGS = 3 * 3 * 3
"""In the longest chain of numbers, that of BCQ: decoder, perturbation and critic, three layers each, and in each layer
its inputs, its weights and its result are rounded to bfloat16 (sums inside are float32; everything else is float32)."""
BOUND = 3 * 2 * math.sqrt(ROUNDINGS) * torch.finfo(torch.bfloat16).eps / 2 / math.sqrt(3)
"""0.070. One rounding errs by at most half of eps = 2^-7, evenly spread: eps / 2 / sqrt(3) in the root mean square.
Independent errors of n factors add up as sqrt(n) (Higham and Mary, 2019, https://doi.org/10.1137/18M1226312). Losses
square what a network gives, so the relative error doubles. Three standard deviations."""


class Losses(pl.Callback):
    """Every loss of every update."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_start(self, trainer, pl_module):
        pl_module.log_now = lambda values: self.rows.append({k: v for k, v in values.items() if "loss" in k})


@pytest.mark.slow
@every_algorithm
def test_losses_in_bfloat16_drift_no_further_than_its_digits(algorithm, record_property):
    """Same initial values, batches and draws; the data has numbers of size one, so that is the smallest scale.

    Later losses come from other parameters, too: a loss is where it began plus its changes, each of them with the
    relative error of a gradient, so the bound holds in units of the largest loss of the run.
    """
    kept = []
    for precision in ("32-true", "bf16-mixed"):
        losses = Losses()
        fit(
            algorithm,
            steps=UPDATES,
            precision=precision,
            log_every_n_steps=1,
            callbacks=[losses],
            model={"compile": False},
        )
        assert len(losses.rows) == UPDATES
        kept.append(losses.rows)
    worst = {}
    for name in {name for row in kept[0] for name in row}:
        pairs = [(one[name], other[name]) for one, other in zip(*kept, strict=True) if name in one]
        scale = max(1.0, *(abs(one) for one, _ in pairs))
        worst[name] = max(abs(one - other) for one, other in pairs) / scale
    record_property("drift", worst)
    assert 0.0 < max(worst.values()) < BOUND, worst
