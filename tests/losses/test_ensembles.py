"""EDAC's diversity term by hand and by finite differences."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from lightning_offrl.losses.ensembles import action_gradients, gradient_diversity


def test_by_hand():
    """Three gradients along x, x and -x: pairs give 1 - 1 - 1, twice, over N - 1 = 2."""
    gradients = torch.tensor([[2.0, 0.0], [5.0, 0.0], [-1.0, 0.0]]).unsqueeze(-2)
    assert_close(gradient_diversity(gradients), torch.tensor([-1.0]))
    assert_close(gradient_diversity(torch.ones(4, 1, 3)), torch.tensor([4.0]))


def test_equals_the_matrix_of_pairs():
    """The authors' way: an N x N matrix without its diagonal."""
    g = torch.randn(5, 7, 3, dtype=torch.float64)
    unit = g / (g.norm(dim=-1, keepdim=True) + 1e-10)
    pairs = torch.einsum("ibk,jbk->bij", unit, unit) * (1 - torch.eye(5).double())
    assert_close(gradient_diversity(g), pairs.sum((1, 2)) / 4)


def test_gradient_by_finite_differences():
    """Double backward through a small network, against central differences of its weight."""
    torch.manual_seed(0)
    weight = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    head = torch.randn(3, 4, 1, dtype=torch.float64)
    action = torch.randn(3, 6, 2, dtype=torch.float64, requires_grad=True)

    def term(w):
        q = (torch.tanh(action @ w) @ head).squeeze(-1)
        return gradient_diversity(action_gradients(q, action)).mean()

    (got,) = torch.autograd.grad(term(weight), weight)
    step = 1e-6
    for index in [(0, 0, 0), (1, 1, 2), (2, 0, 3)]:
        shift = torch.zeros_like(weight)
        shift[index] = step
        numeric = (term(weight + shift) - term(weight - shift)).item() / (2 * step)
        assert got[index].item() == pytest.approx(numeric, rel=1e-5, abs=1e-9)


def test_one_critic_has_no_diversity():
    with pytest.raises(ValueError, match="at least two critics"):
        gradient_diversity(torch.ones(1, 2, 3))
