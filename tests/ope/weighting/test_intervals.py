"""Intervals against numbers by hand and tables, and whether they cover what they say."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_offrl.errors import InputError
from lightning_offrl.ope.checks.weight_diagnostics import effective_sample_size
from lightning_offrl.ope.weighting.importance import PerEpisodeTerms, importance_sampling, per_decision, plain
from lightning_offrl.ope.weighting.intervals import (
    Resamples,
    bernstein,
    difference,
    from_refits,
    hoeffding,
    interval,
    resampled_interval,
    student_t,
)
from tests.ope.enumeration import enumerate_episodes, random_process

SAMPLE = torch.tensor([0.2, 0.9, 0.4, 0.7, 0.1, 0.6], dtype=torch.float64)
MEAN = 2.9 / 6


@pytest.mark.parametrize(
    ("probability", "degrees", "table"),
    [(0.975, 1, 12.7062), (0.975, 9, 2.2622), (0.995, 29, 2.7564), (0.95, 4, 2.1318), (0.025, 9, -2.2622)],
)
def test_quantiles_of_student_by_table(probability, degrees, table):
    assert student_t(probability, degrees) == pytest.approx(table, abs=5e-5)


def test_hoeffding_by_hand():
    found = hoeffding(plain(SAMPLE), 0.0, 1.0)
    half = math.sqrt(math.log(2 / 0.05) / (2 * 6))
    assert (found.low, found.high) == pytest.approx((MEAN - half, MEAN + half), abs=1e-12)


def test_empirical_bernstein_by_hand():
    found = bernstein(plain(SAMPLE), 0.0, 1.0, level=0.9)
    log = math.log(4 / 0.1)
    half = math.sqrt(2 * float(SAMPLE.var()) * log / 6) + 7 * log / (3 * 5)
    assert (found.low, found.high) == pytest.approx((MEAN - half, MEAN + half), abs=1e-12)


def test_guaranteed_intervals_need_a_range_and_independent_terms():
    with pytest.raises(InputError, match="1 of 6 lie outside"):
        hoeffding(plain(SAMPLE), 0.0, 0.8)
    with pytest.raises(InputError, match="divides by its own weights"):
        bernstein(PerEpisodeTerms(SAMPLE[:, None], SAMPLE.flip(0)[:, None]), 0.0, 1.0)


def test_delta_interval_is_two_sided():
    """A one-sided quantile in a two-sided interval would be a 90 % interval that is called 95 %."""
    found = interval(plain(SAMPLE), method="delta")
    assert found.high - MEAN == pytest.approx(1.959964 * float(SAMPLE.std()) / math.sqrt(6), rel=1e-6)


class EveryResample(Resamples):
    """All ``n ** n`` ways to draw n episodes, each once: no chance is left in a bootstrap interval."""

    def __init__(self, n: int) -> None:
        super().__init__(n, n**n)
        self._drawn = [torch.nn.functional.one_hot(torch.cartesian_prod(*[torch.arange(n)] * n), n).sum(1).double()]


@pytest.mark.parametrize(
    ("normalized", "level", "scipy"),
    [  # scipy 1.17.1, stats.bootstrap(method="BCa", paired=True), given the same 3125 resamples rounded to 12 decimals
        (False, 0.95, (0.3, 3.04)),
        (False, 0.8, (0.4, 2.32)),
        (True, 0.95, (0.222580645161, 3.488235294118)),
        (True, 0.8, (0.26, 2.976923076923)),
    ],
)
def test_bias_corrected_and_accelerated_as_scipy(normalized, level, scipy):
    value = torch.tensor([0.2, 0.9, 0.4, 3.7, 0.1], dtype=torch.float64)
    weight = torch.tensor([1.5, 0.2, 0.8, 2.0, 0.5], dtype=torch.float64)
    terms = PerEpisodeTerms((weight * value)[:, None], weight[:, None]) if normalized else plain(value)
    found, _ = resampled_interval(terms, EveryResample(5), level, "bca")
    assert (found.low, found.high) == pytest.approx(scipy, abs=2e-12)
    percentile, _ = resampled_interval(terms, EveryResample(5), level, "percentile")
    assert abs(found.high - percentile.high) > 0.1  # the correction is not nothing on so skewed a sample


def test_an_estimate_without_each_episode():
    terms = PerEpisodeTerms(
        torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 5.0]]).double(), torch.tensor([[1.0], [2.0], [4.0]]).double()
    )
    by_hand = [sum(top) / 2 / (low / 2) for top, low in (((3 + 1, 2 + 5), 6), ((1 + 2, 2 + 5), 5), ((1 + 2, 3 + 1), 3))]
    assert terms.left_out.tolist() == pytest.approx(by_hand)
    assert plain(SAMPLE).left_out.tolist() == pytest.approx([(2.9 - x) / 5 for x in SAMPLE.tolist()])


def test_a_sample_that_says_nothing_of_a_tail_has_no_corrected_interval():
    found = interval(plain(torch.ones(3).double()), method="bca")
    assert (found.low, found.high) == (1.0, 1.0)
    # one episode holds all weight: without it there is no estimate
    lonely = PerEpisodeTerms(torch.tensor([[0.0], [2.0], [0.0]]).double(), torch.tensor([[0.0], [1.0], [0.0]]).double())
    assert not interval(lonely, method="bca").usable
    with pytest.raises(InputError, match="percentile-t, bca"):
        interval(plain(SAMPLE), method="bayes")


def test_intervals_from_refits():
    replicates = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])
    found = from_refits(5.0, replicates)
    assert found.high == pytest.approx(5.0 + 2.262157 * float(replicates.std()), rel=1e-6)
    many = from_refits(5.0, torch.arange(1.0, 1000.0))  # 999 refits, each its own rank
    assert (many.low, many.high) == pytest.approx((25.0, 975.0))
    least = from_refits(5.0, torch.arange(39.0))
    assert (least.low, least.high) == pytest.approx((0.0, 38.0))
    assert from_refits(20.0, torch.arange(39.0), level=0.99).low < 0.0  # no quantile of 0.5 % among 39
    with pytest.raises(InputError, match="at least 2"):
        from_refits(1.0, torch.ones(1))


def test_quantiles_of_refits_leave_out_what_they_say():
    """Another draw of the same kind lies between them with the nominal probability, for 39 refits as for 199."""
    generator = torch.Generator().manual_seed(0)
    for count in (39, 59, 199):
        draws = torch.randn(4000, count + 1, generator=generator)
        held = sum(from_refits(0.0, row[1:]).contains(float(row[0])) for row in draws)
        assert held / 4000 == pytest.approx(0.95, abs=0.0105), count  # three standard errors


def test_difference_is_paired():
    """Two estimates that move together differ by much less than their errors say."""
    noise = torch.randn(200, generator=torch.Generator().manual_seed(0)).double()
    first, second = plain(10 * noise + 1.0), plain(10 * noise)
    found = interval(difference(first, second))
    assert (found.low, found.high) == pytest.approx((1.0, 1.0), abs=1e-9)
    assert interval(first).width > 1.0


def test_interval_of_one_episode_or_of_no_weight_is_unbounded():
    assert not interval(plain(SAMPLE[:1])).usable
    assert not interval(PerEpisodeTerms(torch.zeros(5, 1).double(), torch.zeros(5, 1).double())).usable


def test_same_seed_same_interval():
    terms = plain(torch.randn(150).double())
    assert interval(terms, seed=1) == interval(terms, seed=1) != interval(terms, seed=2)


def draws(n: int, replications: int, seed: int = 0, target_share: float = 1.0):
    """Replicated logs of n episodes from an enumerated process, and the truth."""
    process = random_process(0, ends=(2,), horizon=3)
    process.target = target_share * process.target + (1 - target_share) * process.behavior
    every = enumerate_episodes(process)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.multinomial(every.probability, n * replications, replacement=True, generator=generator)
    return every, rows.view(replications, n), process.value(process.target)


def coverage(terms: PerEpisodeTerms, rows, truth: float, **how) -> tuple[float, float]:
    """Share of replications whose interval covers, and the mean width."""
    found = [interval(terms.select(r), seed=i, **how) for i, r in enumerate(rows)]
    return sum(i.contains(truth) for i in found) / len(found), sum(i.width for i in found) / len(found)


@pytest.mark.parametrize("estimate", [importance_sampling, per_decision])
def test_error_shrinks_with_the_root_of_the_number_of_episodes(estimate):
    errors = []
    for n in (500, 5_000, 50_000):
        every, rows, truth = draws(n, 40)
        terms = estimate(every.data, normalized=True)
        errors.append(math.sqrt(sum((terms.select(r).value - truth) ** 2 for r in rows) / len(rows)))
    slope = math.log(errors[2] / errors[0]) / math.log(100)
    assert -0.65 < slope < -0.35


@pytest.mark.parametrize("estimate", [importance_sampling, per_decision])
def test_unnormalized_estimates_are_unbiased_over_draws(estimate):
    every, rows, truth = draws(20, 2000)
    values = estimate(every.data).per_episode[rows].mean(-1)
    assert abs(float(values.mean()) - truth) <= 4 * float(values.std()) / math.sqrt(2000)


@pytest.mark.parametrize("normalized", [False, True], ids=["pdis", "cwpdis"])
@pytest.mark.parametrize("method", ["percentile", "percentile-t", "delta"])
def test_intervals_cover_what_they_say(method, normalized):
    """1,000 logs of 200 episodes with an effective sample size above 100, nominal 95 %."""
    every, rows, truth = draws(200, 1000)
    sizes = [effective_sample_size(every.data.log_weights[r, -1]) for r in rows[:50]]
    assert min(sizes) >= 100
    share, width = coverage(per_decision(every.data, normalized=normalized), rows, truth, method=method, n_boot=400)
    assert 0.92 <= share <= 0.975


@pytest.mark.slow
def test_intervals_cover_with_an_effective_share_of_a_fifth():
    """1,000 logs of 1,000 episodes, of which about 200 count."""
    process = random_process(0, ends=(2,))
    process.behavior = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.5, 0.5]], dtype=torch.float64)
    process.target = torch.tensor([[0.36, 0.64], [0.36, 0.64], [0.5, 0.5]], dtype=torch.float64)
    every = enumerate_episodes(process)
    generator = torch.Generator().manual_seed(0)
    rows = torch.multinomial(every.probability, 1_000_000, replacement=True, generator=generator).view(1000, 1000)
    size = effective_sample_size(every.data.log_weights[rows[:50].flatten(), -1]) / 50
    assert 100 <= size <= 300
    truth = process.value(process.target)
    share, _ = coverage(importance_sampling(every.data, normalized=True), rows, truth, n_boot=400)
    assert 0.92 <= share <= 0.975


def test_guaranteed_intervals_cover_always():
    every, rows, truth = draws(200, 1000)
    terms = per_decision(every.data)
    low, high = float(terms.per_episode.min()), float(terms.per_episode.max())  # over *all* possible episodes
    for bound in (hoeffding, bernstein):
        found = [bound(terms.select(r), low, high) for r in rows]
        assert sum(i.contains(truth) for i in found) / len(found) >= 0.95
    wide, narrow = (bernstein(terms.select(r), low, high).width for r in (rows[0], rows[:50].flatten()))
    assert narrow < wide


@pytest.mark.parametrize("method", ["percentile", "percentile-t", "delta", "hoeffding"])
def test_ten_times_the_episodes_give_intervals_narrower_by_the_root_of_ten(method):
    every, _, truth = draws(10, 1)
    terms = per_decision(every.data)
    low, high = float(terms.per_episode.min()), float(terms.per_episode.max())
    widths = []
    for n in (100, 1000):
        _, rows, _ = draws(n, 20)
        found = [
            hoeffding(terms.select(r), low, high) if method == "hoeffding" else interval(terms.select(r), method=method)
            for r in rows
        ]
        widths.append(sum(i.width for i in found) / len(found))
    assert widths[0] / widths[1] == pytest.approx(math.sqrt(10), rel=0.15)
