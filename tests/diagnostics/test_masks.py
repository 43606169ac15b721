"""Policies are told which actions were legal: illegal ones have probability 0 in every number, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.diagnostics.panel import ShiftPanel
from lightning_offrl.diagnostics.samples import sample_pairs
from lightning_offrl.diagnostics.shift import (
    density_ratio,
    discrepancy,
    distinguish,
    excess_surprisal,
    kl_divergence,
)
from lightning_offrl.diagnostics.support import neighbor_support
from lightning_offrl.errors import InputError
from lightning_offrl.ope.policies.behavior import fit_behavior
from lightning_offrl.ope.policies.target import Deterministic, Discrete

# Two states; of three actions, two are legal in each.
LEGAL = torch.tensor([[True, True, False], [False, True, True]])
STEPS, LENGTH = 300, 3


def log_of(seed: int = 0) -> Episodes:
    """Independent states; the behavior takes either legal action alike."""
    rng = np.random.default_rng(seed)
    state = rng.integers(2, size=STEPS + 1)
    action = (state + rng.integers(2, size=STEPS + 1))[:-1]
    end = np.arange(1, STEPS + 1) % LENGTH == 0
    eye = np.eye(2, dtype=np.float32)
    return from_arrays(
        {
            "observations": eye[state[:-1]],
            "actions": action,
            "rewards": np.ones(STEPS),
            "terminated": end,
            "truncated": np.zeros(STEPS, dtype=bool),
            "next_observations": eye[state[1:]],
            "behavior_log_prob": np.full(STEPS, math.log(0.5)),
            "action_mask": LEGAL.numpy()[state[:-1]],
            "next_action_mask": LEGAL.numpy()[state[1:]],
            "observation_space": spaces.Box(0.0, 1.0, (2,), np.float32),
            "action_space": spaces.Discrete(3),
        }
    )


EPISODES = log_of()
SHARE = EPISODES.data["observation"].double().mean(0)  # of each state


def weighing(*weights: float) -> Callable[..., Tensor]:
    """Probabilities in proportion to these, over legal actions once told."""

    def table(observation: Tensor, action_mask: Tensor | None = None) -> Tensor:
        kept = torch.tensor(weights, dtype=torch.float64).expand(len(observation), -1)
        kept = kept if action_mask is None else kept * action_mask
        return kept / kept.sum(-1, keepdim=True)

    return table


def told(*weights: float) -> Discrete:
    return Discrete(weighing(*weights))


def untold(*weights: float) -> Discrete:
    """Cannot be told."""
    return Discrete(lambda observation: weighing(*weights)(observation))


def greedy(observation: Tensor, action_mask: Tensor | None = None) -> Tensor:
    """Prefers the last action: illegal in the first state, where it then is the middle one."""
    return weighing(1.0, 2.0, 5.0)(observation, action_mask).argmax(-1)


POLICY, UNIFORM, GREEDY = told(1.0, 2.0, 5.0), told(1.0, 1.0, 1.0), Deterministic(greedy, 3)
# 1 : 2 in the first state, 2 : 5 in the second, against 1 : 1
BITS = [
    1 / 3 * math.log2(2 / 3) + 2 / 3 * math.log2(4 / 3),
    2 / 7 * math.log2(4 / 7) + 5 / 7 * math.log2(10 / 7),
]


def test_divergence() -> None:
    found = kl_divergence(EPISODES, POLICY, UNIFORM)
    assert found.numbers["kl_bits_step"] == pytest.approx(
        float(SHARE @ torch.tensor(BITS, dtype=torch.float64)), abs=1e-12
    )
    assert found.value == pytest.approx(LENGTH * found.numbers["kl_bits_step"])
    # Were the mask not there: 1 : 2 : 5 against 1 : 1 : 1, in both states.
    free = Episodes(
        EPISODES.data.exclude("action_mask", ("next", "action_mask")), EPISODES.start, EPISODES.length, EPISODES.spec
    )
    want = sum(p * math.log2(3 * p) for p in (1 / 8, 2 / 8, 5 / 8))
    assert kl_divergence(free, POLICY, UNIFORM).numbers["kl_bits_step"] == pytest.approx(want, abs=1e-12)
    # A fitted behavior is told as well; its counts hold legal actions alone.
    fitted = fit_behavior(EPISODES)
    state, action = EPISODES.data["observation"].argmax(-1), EPISODES.data["action"]
    count = torch.zeros(2, 3).index_put_((state, action), torch.ones(STEPS), accumulate=True).double()
    p, q = weighing(1.0, 2.0, 5.0)(torch.eye(2), LEGAL), count / count.sum(-1, keepdim=True)
    each = torch.where(LEGAL, p * (p / q).log2(), 0.0).sum(-1)
    assert kl_divergence(EPISODES, POLICY, fitted).numbers["kl_bits_step"] == pytest.approx(float(SHARE @ each))


def test_surprisal() -> None:
    """Behavior 3 : 1 of the first two, 1 : 1 of the last two: the greedy action surprises by 2 bits, or 1."""
    behavior = told(3.0, 1.0, 1.0)
    found = excess_surprisal(EPISODES, GREEDY, behavior)
    state, action = EPISODES.data["observation"].argmax(-1), EPISODES.data["action"]
    own = -torch.tensor([[3 / 4, 1 / 4, 0.0], [0.0, 1 / 2, 1 / 2]]).log2()[state, action].double().mean()
    assert found.numbers["surprisal_log_bits"] == pytest.approx(float(own), abs=1e-6)
    assert found.value == pytest.approx(float(SHARE @ torch.tensor([2.0, 1.0]).double() - own), abs=1e-6)


def test_ratios() -> None:
    """Over the log's own 1/2: 2/3 and 4/3 in the first state, 4/7 and 10/7 in the second."""
    found = density_ratio(EPISODES, POLICY)
    assert found.numbers["ratio_max"] == pytest.approx(10 / 7, rel=1e-6)
    table = torch.tensor([[2 / 3, 4 / 3, 0.0], [0.0, 4 / 7, 10 / 7]]).double()
    ratio = table[EPISODES.data["observation"].argmax(-1), EPISODES.data["action"]]
    want = float(ratio.sum().square() / ratio.square().sum() / STEPS)
    assert found.numbers["ess_share_step"] == pytest.approx(want, rel=1e-6)


def test_actions_that_are_drawn() -> None:
    pairs = sample_pairs(EPISODES, POLICY)
    assert pairs.steps.mask is not None
    assert bool(pairs.steps.mask.gather(-1, pairs.chosen.unsqueeze(-1)).all())
    assert float((pairs.policy[:, -3:] * ~pairs.steps.mask).sum()) == 0.0  # what classifier and MMD see
    first = pairs.steps.observation[:, 0] == 1
    share, count = float((pairs.chosen[first] == 1).double().mean()), int(first.sum())
    assert share == pytest.approx(2 / 3, abs=4 * math.sqrt(2 / 9 / count))
    again = sample_pairs(EPISODES, GREEDY)
    assert torch.equal(again.chosen, torch.where(again.steps.observation[:, 0] == 1, 1, 2))


def test_support() -> None:
    """Told, the policy takes what was taken in both states; what it would like best was never taken in the first."""
    assert neighbor_support(EPISODES, GREEDY).value == 1.0


def test_a_whole_panel() -> None:
    panel = ShiftPanel(EPISODES, UNIFORM)
    found = {one.name: one for one in panel.diagnose(POLICY)}
    assert set(found) == {"support_knn", "kl_bits_traj", "auc", "mmd2", "surprisal_bits", "ess_share"}
    assert found["surprisal_bits"].value == pytest.approx(0.0, abs=1e-9)  # any legal action is one bit to the behavior
    assert found["support_knn"].value == 1.0


@pytest.mark.parametrize(
    "ask",
    [
        lambda p: kl_divergence(EPISODES, p, UNIFORM),
        lambda p: kl_divergence(EPISODES, POLICY, p),
        lambda p: excess_surprisal(EPISODES, p, UNIFORM),
        lambda p: excess_surprisal(EPISODES, POLICY, p),
        lambda p: density_ratio(EPISODES, p),
        lambda p: distinguish(EPISODES, p),
        lambda p: discrepancy(EPISODES, p),
        lambda p: neighbor_support(EPISODES, p),
        lambda p: ShiftPanel(EPISODES).diagnose(p),
    ],
)
def test_policies_that_go_beyond_are_refused(ask: Callable[[Discrete], object]) -> None:
    with pytest.raises(InputError, match="puts probability on actions that the log's masks forbid"):
        ask(untold(1.0, 2.0, 5.0))
