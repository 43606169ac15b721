"""Values of discrete actions, by hand; masks with values that a constant would lose."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_offrl.losses.discrete import double_q, legal, log_sum_exp_gap, of_action, supported
from lightning_offrl.losses.values import huber, soft_minimum

NO = -math.inf


def test_of_action_by_hand():
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    action = torch.tensor([2, 0])
    assert_close(of_action(values, action), torch.tensor([3.0, 4.0]))
    assert_close(of_action(torch.stack([values, -values]), action), torch.tensor([[3.0, 4.0], [-3.0, -4.0]]))
    seeds = torch.stack([torch.stack([values, -values])] * 3)  # [S, N, B, n] with [S, B]
    assert_close(of_action(seeds, action.expand(3, 2))[2], torch.tensor([[3.0, 4.0], [-3.0, -4.0]]))


def test_legal_does_not_absorb_q():
    """Q of -1e9 and legal beats Q of +1e9 and illegal; q + (-1e8), or q times 0, would not."""
    q = torch.tensor([[-1e9, 1e9]])
    mask = torch.tensor([[True, False]])
    assert legal(q, mask).tolist() == [[-1e9, NO]]
    assert legal(torch.stack([q, q]), mask).argmax(-1).tolist() == [[0], [0]]
    assert legal(q, None) is q


def test_legal_refuses_what_is_no_mask():
    with pytest.raises(ValueError, match="must be bool"):
        legal(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="expected equal shapes"):
        legal(torch.zeros(4, 2, 3), torch.ones(2, 2, dtype=torch.bool))


def test_support_is_relative_to_the_most_likely_action_and_keeps_it():
    """pi = (0.6, 0.3, 0.1), ratios (1, 0.5, 1/6); ``>=`` keeps a ratio of 1 at threshold 1."""
    logits = torch.tensor([[0.6, 0.3, 0.1]]).log() + 7.0
    assert supported(logits, 0.3).tolist() == [[True, True, False]]
    assert supported(logits, 0.0).tolist() == [[True, True, True]]
    assert supported(logits, 1.0).tolist() == [[True, False, False]]
    mask = torch.tensor([[False, True, True]])
    assert supported(logits, 0.5, mask).tolist() == [[False, True, False]], "the maximum is over legal actions"
    assert supported(logits, 0.0, mask).tolist() == [[False, True, True]]
    assert supported(logits, 0.5, torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[False, False, False]]


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.999])
def test_support_equals_the_ratio_of_probabilities(threshold):
    logits = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)).double() * 3
    pi = torch.softmax(logits, -1)
    assert torch.equal(supported(logits, threshold), pi / pi.amax(-1, keepdim=True) >= threshold)


def test_gap_by_hand():
    """log(1 + 2 + 5) - log 2 with Q = log(1, 2, 5): one public CQL subtracts the mean over all actions instead."""
    q = torch.tensor([[[1.0, 2.0, 5.0]]]).log()
    assert_close(log_sum_exp_gap(q, torch.tensor([1])), torch.tensor([[math.log(8 / 2)]]))
    mask = torch.tensor([[True, True, False]])
    assert_close(log_sum_exp_gap(q, torch.tensor([1]), mask), torch.tensor([[math.log(3 / 2)]]))


def test_gap_gradient_is_softmax_minus_one_hot_also_with_masks():
    """-inf leaves no NaN: an illegal action with a huge Q has gradient 0."""
    q = torch.tensor([[[0.3, -1.0, 1e30]]], requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    log_sum_exp_gap(q, torch.tensor([0]), mask).sum().backward()
    pi = torch.softmax(torch.tensor([0.3, -1.0]), -1)
    assert_close(q.grad, torch.tensor([[[pi[0].item() - 1.0, pi[1].item(), 0.0]]]))


def test_double_q_chooses_online_and_values_by_the_target():
    online = torch.tensor([[[1.0, 3.0, 2.0]]])
    target = torch.tensor([[[10.0, -5.0, 7.0]]])
    assert double_q(online, target).tolist() == [-5.0]
    assert double_q(online, target, torch.tensor([[True, False, True]])).tolist() == [7.0]
    assert double_q(online, target, torch.zeros(1, 3, dtype=torch.bool)).isfinite().all(), "a terminal state"


def test_double_q_of_two_critics():
    """Means (2, 2.5) choose action 1; its targets are 8 and 6."""
    online = torch.tensor([[[4.0, 1.0]], [[0.0, 4.0]]])
    target = torch.tensor([[[0.0, 8.0]], [[0.0, 6.0]]])
    assert double_q(online, target).tolist() == [6.0]


def test_huber_equals_torch():
    u = torch.linspace(-3, 3, 61)
    zero = torch.zeros_like(u)
    assert_close(huber(u), F.smooth_l1_loss(u, zero, reduction="none"))
    assert_close(huber(u, 2.0), F.huber_loss(u, zero, reduction="none", delta=2.0))
    assert_close(huber(u, None), 0.5 * u.square())


def test_soft_minimum_mixes_each_action_before_the_maximum():
    """Actions (8, 0) and (5, 5) give 2 and 5: the maximum is 5. Mixing the maxima 8 and 5 gives 5.75."""
    q = torch.tensor([[[8.0, 5.0]], [[0.0, 5.0]]])  # [N, B, M]
    assert soft_minimum(q, 0.75).tolist() == [[2.0, 5.0]]
    assert_close(soft_minimum(q, 1.0), q.amin(0))
