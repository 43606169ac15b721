"""DQN beside TorchRL."""

from __future__ import annotations

import pytest
from torch.testing import assert_close

from lightning_offrl.algorithms.discrete.dqn import DQN
from lightning_offrl.batch import to_torchrl
from tests.algorithms.discrete.cases import (
    losses_of,
    q_actor,
    single,
)


@pytest.mark.parametrize(("loss_function", "threshold", "factor"), [("smooth_l1", 1.0, 1.0), ("l2", None, 2.0)])
def test_dqn_equals_torchrl(loss_function, threshold, factor):
    from torchrl.objectives import DQNLoss

    page, batch = single(DQN, huber_threshold=threshold)
    loss = DQNLoss(q_actor(page), double_dqn=True, delay_value=True, loss_function=loss_function)
    loss.make_value_estimator(gamma=0.99)
    loss.target_value_network_params.apply(lambda p: p.data.mul_(1.1))
    for p in page.q_target.parameters():
        p.data.mul_(1.1)
    assert_close(factor * losses_of(page, batch)["q_loss"], loss(to_torchrl(batch))["loss"])
