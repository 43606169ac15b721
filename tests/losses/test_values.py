"""Targets and value losses against numbers worked out by hand."""

import pytest
import torch
from torch.testing import assert_close

from lightning_offrl.losses.values import expectile, td_target


def test_td_target_stops_only_at_a_terminal():
    """The commonest error of all: a time limit that stops the bootstrap like a real end."""
    got = td_target(torch.tensor([1.0, 1.0]), torch.tensor([False, True]), torch.tensor([10.0, 10.0]), 0.9)
    assert_close(got, torch.tensor([10.0, 1.0]))


def test_td_target_takes_a_discount_per_transition():
    got = td_target(torch.zeros(3), torch.zeros(3, dtype=torch.bool), torch.ones(3), torch.tensor([0.9, 0.81, 0.729]))
    assert_close(got, torch.tensor([0.9, 0.81, 0.729]))


def test_td_target_has_no_gradient():
    value = torch.ones(2, requires_grad=True)
    assert not td_target(torch.ones(2), torch.zeros(2, dtype=torch.bool), value, 0.99).requires_grad


def test_td_target_refuses_a_column():
    with pytest.raises(ValueError, match=r"reward \[2\], terminated \[2\], next_value \[2, 1\]"):
        td_target(torch.ones(2), torch.zeros(2, dtype=torch.bool), torch.ones(2, 1), 0.99)


def test_expectile_by_hand():
    """0.7 weighs u = 2 with 0.7 and u = -2 with 0.3: tau belongs to positive u = target - prediction."""
    assert_close(expectile(torch.tensor([2.0, -2.0, 0.0]), 0.7), torch.tensor([2.8, 1.2, 0.0]))
    exact = expectile(torch.tensor([2.0, -2.0], dtype=torch.float64), 0.7)
    assert_close(exact, torch.tensor([2.8, 1.2], dtype=torch.float64), rtol=1e-15, atol=0.0)


def test_expectile_half_is_half_the_square():
    u = torch.linspace(-3, 3, 13)
    assert_close(expectile(u, 0.5), 0.5 * u.square())


def test_expectile_is_minimized_by_the_expectile():
    """The minimizer m of 0, 1 at tau solves tau (1 - m) = (1 - tau) m, so m = tau."""
    m = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    loss = expectile(0.0 - m, 0.9) + expectile(1.0 - m, 0.9)
    assert_close(m[loss.argmin()].item(), 0.9)
