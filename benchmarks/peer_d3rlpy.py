"""Train one d3rlpy 2.8.1 algorithm on a D4RL-layout file and write its score curve: the other side of ``score.py``.

Run it with the environment of ``benchmarks/requirements-peer.txt``, not with ours::

    OMP_NUM_THREADS=1 peer/bin/python benchmarks/peer_d3rlpy.py --data hopper_mixed-v2.hdf5 --algorithm iql --seed 0 \
        --out benchmarks/results/peer_reruns/hopper_mixed-iql-0.json

Protocol: d3rlpy's defaults but for `CONFIGS`, and batches of 256 everywhere; observations standardized on the dataset,
rewards as they are; 256 x 256 networks; at five points of the run the deterministic policy plays 10 episodes of the
file's environment, reset with the seeds 1000 to 1009. Short runs: the literature's are of 1,000,000 updates.

Episodes are what ``MDPDataset(observations, actions, rewards, terminals, timeouts)`` makes of the file: d3rlpy does not
read ``next_observations``, so it drops the last step of every episode that a timeout ended (there is no next row), and
the next observation of a terminal step is zeros (never used: a terminal step does not bootstrap).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import d3rlpy
import gymnasium
import h5py
import numpy as np
import torch

LAYER_NORM = d3rlpy.models.encoders.VectorEncoderFactory([256, 256], use_layer_norm=True)
COPY = {"learning_rate": 3e-4, "target_update_interval": 1_000}
CONFIGS = {
    "bc": (d3rlpy.algos.BCConfig, {}),
    "td3_bc": (d3rlpy.algos.TD3PlusBCConfig, {}),
    "iql": (d3rlpy.algos.IQLConfig, {}),
    "awac": (d3rlpy.algos.AWACConfig, {}),
    "cql": (d3rlpy.algos.CQLConfig, {"alpha_learning_rate": 0.0}),  # the weight stays at 1 x 5
    "sac_n": (d3rlpy.algos.SACConfig, {"n_critics": 10}),
    "rebrac": (
        d3rlpy.algos.ReBRACConfig,
        {"actor_beta": 0.05, "critic_beta": 0.5, "critic_encoder_factory": LAYER_NORM},
    ),
    "discrete_bc": (d3rlpy.algos.DiscreteBCConfig, {"learning_rate": 3e-4}),
    "discrete_cql": (d3rlpy.algos.DiscreteCQLConfig, {**COPY, "alpha": 1.0}),
    "discrete_bcq": (d3rlpy.algos.DiscreteBCQConfig, {**COPY, "action_flexibility": 0.3, "beta": 0.01}),
}


def read(path: str) -> tuple[d3rlpy.dataset.MDPDataset, str, tuple[float, float], int]:
    """Dataset, environment id, (random, expert) reference returns and number of rows of a D4RL-layout file."""
    with h5py.File(path) as file:
        arrays = [file[key][:] for key in ("observations", "actions", "rewards", "terminals", "timeouts")]
        environment = file["metadata/env_id"][()].decode()
        references = float(file["metadata/ref_min_score"][()]), float(file["metadata/ref_max_score"][()])
    observations, actions, rewards, terminals, timeouts = arrays
    timeouts &= ~terminals  # d3rlpy refuses a row with both flags; a terminal state is one whatever the clock says
    dataset = d3rlpy.dataset.MDPDataset(
        observations, actions, rewards, terminals.astype(np.float32), timeouts.astype(np.float32)
    )
    return dataset, environment, references, len(rewards)


def play(algo: d3rlpy.algos.QLearningAlgoBase, environment: str, seeds: range) -> tuple[list[float], list[int]]:
    """Undiscounted return and length of one greedy episode per reset seed."""
    env = gymnasium.make(environment)
    discrete = isinstance(env.action_space, gymnasium.spaces.Discrete)
    returns, lengths = [], []
    for seed in seeds:
        observation, _ = env.reset(seed=seed)
        total, length, over = 0.0, 0, False
        while not over:
            action = algo.predict(np.asarray(observation, dtype=np.float32)[None])[0]
            observation, reward, terminated, truncated, _ = env.step(int(action) if discrete else action)
            total, length, over = total + float(reward), length + 1, terminated or truncated
        returns.append(total)
        lengths.append(length)
    return returns, lengths


def cpu_model() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    """Parse, train, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="D4RL-layout .hdf5 with metadata/env_id and reference scores")
    parser.add_argument("--algorithm", required=True, choices=sorted(CONFIGS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=50_000)
    parser.add_argument("--every", type=int, default=10_000)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--products", choices=("highest", "medium"), default="highest", help="as in score.py")
    parser.add_argument("--out", required=True, help="the JSON to write")
    parser.add_argument("--models", help="folder for d3rlpy's model file at each evaluation")
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.set_float32_matmul_precision(args.products)
    d3rlpy.seed(args.seed)
    dataset, environment, (low, high), rows = read(args.data)
    scaler = d3rlpy.preprocessing.StandardObservationScaler()
    config, settings = CONFIGS[args.algorithm]
    algo = config(batch_size=256, gamma=0.99, observation_scaler=scaler, **settings).create(device="cpu:0")

    result = {
        "system": "d3rlpy",
        "dataset": Path(args.data).stem.removesuffix("-v2"),
        "algorithm": args.algorithm,
        "preset": "peer",
        "seed": args.seed,
        "note": f"short run of {args.updates:,} updates, not the literature's 1,000,000",
        "versions": {name: version(name) for name in ("d3rlpy", "torch", "gymnasium", "mujoco", "numpy")},
        "machine": {"cpu": cpu_model(), "threads": 1, "products": args.products},
        "settings": {},  # d3rlpy can write its configuration only once the scaler is fitted
        "environment": environment,
        "reset_seeds": list(range(1000, 1000 + args.episodes)),
        "references": [low, high],
        "rows": rows,
        "transitions": dataset.transition_count,
        "updates": [],
        "curve": [],
        "returns": [],
        "lengths": [],
    }
    began, evaluating = time.perf_counter(), 0.0
    epochs = algo.fitter(
        dataset,
        n_steps=args.updates,
        n_steps_per_epoch=args.every,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )
    for epoch, _ in epochs:
        before = time.perf_counter()
        returns, lengths = play(algo, environment, range(1000, 1000 + args.episodes))
        evaluating += time.perf_counter() - before
        result["settings"] = json.loads(json.dumps(algo.config.serialize_to_dict(), default=str))
        result["updates"].append(epoch * args.every)
        result["returns"].append(returns)
        result["lengths"].append(lengths)
        result["curve"].append(100.0 * (float(np.mean(returns)) - low) / (high - low))
        result["wall_seconds"] = time.perf_counter() - began
        result["evaluation_seconds"] = evaluating
        out = Path(args.out)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".tmp").write_text(json.dumps(result, indent=1))
        out.with_suffix(".tmp").replace(out)
        print(
            f"{args.algorithm} seed {args.seed}, {epoch * args.every:,} updates: {result['curve'][-1]:.1f}", flush=True
        )


if __name__ == "__main__":
    main()
