"""Sanity of values: bounds, slopes, gaps, drift, disagreement, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_offrl.diagnostics.values import (
    disagreement,
    initial_value,
    offline_online_gap,
    q_bounds,
    q_calibration,
    q_drift,
    q_gap,
    value_range,
)
from lightning_offrl.envs.gridworld.environment import GridWorld
from lightning_offrl.errors import InputError


def test_the_range_of_discounted_sums() -> None:
    rewards = torch.tensor([-2.0, 0.5, 3.0])
    assert value_range(rewards, 0.9, ends=True) == pytest.approx((-20.0, 30.0))
    assert value_range(rewards, 0.9, ends=True, longest=2) == pytest.approx((-3.8, 5.7))
    assert value_range(rewards, 1.0, ends=True, longest=4) == (-8.0, 12.0)
    # All rewards positive: an episode that may end after one step earns that one at least, an endless one all.
    positive = torch.tensor([1.0, 2.0])
    assert value_range(positive, 0.5, ends=True) == (1.0, 4.0)
    assert value_range(positive, 0.5, ends=False) == (2.0, 4.0)
    with pytest.raises(InputError, match="without a discount"):
        value_range(rewards, 1.0, ends=True)


def test_true_values_lie_in_their_range() -> None:
    """Of every policy of a process that is known, with room for none other where the bound is reached."""
    world = GridWorld("cliff")
    _, q = world.mdp.policy_value(world.mdp.behavior_policy(0.3), 0.9)
    live = torch.as_tensor(q[~world.mdp.terminal])
    low, high = value_range(torch.tensor([-1.0, -101.0]), 0.9, ends=True)
    assert float(live.min()) >= low and float(live.max()) <= high
    assert q_bounds(live, low, high).value == 0.0


def test_q_outside_its_bounds() -> None:
    q = torch.zeros(1_000)
    q[:4] = 1.2
    found = q_bounds(q, -1.0, 1.0)  # a tenth of the range of 2 is let pass
    assert found.value == 0.0 and found.level == "ok" and found.numbers["q_mean"] == pytest.approx(0.0048)
    q[:4] = 1.3
    assert q_bounds(q, -1.0, 1.0).value == pytest.approx(0.004) and q_bounds(q, -1.0, 1.0).level == "caution"
    assert q_bounds(q + 5.0, -1.0, 1.0).level == "alarm"
    q[0] = math.nan
    broken = q_bounds(q, -1.0, 1.0)
    assert "not finite" in broken.reading and "shift/q_mean" not in broken.metrics()
    assert q_bounds(torch.full((3,), math.inf), -1.0, 1.0).value == 1.0


def test_calibration_is_the_slope_of_returns_on_q() -> None:
    """Noise in the returns costs no slope; Q twice as steep as the returns has slope 1/2."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(20_000, generator=generator)
    noise = 3.0 * torch.randn(20_000, generator=generator)
    found = q_calibration(value, value + noise)
    assert found.value == pytest.approx(1.0, abs=4 * 3.0 / math.sqrt(20_000)) and found.level == "ok"
    assert found.numbers["q_correlation"] == pytest.approx(1.0 / math.sqrt(10.0), abs=0.03)
    steep = q_calibration(2.5 * value + 7.0, value)
    assert steep.value == pytest.approx(0.4) and steep.level == "caution"
    assert steep.numbers["q_offset"] == pytest.approx(float((1.5 * value + 7.0).mean()), abs=1e-4)
    assert "above" in steep.reading
    assert q_calibration(-value, value).level == "alarm"
    assert q_calibration(torch.ones(50), value[:50]).level == "unknown"
    assert q_calibration(torch.full((50,), math.nan), value[:50]).level == "unknown"


def test_true_q_of_the_behavior_is_calibrated() -> None:
    world = GridWorld("four-rooms", slip=0.3)
    policy = world.mdp.behavior_policy(0.7)
    _, q = world.mdp.policy_value(policy, 0.95)
    drawn = world.mdp.sample_transitions(policy, 2_000, 400, seed=0)
    assert drawn["terminated"].sum() == 2_000
    returns, following = torch.zeros(len(drawn["state"])), 0.0
    for i in range(len(returns) - 1, -1, -1):
        following = drawn["reward"][i] + 0.95 * (0.0 if drawn["terminated"][i] else following)
        returns[i] = following
    found = q_calibration(torch.as_tensor(q[drawn["state"], drawn["action"]]), returns)
    assert found.value == pytest.approx(1.0, abs=0.05) and abs(found.numbers["q_offset"]) < 0.1


def test_gap() -> None:
    q_data = torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = q_gap(q_data + torch.tensor([1.0, 1.0, 4.0, -2.0]), q_data, 2.0)
    assert found.numbers == {"q_gap": 1.0, "q_gap_positive": 0.75} and found.value == 0.5 and found.level == "ok"
    assert q_gap(q_data + 7.0, q_data, 2.0).level == "alarm"
    assert q_gap(q_data, q_data, 0.0).level == "unknown"


def test_drift() -> None:
    looks = [1_000, 2_000, 3_000, 4_000, 5_000]
    assert q_drift(looks, [1.0, 5.0, 9.0, 10.0, 10.2]).value == pytest.approx(0.2 / 10.2)
    assert q_drift(looks, [1.0, 2.0, 3.0, 4.0, 8.0]).level == "alarm"
    assert q_drift(looks, [0.0, 0.0, 0.0, 0.0, math.nan]).value == math.inf
    assert q_drift([100], [3.0]).level == "unknown"
    assert q_drift([100, 10_000], [3.0, 3.3]).value == pytest.approx(0.3 / 3.3)  # the first look is all there is
    assert q_drift([10, 20], [-4.0, 4.0]).level == "alarm"


def test_initial_value() -> None:
    returns = torch.tensor([0.0, 1.0, 2.0])
    assert initial_value(torch.tensor([1.5, 1.7]), returns).level == "ok"
    above = initial_value(torch.tensor([2.5, 2.5]), returns)
    assert above.level == "caution" and above.numbers["v0_over_best"] == pytest.approx(0.5)
    assert initial_value(torch.tensor([3.5]), returns).level == "alarm"
    assert initial_value(torch.tensor([math.nan]), returns).level == "alarm"
    alike = torch.tensor([-5.4, -5.2])  # 0.1 of spread, but 0.52 is a tenth of the best
    levels = [initial_value(torch.tensor([v]), alike).level for v in (-5.3, -5.0, -4.6)]
    assert levels == ["ok", "caution", "alarm"]


def test_disagreement() -> None:
    generator = torch.Generator().manual_seed(0)
    data, chosen = (torch.randn(5, 4_000, generator=generator) for _ in range(2))
    same = disagreement(chosen, data)
    assert same.value == pytest.approx(1.0, abs=0.05) and same.numbers["disagreement_beyond"] == pytest.approx(
        0.01, abs=0.01
    )
    assert disagreement(3.0 * chosen + 100.0, data).value == pytest.approx(3.0, rel=0.05)
    assert disagreement(9.0 * chosen, data).level == "alarm"
    vector = disagreement(torch.randn(5, 500, 3, generator=generator), torch.randn(5, 500, 3, generator=generator))
    assert vector.value == pytest.approx(1.0, abs=0.1)
    assert disagreement(data[:1], data[:1]).level == disagreement(data[[0, 0]], data[[0, 0]]).level == "unknown"


def test_offline_online_gap() -> None:
    online = torch.tensor([1.0, 2.0, 3.0, 2.0])
    ok = offline_online_gap(online + torch.tensor([0.1, -0.1, 0.1, -0.1]), online)
    assert ok.value == pytest.approx(0.0, abs=1e-6) and ok.level == "ok"
    over = offline_online_gap(online + 5.0 + torch.tensor([0.1, -0.1, 0.1, -0.1]), online, tail=0.13)
    assert over.value == pytest.approx(5.0) and over.level == "alarm" and "13%" in over.reading
    assert over.numbers["online_gap_se"] == pytest.approx(math.sqrt(0.04 / 3 / 4), rel=1e-4)
    assert offline_online_gap(online + 0.3 + torch.tensor([0.1, -0.1, 0.1, -0.1]), online).level == "caution"
    assert offline_online_gap(online[:1], online[:1]).level == "unknown"
