"""Which `SoftTargetUpdate` a run uses."""

from __future__ import annotations

import pytest
import torch

from lightning_offrl.errors import InputError
from lightning_offrl.training.target_update import SoftTargetUpdate
from tests.contracts.pages import fit


def test_a_tau_given_to_the_trainer_is_used():
    """Lightning lets a module's callbacks replace the trainer's of the same type, without a word; ours does not."""
    from lightning_offrl.algorithms.iql import IQL

    page, _ = fit(IQL, steps=3, callbacks=[SoftTargetUpdate(tau=1.0)])
    assert all(torch.equal(t, q) for t, q in zip(page.q_target.parameters(), page.q.parameters(), strict=True))


def test_target_update_where_there_are_no_targets_is_refused():
    from lightning_offrl.algorithms.bc import BC

    with pytest.raises(InputError, match="BC has no target networks"):
        fit(BC, steps=1, callbacks=[SoftTargetUpdate(tau=0.1)])
