"""What is recorded during a fit of fitted Q evaluation, and the signs of a bad fit."""

from __future__ import annotations

import pytest
import torch

from lightning_offrl.batch import TRANSITION
from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.ope.direct.fqe import FQESettings, fqe
from lightning_offrl.ope.direct.fqe_algorithm import FQE
from lightning_offrl.ope.direct.fqe_monitor import FQEMonitor
from tests.ope.linear_quadratic import BEHAVIOR, TARGET

EPISODES = BEHAVIOR.episodes(20, 20, seed=4)


def monitor(seeds: int = 2) -> FQEMonitor:
    """Of an untrained network of three heads, rewards doubled and raised by 1."""
    module = FQE(EPISODES.spec, discount=0.9, hidden=(8,), seeds=3, seed=0).of(TARGET.policy())
    columns = OfflineDataModule(EPISODES, discount=0.9).columns(TRANSITION)
    columns["next", "reward"] = 2.0 * columns["next", "reward"] + 1.0
    return FQEMonitor(module, EPISODES, columns, torch.arange(400), seeds, (2.0, 1.0), 0)


def test_values_are_read_in_raw_rewards() -> None:
    """Transformed values are 2 V + 1 / (1 - gamma), and only the first two heads are averaged."""
    found = monitor()
    data = EPISODES.data
    with torch.no_grad():
        value = found.module.value(
            data["observation"].expand(3, 400, 2), data["action"].unsqueeze(1).expand(3, 400, 1, 2)
        )
    want = (value[:2, 0, :, 0, 0].double().mean(0) - 10.0) / 2.0
    torch.testing.assert_close(found.q(EPISODES), want, atol=1e-5, rtol=1e-5)
    assert found.first_values().shape == (3, 20)


def test_signs_of_a_bad_fit() -> None:
    found = monitor()
    for _ in range(10):
        found.record()
    still = found.first_values()
    numbers, flags = found.diagnose(still, 4.0, 0.9)
    assert numbers["drift"] == 0.0 and numbers["clipped"] == 0.0
    # with two actions each per state drawn anew, the Bellman error of a network at rest is nearly the same
    assert numbers["td_error_rise"] == pytest.approx(1.0, abs=0.2)
    assert not any("moved by" in flag or "too few" in flag or "diverged" in flag for flag in flags)
    assert any("too few updates" in flag for flag in found.diagnose(still, 2.0, 0.9)[1])
    assert any("not finite" in flag for flag in found.diagnose(torch.full_like(still, torch.nan), 4.0, 0.9)[1])
    high = found.diagnose(still + 1e6, 4.0, 0.9)[1]
    assert any("above the largest discounted return" in flag for flag in high)
    apart = still + torch.tensor([0.0, 1e6, 0.0]).unsqueeze(-1)
    assert any("seeds differ" in flag for flag in found.diagnose(apart, 4.0, 0.9)[1])
    found.trace.append(found.trace[-1] + 1e6)
    assert any("still moved by" in flag for flag in found.diagnose(still, 4.0, 0.9)[1])


def test_flags_of_a_short_fit() -> None:
    short = fqe(TARGET.policy(), EPISODES, discount=0.99, updates=60, settings=FQESettings(hidden=(8,), tau=0.005))
    assert any("too few updates" in flag for flag in short.flags)
