"""Where a transition's episode stands among all transitions."""

import torch
from torch.testing import assert_close

from lightning_offrl.data.rewards import return_quantile


def test_by_hand_with_a_tie():
    """Lengths 2, 1, 1 and returns 5, 1, 5: one of four transitions lies below 5, three at it."""
    got = return_quantile(torch.tensor([5.0, 1.0, 5.0]), torch.tensor([2, 1, 1]))
    assert_close(got, torch.tensor([0.625, 0.625, 0.125, 0.625]))


def test_the_mean_is_one_half():
    returns, length = torch.randn(50), torch.randint(1, 9, (50,))
    assert_close(return_quantile(returns, length).double().mean().item(), 0.5, rtol=0, atol=1e-7)
