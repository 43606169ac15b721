"""Steps of named optimizers, and clipping, with numbers by hand."""

from __future__ import annotations

import pytest
import torch

from lightning_offrl.errors import InputError
from lightning_offrl.training.optimizers import clip_per_seed
from tests.contracts.pages import episodes_for, small


def test_clip_by_hand():
    """Norm 5 clipped to 1 is (0.6, 0.8); the second seed, below the limit, stays."""
    gradients = [torch.tensor([[3.0], [0.3]]), torch.tensor([4.0, 0.4])]
    norm = clip_per_seed(gradients, 1.0, stacked=True)
    torch.testing.assert_close(norm, torch.tensor([5.0, 0.5]))
    torch.testing.assert_close(gradients[0], torch.tensor([[0.6], [0.3]]))
    torch.testing.assert_close(gradients[1], torch.tensor([0.8, 0.4]))
    number = [torch.tensor(-4.0)]
    clip_per_seed(number, 1.0, stacked=False)
    torch.testing.assert_close(number[0], torch.tensor(-1.0))


def test_wrong_names_in_minimize():
    from lightning_offrl.algorithms.bc import BC

    page = BC(episodes_for(BC).spec, **small(BC))
    with pytest.raises(InputError, match=r"minimize\(\) got \['critic'\], but the optimizers are \['policy'\]"):
        page.minimize(critic=torch.zeros(()))


def test_a_transposed_gradient_is_added_where_it_belongs():
    """Fused Adam reads gradients in memory order; double backward and products with W^T give transposed ones."""
    from lightning_offrl.algorithms.bc import BC

    page = BC(episodes_for(BC).spec, **small(BC))
    weight = page.policy.mlp.linear[0].weight
    torch.manual_seed(0)
    gradient = torch.randn(weight.shape[1], weight.shape[0])
    reference = weight.detach().clone().requires_grad_()
    reference.grad = gradient.T.contiguous()
    torch.optim.Adam([reference], lr=3e-4).step()
    page.minimize(policy=(weight.T * gradient).sum())
    torch.testing.assert_close(weight.detach(), reference.detach())
