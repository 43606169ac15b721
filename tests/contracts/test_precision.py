"""float16 with a gradient scaler: one scale per update, and the gradients of float32.

Lightning's plugin updates the scale once per optimizer: an overflow in the policy would halve the critics' scale.
"""

from __future__ import annotations

from contextlib import nullcontext

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from tests.contracts.pages import distance, every_algorithm, fit, small


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
    for name, optimizer in plain.optimizers_by_name.items():
        rate = max(3e-4, optimizer.param_groups[0]["lr"])  # a cosine has brought its own to zero by now
        for one, other in zip(plain.optimizer_set.parameters(name), amp.optimizer_set.parameters(name), strict=True):
            difference = (one.double() - other.double()).abs()
            assert difference.max() <= 2 * 20 * rate, name
            assert difference.mean() < 5 * rate, name
    assert all(p.dtype == torch.float32 for p in amp.parameters())


def test_densities_at_the_edge_of_the_box_are_finite_in_bfloat16():
    """Logged actions of 1: in bfloat16, 1 - 1e-6 rounds to 1 and log(1 - a^2) to -inf. Heads leave autocast before."""
    from lightning_offrl.networks.encoders import Encoder
    from lightning_offrl.networks.policies import SquashedGaussianPolicy

    spec = {"observation_shape": [3], "action_kind": "box", "action_size": 2}
    policy, x, edge = SquashedGaussianPolicy(Encoder(spec), 2, (16,)), torch.randn(64, 3), torch.ones(64, 2)
    assert torch.tensor(1 - 1e-6).bfloat16() == 1.0
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        low = policy(x)
        got = low.log_prob(edge)
    assert got.dtype == torch.float32 and got.isfinite().all()
    torch.testing.assert_close(got, policy(x).log_prob(edge), rtol=0.05, atol=0.5)


def test_weights_and_soft_maxima_are_float32_in_bfloat16():
    """exp(beta A), log-sum-exp, targets: every loss that an update returns has float32's digits."""
    from tests.contracts.pages import ALGORITHMS, batch_for, episodes_for

    for algorithm in ALGORITHMS.values():
        page = algorithm(episodes_for(algorithm).spec, **small(algorithm))
        page.evaluating = True
        page.draws.begin(0)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            metrics = page.update(batch_for(page))
        assert all(value.dtype == torch.float32 for value in metrics.values()), algorithm.__name__
