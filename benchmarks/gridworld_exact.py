"""What ``gridworld.py`` computes without training: values, fixed points of the learners, and bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
from tabular_learning import (
    Log,
    conservative_evaluation,
    conservative_q_learning,
    implicit_q_learning,
    log_of,
    q_learning,
)

from lightning_offrl.envs.gridworld.environment import ACTIONS, GridWorld

DISCOUNT = 0.99
WEIGHT = 0.5
"""Of CQL, with three seen actions of probability 1/3: the penalty of a greedy action is at most 2 WEIGHT a step."""
EXPECTILE = 0.9
WEIGHTS = [0.03, 0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0]


def read_log(world: GridWorld, *sources: dict[str, Any]) -> Log:
    """The `Log` of datasets of `GridWorld.dataset`."""
    columns = (np.concatenate([source[f"infos/{key}"] for source in sources]) for key in ("state", "next_state"))
    state, next_state = columns
    return log_of(world.mdp, state, np.concatenate([source["actions"] for source in sources]), next_state)


def greedy(world: GridWorld, q: np.ndarray) -> np.ndarray:
    return world.mdp.deterministic(np.where(np.isfinite(q), q, -1e9).argmax(-1))


def value_at_start(world: GridWorld, policy: np.ndarray) -> float:
    return float(world.mdp.start @ world.mdp.policy_value(policy, DISCOUNT)[0])


def fixed_points(world: GridWorld, log: Log, weight: float = WEIGHT) -> dict[str, dict[str, float]]:
    """Per learner: its policy's value at the start, and what its Q says, if the network were a table."""
    in_sample = q_learning(log, DISCOUNT, in_sample=True)
    v, implicit = implicit_q_learning(log, DISCOUNT, EXPECTILE)
    conservative = conservative_q_learning(log, DISCOUNT, weight)
    # the policy of IQL's eq. 7 with its defaults: temperature 3, weights up to 100
    advantage = np.where(log.seen, implicit, v[:, None]) - v[:, None]
    extracted = greedy(world, np.log(np.maximum(log.behavior, 1e-300)) + np.minimum(3.0 * advantage, np.log(100.0)))
    naive = q_learning(log, DISCOUNT)
    pairs = {
        "DQN": (naive, greedy(world, naive)),
        "BCQ": (in_sample, greedy(world, in_sample)),
        "IQL": (implicit, extracted),
        "CQL": (conservative, greedy(world, conservative)),
    }
    return {
        name: {
            "value": value_at_start(world, policy),
            "claim": float(q[(world.mdp.start[:, None] * policy) > 0.0] @ world.mdp.start[world.mdp.start > 0.0]),
        }
        for name, (q, policy) in pairs.items()
    }


def bound(world: GridWorld, log: Log, q: np.ndarray, weight: float) -> dict[str, Any]:
    """The exact value of a Q's greedy policy against what Q says, in the data's states and pairs."""
    policy = greedy(world, q)
    value, action_value = world.mdp.policy_value(policy, DISCOUNT)
    claim = q.max(-1)
    excess = np.where(log.seen, q - action_value, -np.inf)
    table = conservative_q_learning(log, DISCOUNT, weight)
    worst = np.unravel_index(int(excess.argmax()), excess.shape)
    out = {
        "value": value[log.states].tolist(),
        "claim": claim[log.states].tolist(),
        "margin": float((value - claim)[log.states].min()),
        "share_below": float((claim <= value)[log.states].mean()),
        "pairs_above": int((excess > 0.0).sum()),
        "excess": excess[log.seen].tolist(),
        "worst_pair": {
            "cell": world.cells[worst[0]].tolist(),
            "action": ACTIONS[worst[1]],
            "q": float(q[worst]),
            "exact": float(action_value[worst]),
        },
        "from_table": float(np.abs(claim - np.where(log.states, table.max(-1), 0.0))[log.states].max()),
    }
    if log.keeps_to(policy):
        evaluated, of_pairs = conservative_evaluation(log, policy, DISCOUNT, weight)
        out["eq_2"] = {
            "start": float(world.mdp.start @ evaluated),
            "margin": float((value - evaluated)[log.states].min()),
            "pairs_above": int((of_pairs > action_value + 1e-9)[log.seen].sum()),
        }
    return out


def weight_scan(world: GridWorld, log: Log) -> dict[str, list[float]]:
    """Smallest ``V - E_pi Q`` over the data's states by weight: eq. 2 of the best policy in the data, and eq. 4."""
    best = greedy(world, q_learning(log, DISCOUNT, in_sample=True))
    out: dict[str, list[float]] = {"weight": WEIGHTS, "eq_2": [], "eq_4": [], "value": []}
    for weight in WEIGHTS:
        evaluated, _ = conservative_evaluation(log, best, DISCOUNT, weight)
        exact, _ = world.mdp.policy_value(best, DISCOUNT)
        out["eq_2"].append(float((exact - evaluated)[log.states].min()))
        q = conservative_q_learning(log, DISCOUNT, weight)
        policy = greedy(world, q)
        exact, _ = world.mdp.policy_value(policy, DISCOUNT)
        out["eq_4"].append(float((exact - np.where(log.states, q.max(-1), 0.0))[log.states].min()))
        out["value"].append(value_at_start(world, policy))
    return out
