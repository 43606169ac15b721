"""Bandit estimators against formulas written out in plain loops, to 1e-12."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_offrl.errors import InputError
from lightning_offrl.ope.weighting.bandits import bandit_log, clipped, clipping_bias, shrunk, slope, switched
from lightning_offrl.ope.weighting.doubly_robust import direct, doubly_robust
from lightning_offrl.ope.weighting.importance import importance_sampling, plain

EXACT = 1e-12
N, A = 400, 4


@pytest.fixture(scope="module")
def log():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(N, A, generator=generator).double()
    behavior = torch.softmax(0.7 * logits, -1)
    target = torch.softmax(-logits, -1)
    action = torch.multinomial(behavior, 1, generator=generator).squeeze(-1)
    mean = torch.randn(N, A, generator=generator).double()
    reward = mean.gather(-1, action[:, None]).squeeze(-1) + 0.3 * torch.randn(N, generator=generator).double()
    q = mean + 0.5 * torch.randn(N, A, generator=generator).double()
    propensity = behavior.gather(-1, action[:, None]).squeeze(-1)
    return {"reward": reward, "action": action, "target": target, "propensity": propensity, "q": q}


def by_hand(log, weight=lambda w: w):
    """(w, r, q(x, a), E_pi q) of each round as Python floats."""
    for i in range(N):
        a = int(log["action"][i])
        w = float(log["target"][i, a]) / float(log["propensity"][i])
        model = sum(float(log["target"][i, b]) * float(log["q"][i, b]) for b in range(A))
        yield weight(w), float(log["reward"][i]), float(log["q"][i, a]), model


def test_inverse_propensity_weighting(log):
    data = bandit_log(**log)
    rounds = list(by_hand(log))
    assert importance_sampling(data).value == pytest.approx(math.fsum(w * r for w, r, _, _ in rounds) / N, abs=EXACT)
    expected = math.fsum(w * r for w, r, _, _ in rounds) / math.fsum(w for w, *_ in rounds)
    assert importance_sampling(data, normalized=True).value == pytest.approx(expected, abs=EXACT)
    assert direct(data).value == pytest.approx(math.fsum(v for *_, v in rounds) / N, abs=EXACT)


def test_doubly_robust(log):
    data = bandit_log(**log)
    rounds = list(by_hand(log))
    expected = math.fsum(v + w * (r - q) for w, r, q, v in rounds) / N
    assert doubly_robust(data).value == pytest.approx(expected, abs=EXACT)
    total = math.fsum(w for w, *_ in rounds)
    expected = math.fsum(v for *_, v in rounds) / N + math.fsum(w * (r - q) for w, r, q, _ in rounds) / total
    assert doubly_robust(data, normalized=True).value == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize(
    ("rule", "weight"),
    [
        (clipped, lambda bound: lambda w: min(w, bound)),
        (switched, lambda bound: lambda w: w if w <= bound else 0.0),
        (shrunk, lambda bound: lambda w: bound * w / (w * w + bound)),
    ],
)
@pytest.mark.parametrize("bound", [0.5, 3.0, 1e9])
def test_weights_that_are_kept_small(log, rule, weight, bound):
    data = bandit_log(**log)
    rounds = list(by_hand(log, weight(bound)))
    expected = math.fsum(w * r for w, r, _, _ in rounds) / N
    assert importance_sampling(data, rule=rule(bound)).value == pytest.approx(expected, abs=EXACT)
    expected = math.fsum(v + w * (r - q) for w, r, q, v in rounds) / N
    assert doubly_robust(data, rule=rule(bound)).value == pytest.approx(expected, abs=EXACT)
    total = math.fsum(w for w, *_ in rounds)
    expected = math.fsum(v for *_, v in rounds) / N + math.fsum(w * (r - q) for w, r, q, _ in rounds) / total
    assert doubly_robust(data, rule=rule(bound), normalized=True).value == pytest.approx(expected, abs=EXACT)


def test_bound_of_the_clipping_bias_by_hand(log):
    lost = math.fsum(w - min(w, 2.0) for w, *_ in by_hand(log)) / N
    assert clipping_bias(bandit_log(**log), clipped(2.0), (-1.0, 3.0)) == pytest.approx(4.0 * lost, abs=EXACT)


def test_slope_stops_where_intervals_no_longer_meet():
    def estimate(value: float, error: float):
        spread = error * math.sqrt(2)  # two numbers, value +- spread / sqrt(2): standard error = error
        return plain(torch.tensor([value - spread / math.sqrt(2), value + spread / math.sqrt(2)]).double())

    assert estimate(1.0, 0.5).standard_error == pytest.approx(0.5)
    # intervals of two errors: [-1, 3], [1, 2.2], [1.1, 1.3], [2.0, 2.1]: the last meets none
    ladder = [estimate(1.0, 1.0), estimate(1.6, 0.3), estimate(1.2, 0.05), estimate(2.05, 0.025)]
    assert slope(ladder) == 2
    assert slope(ladder[:2]) == 1


def test_impossible_propensities_are_refused(log):
    wrong = log["propensity"].clone()
    wrong[:3] = torch.tensor([0.0, 1.5, -0.1])
    with pytest.raises(InputError, match="3 propensities are not in"):
        bandit_log(**{**log, "propensity": wrong})
