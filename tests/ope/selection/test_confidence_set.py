"""Which policies may be the best: Dunnett's constants, pairing, near-duplicates, and how often the best is missed."""

from __future__ import annotations

import pytest
import torch

from lightning_offrl.ope.estimate import Row
from lightning_offrl.ope.selection.confidence_set import gaps, gaps_of
from lightning_offrl.ope.weighting.importance import plain
from lightning_offrl.ope.weighting.intervals import Interval

# one-sided 5 %, equal errors, many of them: 1, 2, 5 and 9 rivals (Dunnett, 1955, table 1a, infinite degrees of freedom)
DUNNETT = {1: 1.64, 2: 1.92, 5: 2.23, 9: 2.42}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("rivals", DUNNETT)
def test_critical_values_are_dunnetts(rivals: int):
    found = gaps(torch.zeros(rivals + 1).double(), normal(rivals + 1, 40_000))
    assert found.critical.mean().item() == pytest.approx(DUNNETT[rivals], abs=0.015)
    assert found.error[0, 1].item() == pytest.approx(2**0.5, rel=0.02)


def test_near_duplicates_cost_nothing():
    draws = normal(2, 20_000)
    two = gaps(torch.tensor([0.0, 1.0]).double(), draws)
    many = gaps(torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0]).double(), draws[[0, 1, 1, 1, 1]])
    assert many.critical[0, 1].item() == pytest.approx(two.critical[0, 1].item(), abs=1e-9)
    assert many.kept.tolist() == [True] * 5 and many.regret[1].item() > 0.0  # the equal ones do not rule each other out


def test_what_is_shared_cancels():
    """Values 1 apart, each uncertain by 10, but by the same: one is surely worse; as if independent it is not."""
    shared, own = 10.0 * normal(1, 2000), 0.1 * normal(2, 2000, seed=1)
    values = torch.tensor([4.0, 5.0]).double()
    assert gaps(values, values[:, None] + shared + own).kept.tolist() == [False, True]
    assert gaps(values, values[:, None] + 10.0 * normal(2, 2000)).kept.tolist() == [True, True]


def test_two_by_hand():
    """Differences of -1.5 and 1.5 in turn: error 1.5, c = 1; so 1.4 behind may be chance and 1.6 is not."""
    signs = torch.tensor([1.5, -1.5]).double().repeat(5000)
    for behind, kept in ((1.4, True), (1.6, False)):
        values = torch.tensor([0.0, behind]).double()
        found = gaps(values, torch.stack([0.0 * signs, behind + signs]))
        assert found.kept.tolist() == [kept, True]
        assert found.regret.tolist() == pytest.approx([behind + 1.5, 1.5 - behind if kept else 0.0], abs=1e-3)


def test_no_difference_at_all():
    same = normal(1, 1000).expand(3, 1000)
    found = gaps(torch.tensor([0.0, 0.0, -1.0]).double(), same + torch.tensor([[0.0], [0.0], [-1.0]]))
    assert found.kept.tolist() == [True, True, False]  # a constant distance is no chance
    assert found.regret.tolist() == pytest.approx([0.0, 0.0, 1.0])


@pytest.mark.parametrize("apart", [0.0, 1.0])
def test_the_best_is_in_the_set_as_often_as_promised(apart: float):
    """Six correlated estimates, the truth 0 for the first, ``apart`` less for the others: 95 % where all are equal."""
    mixing = 0.6 * torch.eye(6).double() + 0.4
    truth = -apart * (torch.arange(6) > 0).double()
    draws = normal(1500, 6, seed=3) @ mixing.T
    resamples = (normal(300, 6, seed=4) @ mixing.T).T
    found = [gaps(truth + error, (truth + error)[:, None] + resamples) for error in draws]
    held = sum(bool(one.kept[0]) for one in found) / len(found)
    error = (0.95 * 0.05 / len(found)) ** 0.5
    if apart:
        assert held > 0.95
    else:
        assert held == pytest.approx(0.95, abs=3 * error + 0.015)  # 300 resamples, too, are a draw


def fit(value: float, resampled: torch.Tensor, counts: torch.Tensor) -> Row:
    low = Interval(value - 1.0, value + 1.0, 0.95, "refits")
    return Row("fqe", "values", value, "eligible", low, resampled=resampled, counts=counts)


def test_few_refits_have_students_quantile():
    counts = torch.ones(10, 4).double()
    rows = [fit(v, v + normal(10, seed=i), counts) for i, v in enumerate((1.0, 2.0, 3.0))]
    found = gaps_of(rows)
    assert found.critical[0, 1].item() == pytest.approx(2.2622, abs=1e-4)  # t of 9 at 1 - 0.05 / 2
    expected = float((rows[0].resampled - rows[2].resampled).std())
    assert found.error[0, 2].item() == found.error[2, 0].item() == pytest.approx(expected)
    two = gaps_of(rows[:2])
    assert two.critical[0, 1].item() == pytest.approx(1.8331, abs=1e-4)  # t of 9 at 0.95


def test_a_fit_is_paired_with_weights_in_its_own_resamples():
    counts = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0], [1.0, 1.0, 1.0]]).double()
    terms = plain(torch.tensor([1.0, 2.0, 6.0]).double())
    weighted = Row("wis", "weights", 3.0, "eligible", Interval(0.0, 6.0, 0.95, ""), terms=terms)
    weighted.resampled = normal(1000)
    fitted = fit(4.0, torch.tensor([3.0, 5.0, 4.0]).double(), counts)
    # the mean in its resamples is 8/3, 2, 3: differences 1/3, 3, 1
    found = gaps_of([weighted, fitted])
    assert found.error[0, 1].item() == pytest.approx(torch.tensor([1 / 3, 3.0, 1.0]).std().item())
    assert found.critical[1, 0].item() == pytest.approx(2.9200, abs=1e-4)  # t of 2 at 0.95


def test_without_common_resamples_as_if_independent():
    first = fit(4.0, 0.3 * normal(20), torch.ones(20, 5).double())
    second = fit(5.0, 0.4 * normal(30, seed=1), torch.ones(30, 7).double())
    assert first.resampled is not None and second.resampled is not None
    expected = (first.resampled.var() + second.resampled.var()).sqrt().item()
    assert gaps_of([first, second]).error[0, 1].item() == pytest.approx(expected)
    only = [Row("wis", "weights", v, "eligible", Interval(v - 1.96, v + 1.96, 0.95, "")) for v in (0.0, 1.0)]
    assert gaps_of(only).error[0, 1].item() == pytest.approx(2**0.5, rel=1e-4)
    assert gaps_of(only[:1]).kept.tolist() == [True] and gaps_of(only[:1]).regret.tolist() == [0.0]
