"""What holds for every algorithm of discrete actions: legal actions, and the kind of data."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from lightning_offrl.algorithms.discrete.bc import DiscreteBC
from lightning_offrl.algorithms.discrete.bcq import DiscreteBCQ
from lightning_offrl.algorithms.discrete.bcq_iql import DiscreteBCQIQL
from lightning_offrl.algorithms.discrete.cql import DiscreteCQL
from lightning_offrl.algorithms.discrete.dqn import DQN
from lightning_offrl.algorithms.discrete.iql import DiscreteIQL
from lightning_offrl.errors import InputError
from lightning_offrl.losses.discrete import of_action
from tests.algorithms.discrete.cases import (
    ACTIONS,
    PAGES,
    SPEC,
    data,
    every_page,
    losses_of,
    make_double,
)


@every_page
def test_an_illegal_action_is_never_chosen_whatever_it_promises(page):
    made, x = make_double(page), torch.randn(50, 3).double()
    with torch.no_grad():
        for name in ("q", "policy"):
            if hasattr(made, name):
                made.get_submodule(name).mlp.linear[-1].bias[..., 1] = 1e12
    mask = torch.ones(50, ACTIONS, dtype=torch.bool)
    assert (made.act(x) == 1).all()
    mask[:, 1] = False
    assert (made.act(x, mask) != 1).all()


@every_page
def test_masks_in_the_batch_leave_losses_and_parameters_finite(page):
    """Also where no action is legal after the last step."""
    made = make_double(page)
    for batch in data(5, masked=True):
        metrics = made.gradient_update(batch)
        assert all(value.isfinite() for value in metrics.values()), metrics
    assert all(p.isfinite().all() for p in made.parameters())


@every_page
def test_a_mask_that_forbids_nothing_changes_nothing(page):
    (plain,), (open_,) = data(), data()
    open_["action_mask"] = torch.ones(16, ACTIONS, dtype=torch.bool)
    open_["next", "action_mask"] = open_["action_mask"]
    one, other = make_double(page), make_double(page)
    got, want = one.gradient_update(open_), other.gradient_update(plain)
    for name in want:
        assert_close(got[name], want[name], rtol=0, atol=0)


@pytest.mark.parametrize("page", [DQN, DiscreteCQL, DiscreteBCQ])
def test_the_target_does_not_see_illegal_next_actions(page):
    """Q' of the forbidden action is huge in the online and in the target network: the target is as without it."""
    made = make_double(page)
    (batch,) = data()
    batch["next", "action_mask"] = torch.tensor([True, True, True, False]).expand(16, 4)
    name = "td_loss" if page is DiscreteCQL else "q_loss"
    batch["action"].clamp_(max=2)
    before = losses_of(made, batch)[name]
    with torch.no_grad():
        for network in (made.q, made.q_target):
            network.mlp.linear[-1].bias[..., 3] = 1e9
    assert_close(losses_of(made, batch)[name], before)


@pytest.mark.parametrize(
    ("page", "network", "metric", "settings"),
    [
        (DiscreteCQL, "q", "conservative", {}),
        (DiscreteBC, "policy", "policy_loss", {}),
        (DiscreteIQL, "policy", "policy_loss", {}),
        (DiscreteBCQ, "policy", "policy_loss", {"logit_penalty": 0.0}),
        (DiscreteBCQIQL, "policy", "policy_loss", {"logit_penalty": 0.0}),
    ],
)
def test_the_losses_leave_out_illegal_actions_of_this_observation(page, network, metric, settings):
    """As if the network itself gave the forbidden action -1e9, and not as without the mask."""
    made, (batch,) = make_double(page, **settings), data()
    batch["action"].clamp_(max=2)
    free = losses_of(made, batch)[metric]
    masked = losses_of(made, batch.set("action_mask", torch.tensor([True, True, True, False]).expand(16, 4)))[metric]
    with torch.no_grad():
        made.get_submodule(network).mlp.linear[-1].bias[..., 3] = -1e9
    assert_close(masked, losses_of(made, batch.exclude("action_mask"))[metric])
    assert masked < free


def test_continuous_data_is_refused():
    box = {**SPEC, "action_kind": "box", "action_low": [-1.0] * 4, "action_high": [1.0] * 4}
    for page in PAGES:
        with pytest.raises(InputError, match="learns from discrete actions, but this data has continuous"):
            page(box)


def test_of_action_is_what_the_policy_scores():
    page, x = make_double(DiscreteBC), torch.randn(9, 3).double()
    action = page.act(x)
    assert_close(page.policy(x).log_prob(action), page.policy(x).log_probs.amax(-1))
    assert_close(of_action(page.policy.logits(x), action), page.policy.logits(x).amax(-1))
