"""The discrete pages: their limits, the authors' update of BCQ written out, masks, and TorchRL's losses."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_offrl.algorithms.discrete.bc import DiscreteBC
from lightning_offrl.algorithms.discrete.bcq import DiscreteBCQ
from lightning_offrl.algorithms.discrete.bcq_iql import DiscreteBCQIQL
from lightning_offrl.algorithms.discrete.cql import DiscreteCQL
from lightning_offrl.algorithms.discrete.dqn import DQN
from lightning_offrl.algorithms.discrete.iql import DiscreteIQL
from lightning_offrl.batch import to_torchrl
from lightning_offrl.errors import InputError
from lightning_offrl.losses.discrete import of_action
from lightning_offrl.training.target_update import SoftTargetUpdate
from tests.algorithms.by_hand import as_ours, batches, descend, mlp, weights

ACTIONS = 4
SPEC = {"observation_shape": [3], "action_kind": "discrete", "action_size": ACTIONS}
PAGES = [DQN, DiscreteBC, DiscreteCQL, DiscreteIQL, DiscreteBCQ, DiscreteBCQIQL]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.__name__)


def data(count: int = 1, size: int = 16, masked: bool = False) -> list[TensorDict]:
    """Random float64 batches; masks allow the data's action and about half of the others, none after the end."""
    g, out = torch.Generator().manual_seed(2), []
    for b in batches(count, size):
        b["action"] = torch.randint(ACTIONS, (size,), generator=g)
        batch = as_ours(b, 0.99)
        if masked:
            legal = torch.rand(size, ACTIONS, generator=g) < 0.5
            batch["action_mask"] = legal | F.one_hot(b["action"], ACTIONS).bool()
            after = torch.rand(size, ACTIONS, generator=g) < 0.5
            after[:, 0] |= ~after.any(-1)
            batch["next", "action_mask"] = after & ~b["terminated"].unsqueeze(-1)
        out.append(batch)
    return out


def losses_of(page, batch):
    page.evaluating = True
    page.draws.begin(0)
    return page.update(batch)


def make_double(page, seed=0, **settings):
    made = page(SPEC, hidden=(8, 8), seed=seed, **settings).double()
    for name in made.targets:  # targets that differ, so that reading the wrong one shows
        for p in made.get_submodule(name).parameters():
            p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)).double()
    return made


# -- discrete BCQ: the authors' update -------------------------------------------------------------------------------


def authors_bcq(page, data, threshold=0.3, gamma=0.99, polyak=0.005, rate=3e-4):
    """Masked online argmax, target value, smooth-L1 + NLL + 1e-2 mean(logits^2), one Adam for both, then Polyak."""
    q, q_target, policy = (weights(n) for n in (page.q, page.q_target, page.policy))
    values = lambda parameters, x: mlp([p[0] for p in parameters], x)  # noqa: E731
    adam = torch.optim.Adam([*q, *policy], lr=rate)
    for b in data:
        with torch.no_grad():
            pi = torch.softmax(mlp(policy, b["next", "observation"]), -1)
            allowed = (pi / pi.max(1, keepdim=True)[0] > threshold).double()
            chosen = (allowed * values(q, b["next", "observation"]) + (1 - allowed) * -1e8).argmax(1, keepdim=True)
            next_q = values(q_target, b["next", "observation"]).gather(1, chosen).squeeze(1)
            y = b["next", "reward"] + (~b["next", "terminated"]).double() * gamma * next_q
        current = values(q, b["observation"]).gather(1, b["action"].unsqueeze(1)).squeeze(1)
        logits = mlp(policy, b["observation"])
        nll = F.nll_loss(F.log_softmax(logits, 1), b["action"])
        descend(adam, F.smooth_l1_loss(current, y) + nll + 1e-2 * logits.pow(2).mean())
        with torch.no_grad():
            for t, s in zip(q_target, q, strict=True):
                t.copy_(polyak * s + (1 - polyak) * t)
    return q, q_target, policy


def test_ten_updates_of_bcq_equal_the_authors():
    page, steps = make_double(DiscreteBCQ), data(10)
    expected = authors_bcq(page, steps)
    page.after_update = [SoftTargetUpdate(0.005).on_update_end]
    for batch in steps:
        page.gradient_update(batch)
    for network, wanted in zip((page.q, page.q_target, page.policy), expected, strict=True):
        for got, want in zip(network.parameters(), wanted, strict=True):
            assert_close(got.detach(), want.detach(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("page", [DiscreteBCQ, DiscreteBCQIQL])
def test_thresholds_outside_0_1_are_refused(page):
    with pytest.raises(InputError, match=r"must lie in \[0, 1\], got 1.5"):
        page(SPEC, threshold=1.5)


def test_hybrid_takes_the_largest_min_q_of_the_supported():
    made, x = make_double(DiscreteBCQIQL, threshold=0.9), torch.randn(200, 3).double()
    pi, q = torch.softmax(made.policy.logits(x), -1), made.q(x).amin(0)
    allowed = pi >= 0.9 * pi.amax(-1, keepdim=True)
    for action, keep, values in zip(made.act(x), allowed, q, strict=True):
        assert keep[action] and values[action] == values[keep].max()


# -- the others ------------------------------------------------------------------------------------------------------


def test_cql_by_hand():
    """Q = (0, 1, 2, 3) everywhere: target 3 gamma + r, and log-sum-exp minus Q of the data's action."""
    page = DiscreteCQL(SPEC, hidden=(4,), weight=2.0).double()
    with torch.no_grad():
        for p in page.parameters():
            p.zero_()
        for network in (page.q, page.q_target):
            network.mlp.linear[-1].bias.copy_(torch.arange(4.0))
    (batch,) = data()
    got = losses_of(page, batch)
    q = batch["action"].double()
    y = batch["next", "reward"] + 0.99 * 3.0 * (~batch["next", "terminated"]).double()
    gap = math.log(sum(math.exp(i) for i in range(4))) - q.mean()
    assert_close(got["conservative"], gap)
    assert_close(got["q_loss"], F.smooth_l1_loss(q, y) + 2.0 * gap)
    assert_close(got["td_loss"], F.smooth_l1_loss(q, y))


def test_the_conservative_step_lowers_unseen_actions_and_raises_the_datas():
    """Only action 0 is in the data, rewards are 0: after some steps it is the best.

    A public CQL was once released whose term had no gradient on actions outside the data.
    """
    page = DiscreteCQL(SPEC, hidden=(16,), weight=1.0, learning_rate=1e-2)
    batch = data(size=32)[0].apply(lambda x: x.float() if x.is_floating_point() else x)
    batch["action"].zero_(), batch["next", "reward"].zero_()
    for _ in range(60):
        page.gradient_update(batch)
    assert (page.act(batch["observation"]) == 0).all()


def test_iql_by_hand():
    """Order V, policy (new V), Q (new V), with the target critics' minimum; three Adams."""
    page, steps = make_double(DiscreteIQL, inverse_temperature=2.0), data(5)
    q, target, v, policy = (weights(n) for n in (page.q, page.q_target, page.v, page.policy))
    adams = [torch.optim.Adam(p, lr=3e-4) for p in (q, v, policy)]
    pick = lambda ps, x, a: [mlp([p[i] for p in ps], x).gather(1, a[:, None])[:, 0] for i in range(2)]  # noqa: E731
    value = lambda x: mlp(v, x).squeeze(-1)  # noqa: E731
    for b in steps:
        obs, action = b["observation"], b["action"]
        with torch.no_grad():
            low = torch.minimum(*pick(target, obs, action))
        u = low - value(obs)
        descend(adams[1], ((0.7 - (u < 0).double()).abs() * u**2).mean())
        weight = torch.exp(2.0 * (low - value(obs))).clamp(max=100).detach()
        descend(adams[2], (weight * F.cross_entropy(mlp(policy, obs), action, reduction="none")).mean())
        y = b["next", "reward"] + 0.99 * (~b["next", "terminated"]).double() * value(b["next", "observation"]).detach()
        descend(adams[0], sum(F.mse_loss(x, y) for x in pick(q, obs, action)))
        page.gradient_update(b)
    for network, wanted in zip((page.q, page.v, page.policy), (q, v, policy), strict=True):
        for got, want in zip(network.parameters(), wanted, strict=True):
            assert_close(got.detach(), want.detach(), rtol=1e-9, atol=1e-10)


def test_bc_is_cross_entropy_with_a_penalty():
    page, (batch,) = make_double(DiscreteBC, logit_penalty=0.5), data()
    logits = mlp(weights(page.policy), batch["observation"])
    want = F.cross_entropy(logits, batch["action"]) + 0.5 * logits.square().mean()
    assert_close(losses_of(page, batch)["policy_loss"], want.detach(), check_dtype=False)


# -- masks -----------------------------------------------------------------------------------------------------------


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


# -- TorchRL ---------------------------------------------------------------------------------------------------------


class Member(nn.Module):
    """One of our critics as a plain network."""

    def __init__(self, critics, i):
        super().__init__()
        layers = []
        for linear in critics.mlp.linear:
            plain = nn.Linear(*linear.weight.shape[-2:])
            plain.weight.data, plain.bias.data = linear.weight.data[i].T.clone(), linear.bias.data[i].clone()
            layers += [plain, nn.ReLU()]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, observation):
        return self.net(observation)


def single(page, **settings):
    return page(SPEC, hidden=(16, 16), **settings), data(size=64)[0].apply(
        lambda x: x.float() if x.is_floating_point() else x
    )


def q_actor(page):
    from torchrl.data import Categorical
    from torchrl.modules import QValueActor

    return QValueActor(Member(page.q, 0), in_keys=["observation"], spec=Categorical(ACTIONS))


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


def test_cql_equals_torchrl():
    """Their conservative term and ours; their temporal difference has half a square and, with equal networks, the
    maximum of the target is the double-Q value.
    """
    from torchrl.objectives import DiscreteCQLLoss

    page, batch = single(DiscreteCQL, huber_threshold=None)
    loss = DiscreteCQLLoss(q_actor(page), loss_function="l2")
    loss.make_value_estimator(gamma=0.99)
    theirs, ours = loss(to_torchrl(batch)), losses_of(page, batch)
    assert_close(ours["conservative"], theirs["loss_cql"])
    assert_close(ours["td_loss"], theirs["loss_qvalue"])


def test_iql_equals_torchrl():
    from torch.distributions import Categorical
    from torchrl.modules import ProbabilisticActor
    from torchrl.objectives import DiscreteIQLLoss

    page, batch = single(DiscreteIQL, expectile=0.8, inverse_temperature=2.0)
    module = lambda call, key: TensorDictModule(call, in_keys=["observation"], out_keys=[key])  # noqa: E731

    class Call(nn.Module):
        def __init__(self, f):
            super().__init__()
            self.f = f

        def forward(self, x):
            return self.f(x)

    actor = ProbabilisticActor(
        module(Call(page.policy.logits), "logits"), in_keys=["logits"], distribution_class=Categorical
    )
    loss = DiscreteIQLLoss(
        actor,
        [module(Member(page.q, i), "state_action_value") for i in range(2)],
        module(Call(lambda x: page.v(x).unsqueeze(-1)), "state_value"),
        action_space="categorical",
        loss_function="l2",
        temperature=2.0,
        expectile=0.8,
    )
    loss.make_value_estimator(gamma=0.99)
    theirs, ours = loss(to_torchrl(batch)), losses_of(page, batch)
    assert_close(ours["policy_loss"], theirs["loss_actor"])
    assert_close(ours["q_loss"], theirs["loss_qvalue"])
    assert_close(ours["v_loss"], theirs["loss_value"])


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
