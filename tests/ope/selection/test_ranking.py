"""Measures of rankings by hand, and choices among evaluated policies."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_offrl.errors import InputError
from lightning_offrl.ope.estimate import Row
from lightning_offrl.ope.result import OPEResult
from lightning_offrl.ope.selection.ranking import (
    RANKINGS,
    compare,
    misjudged,
    rank_correlation,
    regret,
    regret_sum,
    sharpe_ratio,
)
from lightning_offrl.ope.verdict import OPEVerdict
from lightning_offrl.ope.weighting.intervals import Interval

# four policies: truth 10, 8, 4, 0; the estimate prefers the third and swaps the first two
TRUTH = torch.tensor([10.0, 8.0, 4.0, 0.0]).double()
ESTIMATE = torch.tensor([6.0, 7.0, 9.0, 1.0]).double()


def test_rank_correlation_by_hand():
    # ranks of the estimate 2, 3, 4, 1 and of the truth 4, 3, 2, 1: 1 - 6 (4 + 0 + 4 + 0) / (4 * 15) = 0.2
    assert rank_correlation(ESTIMATE, TRUTH) == pytest.approx(0.2)
    # with a tie, ranks 1.5 1.5 3 against 1 2 3: the correlation of the ranks, not the formula without ties
    assert rank_correlation(torch.tensor([1.0, 1.0, 5.0]), torch.tensor([0.0, 1.0, 2.0])) == pytest.approx(
        math.sqrt(0.75)
    )
    assert math.isnan(rank_correlation(torch.ones(3), TRUTH[:3]))


def test_rank_correlation_is_not_the_correlation_of_values():
    far = torch.tensor([0.0, 1.0, 2.0, 1000.0]).double()
    assert rank_correlation(far, torch.tensor([0.0, 10.0, 20.0, 21.0])) == pytest.approx(1.0)
    assert float(torch.corrcoef(torch.stack([far, torch.tensor([0.0, 10.0, 20.0, 21.0]).double()]))[0, 1]) < 0.7


def test_regret_by_hand():
    assert regret(ESTIMATE, TRUTH, 1) == pytest.approx(0.6)  # (10 - 4) / 10
    assert regret(ESTIMATE, TRUTH, 2) == pytest.approx(0.2)  # the better of 4 and 8
    assert regret(ESTIMATE, TRUTH, 3) == 0.0
    assert regret_sum(ESTIMATE, TRUTH, 2) == pytest.approx(18 - 12)


def test_misjudged_policies_by_hand():
    # above 5 are truly 2; the estimate says so of the first three: one of the two unsafe is called safe
    assert misjudged(ESTIMATE, TRUTH, 5.0) == (0.5, 0.0)
    assert misjudged(-ESTIMATE, TRUTH, 5.0) == (0.0, 1.0)


def test_sharpe_ratio_by_hand():
    # best two by estimate (9, 7): truths 4 and 8, mean 6, deviation 2; behavior 5, ranked below both
    assert sharpe_ratio(ESTIMATE, TRUTH, 5.0, 2) == pytest.approx((8 - 5) / 2)
    # a behavior worth 8.5 is among the best two: truths 4 and 8.5
    assert sharpe_ratio(ESTIMATE, TRUTH, 8.5, 2) == pytest.approx(0.0)
    with pytest.raises(InputError, match="at least 2"):
        sharpe_ratio(ESTIMATE, TRUTH, 5.0, 1)


def test_sharpe_ratio_tells_over_from_underestimation():
    """Both have the same error, rank correlation and regret@3; one takes a bad policy into its best three."""
    truth = torch.tensor([10.0, 9.0, 8.0, 2.0, 1.0]).double()
    under = torch.tensor([10.0, 9.0, 2.5, 2.6, 1.0]).double()  # a good policy thought bad
    over = torch.tensor([10.0, 9.0, 8.0, 8.1, 1.0]).double()  # a bad policy thought good
    assert rank_correlation(under, truth) == rank_correlation(over, truth) < 1.0
    assert regret(under, truth, 3) == regret(over, truth, 3) == 0.0
    careful = torch.tensor([10.0, 9.0, 7.0, 2.0, 1.0]).double()
    assert sharpe_ratio(careful, truth, 5.0, 3) > sharpe_ratio(over, truth, 5.0, 3)


def evaluation(value: float | None, half: float = 1.0, discount: float = 0.9) -> OPEResult:
    rows = [Row("naive", "baseline", 5.0, "baseline", Interval(4.0, 6.0, 0.95, "percentile"))]
    if value is None:
        rows.append(Row("wis", "weights", math.nan, "abstains", reasons=("few weights",)))
        verdict = OPEVerdict("ABSTAIN", "few weights")
    else:
        rows.append(Row("wis", "weights", value, "eligible", Interval(value - half, value + half, 0.95, "percentile")))
        verdict = OPEVerdict("SINGLE", "one", value - half, "wis")
    return OPEResult("p", "log", 100, discount, None, "logged", rows, verdict, (1.0, 5.0, 9.0, 9.5))


def test_choice_goes_by_lower_bounds_and_keeps_what_may_be_the_best():
    found = compare(
        {
            "wild": evaluation(9.0, 5.0),
            "sure": evaluation(8.0, 0.5),
            "poor": evaluation(3.0, 1.0),
            "none": evaluation(None),
        },
        {"wild": 4.0, "sure": 8.0, "poor": 3.0, "none": 1.0},
    )
    assert found.by_point == ["wild", "sure", "poor"] and found.by_lower == ["sure", "wild", "poor"]
    assert found.ranking == ["sure", "wild", "poor"] and found.chosen == "sure"
    # as if independent: errors 5 / 1.96, 0.5 / 1.96 and 1 / 1.96, two rivals at 0.975 each; wild leads poor by 6
    assert found.top == ["wild", "sure"]
    assert found.less_error[:3].tolist() == pytest.approx([9.0 - 5 / 1.96, 8.0 - 0.5 / 1.96, 3.0 - 1 / 1.96], abs=1e-4)
    z = 1.9623  # Student's t with 1,000 degrees of freedom
    assert found.regret[1].item() == pytest.approx(1.0 + z / 1.96 * math.hypot(5.0, 0.5), abs=1e-3)
    assert math.isnan(found.regret[3].item())
    assert found.measures["regret@1"] == pytest.approx(0.8)  # of the three with an estimate
    assert found.measures["regret@1 of all"] == pytest.approx(4 / 7)  # (8 - 4) / (8 - 1)
    table = found.table()
    assert "Choice    sure; worth 7.5 at least" in table and "evaluate it again" in table and "ABSTAIN" in table


def spoken_by_two(value: float, low: float, noisy: float, spread: float = 0.1) -> OPEResult:
    """``cwpdis`` with a lower bound, and ``pdis`` with a lower one; both seen in 1,000 resamples."""
    draws = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = evaluation(value, value - low)
    row = out.rows[1]
    row.name, row.resampled = "cwpdis", value + spread * draws
    out.rows.append(Row("pdis", "weights", value, "eligible", Interval(noisy, 99.0, 0.95, "percentile")))
    out.verdict = OPEVerdict("SINGLE", "one", min(low, noisy), "pdis")
    return out


def test_every_ranking_has_its_order():
    given = {
        "a": spoken_by_two(5.0, 4.3, 1.0, spread=0.7),
        "b": spoken_by_two(4.5, 4.2, 0.5),
        "c": spoken_by_two(4.0, 3.0, 2.0),
    }
    orders = {name: "".join(compare(given, rank_by=name).ranking) for name in RANKINGS}
    assert orders == {"less-error": "bac", "lower": "abc", "conservative": "cab", "value": "abc", "regret": "abc"}
    found, draws = compare(given), torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = float(draws.std())
    assert found.rank_by == "less-error" and found.less_error.tolist() == pytest.approx(
        [5.0 - 0.7 * one, 4.5 - 0.1 * one, 4.0 - 0.1 * one]
    )
    # b and c move alike, so c is surely 0.5 worse; b is 0.5 behind a, whose distance varies by 0.6
    far = 0.6 * float(draws.quantile(0.95))
    assert found.top == ["a", "b"] and found.regret[1:].tolist() == pytest.approx([0.5 + far, 1.0 + far], rel=1e-3)
    assert found.conservative.tolist() == [1.0, 0.5, 2.0] and "b; worth 0.5 at least" in found.table()
    for name, words in RANKINGS.items():
        assert words in " ".join(compare(given, rank_by=name).table().split())
    with pytest.raises(InputError, match="cannot be ranked by 'luck'; there are less-error"):
        compare(given, rank_by="luck")


def test_a_policy_without_an_interval_may_be_the_best_and_is_not_ranked():
    bare = evaluation(20.0)
    bare.rows[1].interval, bare.verdict = None, OPEVerdict("SINGLE", "one")
    found = compare({"a": evaluation(2.0), "bare": bare, "none": evaluation(None)})
    assert found.ranking == ["a"] and found.by_point == ["bare", "a"] and found.top == ["a", "bare"]
    assert found.chosen == "a" and [math.isnan(x) for x in found.lower.tolist()] == [False, True, True]


def test_without_an_eligible_policy_nothing_is_chosen():
    assert "Choice    none" in compare({"a": evaluation(None)}).table()
    with pytest.raises(InputError, match="no policy"):
        compare({})
    with pytest.raises(InputError, match="cannot be compared"):
        compare({"a": evaluation(1.0), "b": evaluation(1.0, discount=0.5)})
