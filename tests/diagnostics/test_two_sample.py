"""The classifier two-sample test: held-out groups, repeatability, and the area under its curve."""

from __future__ import annotations

import pytest
import torch

from lightning_offrl.diagnostics.two_sample import area, two_sample_test


def test_the_classifier_is_judged_on_other_episodes() -> None:
    """Random labels can be learnt by heart, but not on points of other groups."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 40, generator=generator)
    told = two_sample_test(x, torch.randn(60, 40, generator=generator), torch.arange(60) // 6, updates=200)
    assert 0.3 < told.auc < 0.7 and told.kl_bits < 0.2
    single = two_sample_test(x + 3.0, x, torch.zeros(60, dtype=torch.int64), updates=100)
    assert single.auc > 0.9


def test_the_classifier_moves_no_random_state() -> None:
    state = torch.random.get_rng_state()
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    told = [two_sample_test(x, x + 1.0, torch.arange(50), updates=20, seed=3).auc for _ in range(2)]
    assert told[0] == told[1] and bool((torch.random.get_rng_state() == state).all())
    with torch.no_grad():
        assert two_sample_test(x, x + 1.0, torch.arange(50), updates=20, seed=3).auc == told[0]


def test_area_counts_pairs() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randint(5, (n,), generator=generator).float() for n in (13, 17))
    pairs = a.unsqueeze(-1) - b
    assert area(a, b) == pytest.approx(float((pairs > 0).double().mean() + 0.5 * (pairs == 0).double().mean()))
