"""Networks over discrete actions against `torch.distributions` and their own members."""

from __future__ import annotations

import math

import torch
from torch.distributions import Categorical as TorchCategorical
from torch.testing import assert_close

from lightning_offrl.networks.discrete import Categorical, CategoricalPolicy, DiscreteCritics
from lightning_offrl.networks.encoders import Encoder

SPEC = {"observation_shape": [3], "action_kind": "discrete", "action_size": 4}


def test_critics_are_independent_and_have_no_trailing_one():
    critics, x = DiscreteCritics(Encoder(SPEC), 4, (8,), count=3), torch.randn(5, 3)
    q = critics(x)
    assert q.shape == (3, 5, 4) and (q[0] - q[1]).abs().max() > 1e-3
    w, b, w2, b2 = critics.mlp.parameters()
    for i in range(3):
        assert_close(q[i], torch.relu(x @ w[i] + b[i]) @ w2[i] + b2[i])


def test_log_prob_and_mode_equal_torch():
    logits, action = torch.randn(50, 4), torch.randint(4, (50,))
    ours, theirs = Categorical(logits), TorchCategorical(logits=logits)
    assert_close(ours.log_prob(action), theirs.log_prob(action))
    assert torch.equal(ours.mode, theirs.probs.argmax(-1))


def test_samples_have_the_probabilities():
    """20,000 draws: each frequency within 4 standard errors; the illegal action never."""
    logits = torch.tensor([0.5, -1.0, 1.5, -math.inf])
    uniform = torch.rand(20_000, 4, generator=torch.Generator().manual_seed(0))
    uniform[0] = 0.0  # log 0
    share = torch.bincount(Categorical(logits.expand(20_000, 4)).sample(uniform), minlength=4) / 20_000
    pi = torch.softmax(logits, -1)
    assert ((share - pi).abs() <= 4 * (pi * (1 - pi) / 20_000).sqrt()).all() and share[3] == 0


def test_a_mask_makes_probability_zero_without_nan():
    policy, x = CategoricalPolicy(Encoder(SPEC), 4, (8,)), torch.randn(6, 3)
    mask = torch.tensor([True, False, True, False]).expand(6, 4)
    pi = policy(x, mask)
    assert_close(pi.log_probs.exp().sum(-1), torch.ones(6))
    assert (pi.log_probs[:, 1] == -math.inf).all()
    pi.log_prob(torch.full((6,), 2)).sum().backward()
    assert all(p.grad.isfinite().all() for p in policy.parameters())
