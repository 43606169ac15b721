"""Settings at which one algorithm must be another; limits within one page stand in that page's file."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_offrl.algorithms.awac import AWAC
from lightning_offrl.algorithms.bc import BC
from lightning_offrl.algorithms.discrete.bc import DiscreteBC
from lightning_offrl.algorithms.discrete.bcq import DiscreteBCQ
from lightning_offrl.algorithms.discrete.bcq_iql import DiscreteBCQIQL
from lightning_offrl.algorithms.discrete.cql import DiscreteCQL
from lightning_offrl.algorithms.discrete.dqn import DQN
from lightning_offrl.algorithms.discrete.iql import DiscreteIQL
from lightning_offrl.algorithms.ensembles.edac import EDAC
from lightning_offrl.algorithms.ensembles.sac_n import SACN
from lightning_offrl.algorithms.generative.iql_bcq import IQLBCQ
from lightning_offrl.algorithms.iql import IQL
from lightning_offrl.algorithms.rebrac import ReBRAC
from lightning_offrl.algorithms.td3_bc import TD3BC
from lightning_offrl.training.target_update import SoftTargetUpdate
from tests.algorithms.by_hand import SPEC, as_ours, batches

DISCRETE = {"observation_shape": [3], "action_kind": "discrete", "action_size": 4}


def with_all(count: int) -> list[TensorDict]:
    """Batches with next actions."""
    out = [as_ours(b, 0.99) for b in batches(count)]
    for batch, b in zip(out, batches(2 * count)[count:], strict=True):
        batch["next", "action"] = b["action"]
    return out


def discrete(count: int) -> list[TensorDict]:
    g = torch.Generator().manual_seed(2)
    out = [{**b, "action": torch.randint(4, (16,), generator=g)} for b in batches(count)]
    return [as_ours(b, 0.99) for b in out]


def loss_of(page, name, batch):
    """The loss that the page would give ``name``'s optimizer, with its graph."""
    captured = {}
    page.minimize = lambda **losses: captured.update(losses)
    page.updates = 1  # the second update: delayed policies learn
    page.draws.begin(1)
    page.update(batch)
    return captured[name]


def gradient(page, name, network, batch):
    grads = torch.autograd.grad(loss_of(page, name, batch), list(network.parameters()))
    return torch.cat([g.flatten() for g in grads])


def run(page, data):
    page.after_update = [SoftTargetUpdate(0.005).on_update_end] if page.targets else []
    for batch in data:
        page.gradient_update(batch)


def equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def cosine(one, other):
    return (F.cosine_similarity(one, other, dim=0)).item()


@pytest.mark.parametrize("kind", [TD3BC, ReBRAC])
def test_without_q_the_policy_goes_where_bc_goes(kind):
    """TD3+BC with alpha 0; ReBRAC when its penalty outweighs Q by 1e12. With Q the direction is another."""
    (batch,) = with_all(1)
    bc = BC(SPEC, hidden=(8, 8)).double()
    settings = {"alpha": 0.0} if kind is TD3BC else {"policy_penalty": 1e12}
    found = []
    for page in (kind(SPEC, hidden=(8, 8), **settings).double(), kind(SPEC, hidden=(8, 8)).double()):
        page.policy.load_state_dict(bc.policy.state_dict())
        found.append(gradient(page, "policy", page.policy, batch))
    want = gradient(bc, "policy", bc.policy, batch)
    assert cosine(found[0], want) == pytest.approx(1.0, abs=1e-9)
    assert cosine(found[1], want) < 0.999
    if kind is TD3BC:
        assert_close(found[0], want)  # the same mean over batch and dimensions


@pytest.mark.parametrize(
    ("kind", "settings", "network"),
    [
        (IQL, {"inverse_temperature": 0.0, "policy_schedule": "constant"}, "policy"),
        (AWAC, {"temperature": 1e12}, "policy"),
        (DiscreteIQL, {"inverse_temperature": 0.0}, "policy"),
    ],
)
def test_without_advantages_the_policy_maximizes_likelihood(kind, settings, network):
    """Weights of one for every transition: the gradient of the log likelihood, to the last digit."""
    box = kind is not DiscreteIQL
    (batch,) = with_all(1) if box else discrete(1)
    page = kind(SPEC if box else DISCRETE, hidden=(8, 8), **settings).double()
    got = gradient(page, "policy", page.policy, batch)
    likelihood = -page.policy(batch["observation"]).log_prob(batch["action"]).mean()
    want = torch.cat([g.flatten() for g in torch.autograd.grad(likelihood, list(page.policy.parameters()))])
    assert_close(got, want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", [IQL, DiscreteIQL, DiscreteBCQIQL])
def test_expectile_one_half_is_regression(kind):
    """V's gradient is that of half the squared error to min Q'; at 0.9 it is not."""
    box = kind is IQL
    (batch,) = with_all(1) if box else discrete(1)
    constant = {"policy_schedule": "constant"} if box else {}
    page = kind(SPEC if box else DISCRETE, hidden=(8, 8), expectile=0.5, **constant).double()
    q = page.q_target(batch["observation"], batch["action"]) if box else page.q_target(batch["observation"])
    if not box:
        q = q.gather(-1, batch["action"].expand(2, 16).unsqueeze(-1)).squeeze(-1)
    low = torch.minimum(*q).detach()
    page.v.mlp.linear[-1].bias.data += (low - page.v(batch["observation"])).mean()  # errors of both signs
    square = 0.5 * F.mse_loss(page.v(batch["observation"]), low)
    want = torch.cat([g.flatten() for g in torch.autograd.grad(square, list(page.v.parameters()))])
    assert_close(gradient(page, "v", page.v, batch), want, rtol=1e-9, atol=1e-12)
    page.hparams["expectile"] = 0.9
    assert cosine(gradient(page, "v", page.v, batch), want) < 0.9999


@pytest.mark.parametrize("kind", [IQL, IQLBCQ, AWAC])
def test_logged_actions_at_the_bounds_count_as_just_inside(kind):
    """+-1 is +-(1 - 1e-5) for policy and critics alike, as in the authors' code of IQL."""
    settings = {"policy_schedule": "constant"} if kind is IQL else {"vae_hidden": (8,)} if kind is IQLBCQ else {}
    page = kind(SPEC, hidden=(8, 8), **settings).double()
    page.evaluating = True
    b = batches(1)[0]
    b["action"] = b["action"].sign()
    got, want = [], []
    for into, action in ((got, b["action"]), (want, b["action"] * (1 - 1e-5))):
        page.draws.begin(0)
        into.append(page.update(as_ours({**b, "action": action}, 0.99)))
    for name, value in want[0].items():
        assert_close(got[0][name], value, rtol=1e-12, atol=1e-14)


def test_expectile_one_half_learns_the_mean():
    """Q' is 0, 1, ... 15 in one state: V goes to 7.5, and at 0.95 to 0.95 (42 - 3 v) = 0.05 (13 v - 78), v = 12.514."""
    learnt = []
    for level in (0.5, 0.95):
        page = IQL(SPEC, hidden=(), expectile=level, learning_rate=0.5, policy_schedule="constant").double()
        batch = as_ours(batches(1)[0], 0.99)
        batch["observation"].zero_()
        page.q_target.forward = lambda obs, action: torch.arange(16.0).double().expand(2, 16)
        for _ in range(200):
            page.gradient_update(batch)
        learnt.append(page.v(batch["observation"][:1]).item())
    assert learnt == pytest.approx([7.5, 43.8 / 3.5], abs=0.01)


def test_eta_zero_is_sac_n_update_by_update():
    """Ten updates, all networks and targets, bit for bit; with eta 1 they part."""
    data, states = with_all(10), []
    for kind, settings in ((SACN, {}), (EDAC, {"eta": 0.0}), (EDAC, {"eta": 1.0})):
        page = kind(SPEC, critics=4, hidden=(8, 8), **settings).double()
        run(page, data)
        states.append(page.state_dict())
    equal(states[0], states[1])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_weight_zero_of_discrete_cql_is_dqn_update_by_update():
    data, states = discrete(10), []
    for kind, settings in ((DQN, {}), (DiscreteCQL, {"weight": 0.0}), (DiscreteCQL, {"weight": 0.1})):
        page = kind(DISCRETE, hidden=(8, 8), **settings).double()
        run(page, data)
        states.append(page.state_dict())
    equal(states[0], states[1])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_threshold_zero_trains_and_acts_as_dqn():
    """Ten updates of Q and its target, bit for bit, and then the same argmax in 500 states."""
    data = discrete(10)
    bcq, dqn = (kind(DISCRETE, hidden=(8, 8)).double() for kind in (DiscreteBCQ, DQN))
    bcq.hparams["threshold"] = 0.0
    for page in (bcq, dqn):
        run(page, data)
    for name in ("q", "q_target"):
        equal(bcq.get_submodule(name).state_dict(), dqn.get_submodule(name).state_dict())
    x = torch.randn(500, 3).double()
    assert torch.equal(bcq.act(x), dqn.act(x)) and len(bcq.act(x).unique()) > 1


@pytest.mark.parametrize("kind", [DiscreteBCQ, DiscreteBCQIQL])
def test_threshold_one_acts_as_trained_behavior_cloning(kind):
    """Its imitation is the page DiscreteBC's, whatever Q does, and so are its actions.

    The authors' ``>`` leaves no action there, and an argmax over equal constants takes action 0.
    """
    data = discrete(10)
    page = kind(DISCRETE, hidden=(8, 8), threshold=1.0, learning_rate=1e-2).double()
    bc = DiscreteBC(DISCRETE, hidden=(8, 8), logit_penalty=1e-2, learning_rate=1e-2).double()
    bc.policy.load_state_dict(page.policy.state_dict())
    for each in (page, bc):
        run(each, data)
    equal(page.policy.state_dict(), bc.policy.state_dict())
    x = torch.randn(500, 3).double()
    assert torch.equal(page.act(x), bc.act(x)) and len(page.act(x).unique()) > 1


def test_the_discrete_hybrid_has_discrete_iqls_values():
    """V, Q and its target after ten updates, bit for bit: the two pages repeat these lines, and must not part."""
    data = discrete(10)
    pages = [kind(DISCRETE, hidden=(8, 8)).double() for kind in (DiscreteIQL, DiscreteBCQIQL)]
    for page in pages:
        run(page, data)
    for name in ("v", "q", "q_target"):
        equal(pages[0].get_submodule(name).state_dict(), pages[1].get_submodule(name).state_dict())


def test_threshold_one_bootstraps_from_the_imitated_action():
    """The target is Q' of the most likely next action: sarsa with the cloned policy."""
    (batch,) = discrete(1)
    page = DiscreteBCQ(DISCRETE, hidden=(8, 8), threshold=1.0).double()
    after = batch["next", "observation"]
    chosen = page.policy(after).mode
    value = page.q_target(after)[0].gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
    y = batch["next", "reward"] + 0.99 * (~batch["next", "terminated"]).double() * value
    q = page.q(batch["observation"])[0].gather(-1, batch["action"].unsqueeze(-1)).squeeze(-1)
    assert_close(loss_of(page, "q", batch), F.smooth_l1_loss(q, y.detach()))
    assert (chosen != page.q(after)[0].argmax(-1)).any(), "the test can tell"
