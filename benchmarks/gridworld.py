"""Why offline learning needs care, on a grid whose values are known exactly.

    python benchmarks/gridworld.py                  about two minutes on one core
    python benchmarks/gridworld.py --plot           the page and the pictures again, from the stored numbers

The pages are trained through the public API, five seeds stacked in one pass, and their greedy policies valued by
solving the grid's Bellman equations: no number here is an average over played episodes. `results/gridworld/` gets
``results.json``, three pictures and a page (README.md). Four questions:

    missing action   the cliff, by random actions that never go left: who keeps to the data, who beats its behavior?
    bound            is E_pi Q of CQL at or below the exact value of its policy, in the states of the data?
    stitch           two halves of a way, no trajectory from the start to the goal: who puts them together?
    settings         how many updates, target rate and loss do such small worlds ask for?
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
import warnings
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported

import lightning.pytorch as pl
import numpy as np
import torch
from gridworld_exact import (
    DISCOUNT,
    EXPECTILE,
    WEIGHT,
    bound,
    fixed_points,
    greedy,
    read_log,
    value_at_start,
    weight_scan,
)
from tabular_learning import Log, conservative_q_learning, log_of, q_learning

import lightning_offrl as offrl
from lightning_offrl.data.writers.collect import collect_arrays
from lightning_offrl.envs.gridworld.environment import ACTIONS, HORIZON, GridWorld
from lightning_offrl.envs.gridworld.layouts import STITCH_HALVES
from lightning_offrl.envs.tabular import without_action

RESULTS = Path(__file__).resolve().parent / "results" / "gridworld"
LEFT = ACTIONS.index("left")
CLIFF: dict[str, Any] = {"layout": "cliff", "cliff_reward": -20.0}
SMALL = {"hidden": (64, 64), "learning_rate": 1e-3}


@dataclass(frozen=True)
class Learner:
    """One page with its settings; ``tau`` is the target rate, None for a page without targets."""

    name: str
    page: str
    settings: dict[str, Any] = field(default_factory=dict)
    tau: float | None = 0.05
    """The default, 0.005, carries a value one cell further in 200 updates; see "settings" of the results."""


LEARNERS = [
    Learner("DQN", "DQN"),
    Learner("BC", "DiscreteBC", tau=None),
    Learner("BCQ", "DiscreteBCQ"),
    Learner("IQL", "DiscreteIQL", {"expectile": EXPECTILE}),
    # half the squared error, as in the paper's eq. 4
    Learner("CQL", "DiscreteCQL", {"weight": WEIGHT, "huber_threshold": None}),
]


class Exact(pl.Callback):
    """Every so many updates: the greedy policy's exact value, and what Q says about it.

    Args:
        world: the grid.
        log: what the data show of it.
        every: period in gradient updates.
    """

    def __init__(self, world: GridWorld, log: Log, every: int) -> None:
        self.world, self.data, self.every = world, log, every
        self.points: list[dict[str, Any]] = []
        self.actions = np.empty(0)
        self.q: np.ndarray | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if pl_module.updates % self.every == 0:
            self.measure(pl_module)

    def measure(self, algorithm: Any) -> None:
        mdp, states = self.world.mdp, self.data.states
        observation = torch.as_tensor(self.world.observations).expand(*algorithm.lead, *self.world.observations.shape)
        with torch.no_grad():
            self.actions = np.atleast_2d(algorithm.act(observation).numpy())  # [S, n_states]
            if hasattr(algorithm, "q"):
                q = algorithm.q(algorithm.normalizer(observation)).mean(-3).double().numpy()
                self.q = q.reshape(-1, *q.shape[-2:])  # [S, n_states, A], the critics' mean
        policies = [mdp.deterministic(actions) for actions in self.actions]
        point: dict[str, Any] = {
            "updates": algorithm.updates,
            "value": [float(mdp.start @ mdp.policy_value(policy, DISCOUNT)[0]) for policy in policies],
            "return": [mdp.expected_return(policy, HORIZON) for policy in policies],
            "in_data": [float((policy * self.data.seen).sum(-1)[states].mean()) for policy in policies],
        }
        if self.q is not None:
            at_start = [(mdp.start @ (policy * q).sum(-1)) for policy, q in zip(policies, self.q, strict=True)]
            point["claim"] = [float(value) for value in at_start]
            point["largest_q"] = [float(q[states].max()) for q in self.q]
            point["smallest_q"] = [float(q[states].min()) for q in self.q]
        self.points.append(point)


def learn(
    world: GridWorld, source: Any, log: Log, learner: Learner, *, updates: int, seeds: int, batch_size: int = 128
) -> Exact:
    """Train S runs at once; what came out is in the callback."""
    every = max(50, updates // 20)
    data = offrl.OfflineDataModule(source, batch_size=batch_size, discount=DISCOUNT)
    algorithm = getattr(offrl, learner.page)(data.spec, seeds=seeds, **{**SMALL, **learner.settings})
    exact = Exact(world, log, every)
    targets = [] if learner.tau is None else [offrl.SoftTargetUpdate(tau=learner.tau)]
    trainer = pl.Trainer(
        max_steps=updates,
        accelerator="cpu",
        callbacks=[exact, *targets],
        logger=False,
        log_every_n_steps=every,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(algorithm, data)
    return exact


# -- the four questions ------------------------------------------------------------------------------------------------


def missing_action(updates: int, seeds: int, episodes: int = 400) -> dict[str, Any]:
    """The cliff without "left", with a cost for every step; then the same data with a goal reward only."""
    world = GridWorld(**CLIFF)
    behavior = without_action(world.mdp.uniform(), LEFT)
    source = world.dataset(behavior, episodes)
    log = read_log(world, source)
    out: dict[str, Any] = {
        "world": CLIFF,
        "transitions": len(source["actions"]),
        "episodes": episodes,
        "arrived": int((world.grid[tuple(world.cells[source["infos/next_state"]].T)] == "G").sum()),
        "behavior": {
            "value": value_at_start(world, behavior),
            "return": world.mdp.expected_return(behavior, HORIZON),
        },
        "optimum": {"value": float(world.mdp.start @ world.mdp.optimal(DISCOUNT).value)},
        "fixed_points": fixed_points(world, log),
        "learners": {},
    }
    for learner in LEARNERS:
        exact = learn(world, source, log, learner, updates=updates, seeds=seeds)
        out["learners"][learner.name] = {"points": exact.points, "actions": exact.actions.tolist()}
        if learner.name == "CQL":
            assert exact.q is not None
            out["bound"] = [bound(world, log, q, WEIGHT) for q in exact.q]
            table = conservative_q_learning(log, DISCOUNT, WEIGHT)
            out["bound_of_table"] = bound(world, log, table, WEIGHT)
    out["scan"] = weight_scan(world, log)

    nearby = GridWorld(**CLIFF, observation="coordinates")  # where a network carries values from cell to cell
    exact = learn(nearby, nearby.dataset(behavior, episodes), log, LEARNERS[0], updates=updates, seeds=seeds)
    out["coordinates"] = {"points": exact.points}

    sparse = GridWorld("cliff", step_reward=0.0, goal_reward=1.0, cliff_reward=0.0)
    source = sparse.dataset(behavior, episodes)  # the same states and actions
    log = read_log(sparse, source)
    exact = learn(sparse, source, log, LEARNERS[0], updates=updates, seeds=seeds)
    out["goal_only"] = {
        "behavior": value_at_start(sparse, behavior),
        "optimum": float(sparse.mdp.start @ sparse.mdp.optimal(DISCOUNT).value),
        "fixed_point": value_at_start(sparse, greedy(sparse, q_learning(log, DISCOUNT))),
        "points": exact.points,
    }
    return out


def good_data(updates: int, seeds: int, episodes: int = 400) -> dict[str, Any]:
    """CQL where the data prefer the best action already, so that the bound need not hold for the page."""
    world = GridWorld(**CLIFF)
    behavior = without_action(world.mdp.behavior_policy(0.6), LEFT)
    source = world.dataset(behavior, episodes)
    log = read_log(world, source)
    exact = learn(world, source, log, LEARNERS[-1], updates=updates, seeds=seeds)
    assert exact.q is not None
    return {
        "behavior": value_at_start(world, behavior),
        "points": exact.points,
        "bound": [bound(world, log, q, WEIGHT) for q in exact.q],
        "bound_of_table": bound(world, log, conservative_q_learning(log, DISCOUNT, WEIGHT), WEIGHT),
        "fixed_points": fixed_points(world, log),
        "scan": weight_scan(world, log),
    }


def stitch(updates: int, seeds: int) -> dict[str, Any]:
    """One trajectory from the start that loses its way, twice; one from elsewhere that arrives."""
    world = GridWorld("stitch")
    first, second = (world.policy_from_text(text) for text in STITCH_HALVES)
    halves = [world.dataset(first, 2, horizon=30), world.dataset(second, 1, horizon=30, start=world.state(0, 4))]
    log = read_log(world, *halves)
    episodes = offrl.load_dataset(halves)
    begins = episodes.data["observation"][episodes.start].numpy().argmax(-1)
    ends = episodes.data["next", "terminated"][episodes.start + episodes.length - 1].numpy()
    from_start = world.mdp.start[begins] > 0.0
    out: dict[str, Any] = {
        "trajectories_from_start": int(from_start.sum()),
        "of_these_arrived": int(ends[from_start].sum()),
        "optimum": {
            "value": float(world.mdp.start @ world.mdp.optimal(DISCOUNT).value),
            "return": world.mdp.expected_return(world.mdp.optimal(DISCOUNT).policy, HORIZON),
        },
        "fixed_points": fixed_points(world, log),
        "learners": {},
    }
    for learner in LEARNERS:
        exact = learn(world, halves, log, learner, updates=updates, seeds=seeds, batch_size=64)
        out["learners"][learner.name] = {"points": exact.points, "actions": exact.actions.tolist()}
    return out


def settings(updates: int, seeds: int) -> dict[str, Any]:
    """DiscreteCQL with its defaults on the stitch world: the target's rate, and the threshold of Huber's loss."""
    world = GridWorld("stitch")
    uniform = world.dataset(world.mdp.uniform(), 100)
    mixed = collect_arrays(world.id(), episodes=150)
    following = mixed["next_observations"].argmax(-1)
    logs = {
        "mixed": log_of(world.mdp, mixed["observations"].argmax(-1), mixed["actions"], following),
        "uniform": read_log(world, uniform),
    }
    best = world.mdp.expected_return(world.mdp.optimal(DISCOUNT).policy, HORIZON)
    out: dict[str, Any] = {"optimum": best, "runs": []}
    for data, source, tau, threshold in (
        ("mixed", mixed, 0.005, 1.0),
        ("mixed", mixed, 0.05, 1.0),
        ("uniform", uniform, 0.05, 1.0),
        ("uniform", uniform, 0.05, None),
    ):
        learner = Learner("CQL", "DiscreteCQL", {"weight": 1.0, "huber_threshold": threshold}, tau)
        exact = learn(world, source, logs[data], learner, updates=updates, seeds=seeds)
        table = conservative_q_learning(logs[data], DISCOUNT, 1.0)
        run = {"data": data, "tau": tau, "huber_threshold": threshold, "points": exact.points}
        out["runs"].append({**run, "table": float(world.mdp.start @ np.where(np.isfinite(table), table, -1e9).max(-1))})
    return out


def run(updates: int, seeds: int) -> dict[str, Any]:
    """All of it; what ``results.json`` holds."""
    torch.set_num_threads(1)
    began, cpu = time.perf_counter(), time.process_time()
    out = {
        "updates": updates,
        "seeds": seeds,
        "discount": DISCOUNT,
        "weight": WEIGHT,
        "expectile": EXPECTILE,
        "missing_action": missing_action(updates, seeds),
        "good_data": good_data(updates, seeds),
        "stitch": stitch(updates // 2, seeds),
        "settings": settings(updates, min(seeds, 3)),
        "versions": {name: version(name) for name in ("lightning-offrl", "torch", "lightning", "numpy")},
    }
    return {**out, "seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}


def main() -> None:
    """Train, compute, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=4_000, help="gradient updates of each run")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each learner")
    parser.add_argument("--out", default=str(RESULTS), help="folder of the results")
    parser.add_argument("--plot", action="store_true", help="only draw what is stored there")
    args = parser.parse_args()
    from gridworld_page import write

    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    if not args.plot:
        for said in (".*does not have many workers", ".*LeafSpec"):  # Lightning's own
            warnings.filterwarnings("ignore", message=said)
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        (folder / "results.json").write_text(_text(_rounded(run(args.updates, args.seeds))) + "\n")
    print(write(json.loads((folder / "results.json").read_text()), folder))


def _rounded(value: Any) -> Any:
    """Six significant digits, so that the file is read and compared easily."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _text(value: Any, depth: int = 0) -> str:
    """JSON with a line for each entry of a dictionary, and lists of numbers on one line."""
    if isinstance(value, dict) and value:
        inner = [f"{' ' * (depth + 1)}{json.dumps(key)}: {_text(part, depth + 1)}" for key, part in value.items()]
        return "{\n" + ",\n".join(inner) + f"\n{' ' * depth}}}"
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        inner = [" " * (depth + 1) + json.dumps(part, separators=(",", ":")) for part in value]
        return "[\n" + ",\n".join(inner) + f"\n{' ' * depth}]"
    return json.dumps(value, separators=(",", ":"))


if __name__ == "__main__":
    main()
