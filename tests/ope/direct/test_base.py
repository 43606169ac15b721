"""Actions of the evaluated policy in the batch."""

from __future__ import annotations

import torch

from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.ope.direct.fqe_algorithm import FQE
from tests.ope.linear_quadratic import BEHAVIOR, TARGET


def test_every_draw_is_one_of_its_own_transition() -> None:
    """Draws marked by row and number: heads, updates and samples pick from the right row, and from all numbers."""
    episodes = BEHAVIOR.episodes(3, 4, seed=0)
    page = FQE(episodes.spec, discount=0.9, hidden=(4,), samples=3, seeds=2).of(TARGET.policy())
    block = OfflineDataModule(episodes, discount=0.9).columns()[:12]
    mark = 10.0 * torch.arange(12).view(12, 1, 1) + torch.arange(8).view(1, 8, 1) + torch.zeros(2)
    block["next", "policy_draws"] = mark
    block = block.expand(5, 2, 12)
    found = page.prepare(block)["next"]
    row, number = found["policy_action"][..., 0].div(10, rounding_mode="floor"), found["policy_action"][..., 0] % 10
    assert found["policy_action"].shape == (5, 2, 12, 3, 2) and "policy_draws" not in found.keys()
    assert torch.equal(row, torch.arange(12.0).view(12, 1).expand_as(row))
    assert number.unique().tolist() == list(range(8))
    assert not torch.equal(number[0], number[1]) and not torch.equal(number[:, 0], number[:, 1])
    assert torch.equal(found["policy_weight"], torch.full((5, 2, 12, 3), 1.0 / 3.0))
