"""Logs that say which actions were legal: exact values on a small process, and refusals."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_offrl.algorithms.discrete.bc import DiscreteBC
from lightning_offrl.algorithms.discrete.cql import DiscreteCQL
from lightning_offrl.batch import TRANSITION
from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers import load
from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.data.writers.collect import collect_arrays
from lightning_offrl.errors import InputError
from lightning_offrl.ope.direct.dice import DICE
from lightning_offrl.ope.direct.double_reinforcement import drl
from lightning_offrl.ope.direct.fqe_algorithm import FQE
from lightning_offrl.ope.direct.lstd import lstd
from lightning_offrl.ope.direct.model_based import model_rollouts
from lightning_offrl.ope.evaluate import evaluate
from lightning_offrl.ope.policies import masked as legal
from lightning_offrl.ope.policies.behavior import fit_behavior
from lightning_offrl.ope.policies.target import Deterministic, Discrete, Tabular
from lightning_offrl.ope.policies.trained import from_algorithm
from lightning_offrl.ope.weighting.importance import importance_sampling, per_decision
from lightning_offrl.ope.weighting.trajectories import trajectories
from tests.envs.forbidding import INFO

# states 0, 1, 2, and 3 where episodes end; of three actions these are legal
MASK = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=bool)
LOGITS = np.array([0.3, -0.5, 1.1])
GAMMA = 0.8
RNG = np.random.default_rng(3)
STEP = RNG.dirichlet(np.ones(4), size=(4, 3))  # [S, A, S]
REWARD = RNG.normal(size=(4, 3)).astype(np.float32).astype(np.float64)  # as logs store them


def masked(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
    p = np.exp(logits) * mask
    return p / np.maximum(p.sum(-1, keepdims=True), 1e-300)


PI = masked(LOGITS, MASK)  # [S, A]; nothing in the end state
UNIFORM = masked(np.zeros(3), MASK)


def told(observation: torch.Tensor, action_mask: torch.Tensor) -> torch.Tensor:
    """Knows nothing but what is legal."""
    return torch.softmax(torch.as_tensor(LOGITS).masked_fill(~action_mask, -torch.inf), -1)


POLICY = Discrete(told)


def episodes_of(paths: list[list[tuple[int, int, int]]], cut: bool = False, features: bool = False) -> Episodes:
    """Paths of (state, action, next state); ``features``: observations that are not one-hot."""
    rows = np.array([step for path in paths for step in path])
    last = np.cumsum([len(path) for path in paths]) - 1
    end = np.zeros(len(rows), dtype=bool)
    end[last] = True
    terminal = end & (rows[:, 2] == 3)
    eye = np.eye(4, dtype=np.float32) * (2.0 if features else 1.0)
    return from_arrays(
        {
            "observations": eye[rows[:, 0]],
            "actions": rows[:, 1],
            "rewards": REWARD[rows[:, 0], rows[:, 1]],
            "terminated": terminal,
            "truncated": end & ~terminal,
            "next_observations": eye[rows[:, 2]],
            "action_mask": MASK[rows[:, 0]],
            "next_action_mask": MASK[rows[:, 2]],
            "observation_space": spaces.Box(0.0, 2.0, (4,), np.float32),
            "action_space": spaces.Discrete(3),
            "name": "masked",
        }
    )


def deterministic_log() -> tuple[Episodes, np.ndarray]:
    """Every legal pair once, with one next state each; and V of `PI` by solving the linear system."""
    following = {(0, 0): 1, (0, 1): 2, (1, 1): 3, (1, 2): 0, (2, 0): 1}
    episodes = episodes_of([[(s, a, t)] for (s, a), t in following.items()])
    p = np.zeros((4, 4))
    for (s, a), t in following.items():
        p[s, t] += PI[s, a] * (t != 3)
    value = np.linalg.solve(np.eye(4) - GAMMA * p, (PI * REWARD).sum(-1))
    return episodes, value


def test_fitted_values_use_legal_next_actions_only():
    episodes, value = deterministic_log()
    starts = episodes.data["observation"].argmax(-1).numpy()
    for found in (lstd(POLICY, episodes, discount=GAMMA), model_rollouts(POLICY, episodes, discount=GAMMA)):
        assert found.per_initial_state.numpy() == pytest.approx(value[starts], abs=1e-9)
    linear = lstd(POLICY, episodes, discount=GAMMA)
    states = torch.eye(4)[:3]
    assert linear.v(states, torch.as_tensor(MASK[:3])).numpy() == pytest.approx(value[:3], abs=1e-9)


def test_targets_of_fitted_q_evaluation_weigh_legal_actions():
    episodes, _ = deterministic_log()
    module = FQE(episodes.spec, discount=GAMMA, hidden=(4,)).of(POLICY)
    columns = OfflineDataModule(episodes, discount=GAMMA).columns(TRANSITION)
    block = module.with_actions(columns.unsqueeze(0)).squeeze(0)
    following = episodes.data["next", "observation"].argmax(-1)
    onward = ~episodes.data["next", "terminated"]
    weight = block["next", "policy_weight"][onward].numpy()
    assert weight == pytest.approx(PI[following[onward]], abs=1e-6)


def test_density_ratios_begin_with_legal_actions():
    episodes, _ = deterministic_log()
    module = DICE(episodes.spec, discount=GAMMA, hidden=(4,)).of(POLICY)
    module.starting_at(episodes.data["observation"], None, episodes.data["action_mask"])
    columns = OfflineDataModule(episodes, discount=GAMMA).columns(TRANSITION)
    block = module.prepare(columns.unsqueeze(0)).squeeze(0)
    assert block["first_weight"].numpy() == pytest.approx(PI[block["first"].argmax(-1)], abs=1e-6)
    # values at first and next states: `told` raises without masks
    found = drl(
        POLICY,
        episodes,
        discount=GAMMA,
        values=lambda train: lstd(POLICY, train, discount=GAMMA),
        ratios=lambda train: SimpleNamespace(method="ones", flags=[], ratio=lambda of: torch.ones(len(of))),
        n_boot=10,
    )
    assert np.isfinite(found.value)


def test_weights_are_exact_in_expectation():
    """Every path of three steps, weighted by its probability under the behavior."""
    start, paths, share = np.array([0.5, 0.3, 0.2]), [], []
    for first in range(3):
        for turns in product(product(range(3), range(4)), repeat=3):
            path, state, p = [], first, start[first]
            for action, after in turns:
                p *= UNIFORM[state, action] * STEP[state, action, after]
                path.append((state, action, after))
                state = after
                if state == 3:
                    break
            if p > 0.0 and path not in paths:
                paths.append(path)
                share.append(p)
    assert sum(share) == pytest.approx(1.0)
    uniform = Discrete(lambda observation, action_mask: action_mask.double() / action_mask.sum(-1, keepdim=True))
    data = trajectories(episodes_of(paths), POLICY, uniform, discount=GAMMA)
    value = np.zeros(4)
    for _ in range(3):
        value = (PI * (REWARD + GAMMA * STEP @ value)).sum(-1)
    exact = float(start @ value[:3])
    for estimator in (importance_sampling, per_decision):
        assert float(torch.tensor(share).double() @ estimator(data).per_episode) == pytest.approx(exact, abs=1e-12)


def test_probability_on_illegal_actions_is_refused():
    episodes, _ = deterministic_log()
    everywhere = Tabular(np.tile(masked(LOGITS, np.ones(3)), (4, 1)))
    for how in (
        lambda: lstd(everywhere, episodes, discount=GAMMA),
        lambda: model_rollouts(everywhere, episodes, discount=GAMMA),
        lambda: trajectories(episodes, everywhere, fit_behavior(episodes, held_out=0.4), discount=GAMMA),
        lambda: evaluate(Deterministic(lambda o: torch.full((len(o),), 2), 3), episodes, discount=GAMMA),
    ):
        with pytest.raises(InputError, match="log's masks forbid: in"):
            how()
    # exp of the logits are 1.3499, 0.6065 and 3.0042: of these the first is illegal in state 1, the last in state 0
    with pytest.raises(InputError, match=r"in 2 of 2 states, 43.9% of it on average"):
        legal.probabilities(everywhere, torch.eye(4)[[1, 0]], torch.as_tensor(MASK[[1, 0]]))


def test_after_the_end_nothing_counts():
    found = legal.probabilities(POLICY, torch.eye(4)[3:], torch.as_tensor(MASK[3:]))
    assert bool(found.isfinite().all())


def test_the_estimated_behavior_takes_legal_actions():
    episodes, _ = deterministic_log()
    seen = episodes.select(torch.tensor([0, 2, 4] * 4))  # in state 0 action 0 alone, in state 1 action 1
    counts = fit_behavior(seen, held_out=0.3)
    table = counts.probabilities(torch.eye(4)[:3], torch.tensor([[False, True, True], [True, True, False], [True] * 3]))
    assert table is not None and table.tolist() == [[0.0, 0.5, 0.5], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    network = fit_behavior(episodes_of([[(0, 0, 1)], [(1, 2, 0)], [(2, 0, 1)]] * 4, features=True), updates=20)
    found = legal.probabilities(network, 2 * torch.eye(4)[:3], torch.as_tensor(MASK[:3]))
    assert float((found * ~torch.as_tensor(MASK[:3])).sum()) == 0.0 and float(found[2, 0]) == 1.0


def test_rollouts_where_masks_are_not_known():
    with pytest.raises(InputError, match="does not know that of the states it imagines"):
        model_rollouts(POLICY, episodes_of([[(0, 0, 1)], [(1, 1, 2)]], features=True), discount=GAMMA)
    episodes, _ = deterministic_log()
    episodes.data["action_mask"][0] = torch.tensor([True, True, True])
    with pytest.raises(InputError, match="differs within states"):
        model_rollouts(POLICY, episodes, discount=GAMMA)


@pytest.mark.parametrize("page", [DiscreteCQL, DiscreteBC])
def test_trained_algorithms_receive_masks(page):
    episodes = load(collect_arrays(INFO, episodes=40, quality=0))
    algorithm = page(episodes.spec, hidden=(8,), seed=1).eval()
    observation, mask = episodes.data["observation"], episodes.data["action_mask"]
    policies = [from_algorithm(algorithm)] + (
        [from_algorithm(algorithm, stochastic=True)] if page is DiscreteBC else []
    )
    for policy in policies:
        assert float((policy.probabilities(observation, mask) * ~mask).sum()) == 0.0
        found = evaluate(policy, episodes, discount=0.9, direct=[lstd(policy, episodes, discount=0.9)])
        assert np.isfinite(found.row("lstd").value)
    assert float((from_algorithm(algorithm).probabilities(observation) * ~mask).sum()) > 0.0  # untold, it would
