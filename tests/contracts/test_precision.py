"""float16 with a gradient scaler: one scale per update, and the gradients of float32 (peers 5.1)."""

from __future__ import annotations

from contextlib import nullcontext

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from .pages import distance, every_algorithm, fit, small


class ScaledOnly(MixedPrecision):
    """The scaler without autocast: with powers of two the result must be that of float32."""

    def forward_context(self):
        return nullcontext()


def scaled(kind, **scaler):
    return kind("16-mixed", "cpu", torch.amp.GradScaler("cpu", **scaler))


@every_algorithm
@pytest.mark.parametrize("clip", [None, 0.1])
def test_scaling_alone_equals_float32(algorithm, clip):
    """The scale doubles after every update: any network that were unscaled by another's scale would drift.

    Clipping sees true gradients, not scaled ones.
    """
    model = {"clip_grad_norm": clip}
    plain, _ = fit(algorithm, steps=20, model=model)
    plugin = scaled(ScaledOnly, growth_interval=1, init_scale=2.0**10)
    amp, _ = fit(algorithm, steps=20, model=model, plugins=[plugin])
    assert plugin.scaler.get_scale() == 2.0**30, "one growth per update, whatever the number of optimizers"
    assert distance(plain.state_dict(), amp.state_dict()) < 1e-6


class Steep(pl.Callback):
    """Multiplies every loss, so that scaled gradients overflow for every algorithm."""

    def on_train_start(self, trainer, pl_module):
        plain = pl_module.minimize
        pl_module.minimize = lambda **losses: plain(**{name: 1e6 * loss for name, loss in losses.items()})


@every_algorithm
def test_overflow_skips_the_steps_and_halves_the_scale_once_per_update(algorithm):
    plugin = scaled(ScaledOnly, init_scale=2.0**127)
    page, trainer = fit(algorithm, steps=3, plugins=[plugin], callbacks=[Steep()])
    assert trainer.global_step == 3
    assert plugin.scaler.get_scale() == 2.0**124
    fresh = algorithm(page.spec, **small(algorithm))
    assert distance(dict(page.named_parameters()), dict(fresh.named_parameters())) == 0.0


@every_algorithm
def test_float16_autocast_follows_float32(algorithm):
    """Real float16 products: after 20 updates within 20 of Adam's largest steps each way, and closer on average."""
    plain, _ = fit(algorithm, steps=20)
    amp, _ = fit(algorithm, steps=20, plugins=[scaled(MixedPrecision)])
    for name, optimizer in plain._optimizers.items():
        rate = max(3e-4, optimizer.param_groups[0]["lr"])  # a cosine has brought its own to zero by now
        for one, other in zip(plain._parameters_of(name), amp._parameters_of(name), strict=True):
            difference = (one.double() - other.double()).abs()
            assert difference.max() <= 2 * 20 * rate, name
            assert difference.mean() < 5 * rate, name
    assert all(p.dtype == torch.float32 for p in amp.parameters())
