"""Write the CartPole and LunarLander logs that ``score.py`` and ``peer_d3rlpy.py`` both read, in D4RL's layout.

    python benchmarks/discrete_data.py --out benchmarks/data

A mixture of equal shares of random, medium and good episodes of the built-in controllers (`envs.behavior`). The file
carries the environment's id and the returns that score 0 (random) and 100 (the controller without noise).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import numpy as np

from lightning_offrl.data.writers.collect import collect_arrays

MIXES = {
    "cartpole_mixed": ("CartPole-v1", 300),
    "lunarlander_mixed": ("LunarLander-v3", 300),
}


def main() -> None:
    """Collect and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder of the .hdf5 files")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, (environment, episodes) in MIXES.items():
        arrays = collect_arrays(environment, episodes=episodes, quality="mixed", seed=args.seed)
        ends = np.flatnonzero(arrays["terminated"] | arrays["truncated"])
        returns = np.add.reduceat(arrays["rewards"], np.concatenate(([0], ends[:-1] + 1)))
        with h5py.File(folder / f"{name}-v2.hdf5", "w") as file:
            for key, source in (
                ("observations", "observations"),
                ("next_observations", "next_observations"),
                ("actions", "actions"),
                ("rewards", "rewards"),
                ("terminals", "terminated"),
                ("timeouts", "truncated"),
                ("infos/action_log_probs", "behavior_log_prob"),
            ):
                file[key] = arrays[source]
            file["metadata/env_id"] = environment
            file["metadata/ref_min_score"], file["metadata/ref_max_score"] = arrays["references"]
        low, high = arrays["references"]
        score = 100.0 * (returns.mean() - low) / (high - low)
        print(f"{name}: {episodes} episodes, {len(arrays['rewards']):,} steps, mean return {returns.mean():.1f}, "
              f"score {score:.1f}, references {low:.1f} and {high:.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
