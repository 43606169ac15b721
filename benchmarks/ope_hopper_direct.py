"""Direct methods on three Hopper logs: nine policies whose values are known, by fitted Q evaluation and by rollouts.

    python benchmarks/ope_hopper_direct.py run --data hopper_medium-v2.hdf5 --policies ope-policies/hopper
    python benchmarks/ope_hopper_direct.py pessimistic --data hopper_medium-v2.hdf5 --policies ope-policies/hopper
    python benchmarks/ope_hopper_direct.py report

``run`` fits one dynamics ensemble for all policies, then evaluates each, and writes one JSON per policy into
``results/ope/direct/<dataset>/``; what is there already is skipped, so it can be stopped and started again.
``pessimistic`` adds a ranking by the smaller of two critics. ``report`` writes
``results/ope/hopper_direct.{json,md,png}`` (`ope_hopper_direct_page`), with what is in
``results/ope/direct/before/<dataset>/`` beside it: the same runs with a sampler of truncated normals that drew actions
on the wrong side of the box (ppo, a2c, ars_std0.1). The truth is 300 episodes of each policy in the simulator
(``ground_truth.json`` beside the policies), discounted by 0.99, with its standard error.

The fits are **short**: 10,000 updates (5,000 on medium_expert) of 256 x 256 networks where DOPE makes 1,000,000. With
LayerNorm, which DOPE has not, chosen by what needs no truth: without it half of the targets of one policy and a
twentieth of another's lay outside what the rewards can add up to.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported

import torch
from ope_hopper_direct_page import DISCOUNT, METHODS, OUT, report


def run(arguments: argparse.Namespace) -> None:
    """Fit and evaluate what is missing."""
    from lightning_offrl.data.readers import load
    from lightning_offrl.dynamics.ensemble import fit_dynamics
    from lightning_offrl.ope.direct.estimate import largest_return
    from lightning_offrl.ope.direct.fqe import FQESettings, fqe
    from lightning_offrl.ope.direct.model_based import model_rollouts
    from lightning_offrl.ope.policies.files import load_gaussian

    torch.set_num_threads(1)
    folder = Path(arguments.policies)
    truth = json.loads((folder / "ground_truth.json").read_text())["policies"]
    episodes = load(arguments.data)
    runs = OUT / "direct" / episodes.name
    runs.mkdir(parents=True, exist_ok=True)
    returns, _ = largest_return(episodes, DISCOUNT)
    model, model_seconds = None, 0.0
    for name in truth:
        path = runs / f"{name}.json"
        if path.exists():
            continue
        policy = load_gaussian(folder / f"{name}.json")
        if model is None:
            began = time.process_time()
            model = fit_dynamics(episodes, members=5, updates=arguments.model_updates, seed=0)
            model_seconds = time.process_time() - began
            print("dynamics", model.measured, f"{model_seconds:.0f} s", flush=True)
        estimates: dict[str, Any] = {}
        for method in METHODS:
            began = time.process_time()
            if method == "fqe":
                found = fqe(
                    policy,
                    episodes,
                    discount=DISCOUNT,
                    updates=arguments.updates,
                    replicates=arguments.refits,
                    settings=FQESettings(layer_norm=True),
                    seed=0,
                )
            else:
                found = model_rollouts(policy, episodes, discount=DISCOUNT, model=model, starts=200, seed=0)
            assert found.replicates is not None
            estimates[method] = {
                "value": found.value,
                "replicates": found.replicates.tolist(),
                "diagnostics": found.diagnostics,
                "flags": found.flags,
                "cpu_seconds": round(time.process_time() - began, 1),
            }
            print(name, method, f"{found.value:.1f}", found.flags, estimates[method]["cpu_seconds"], flush=True)
        known = truth[name]["discounted"]
        record = {
            "policy": name,
            "truth": known["mean"],
            "truth_error": known["se"],
            "behavior_mean": float(returns.mean()),
            "episodes": episodes.n_episodes,
            "transitions": len(episodes),
            "dataset": episodes.name,
            "settings": {"updates": arguments.updates, "refits": arguments.refits, "layer_norm": True},
            "model": {"updates": arguments.model_updates, "cpu_seconds": round(model_seconds, 1), **model.measured},
            "estimates": estimates,
        }
        path.write_text(json.dumps(record, indent=1) + "\n")


def pessimistic(arguments: argparse.Namespace) -> None:
    """Add fits whose targets are the smaller of two critics, to rank by: low where the data say little."""
    from lightning_offrl.data.readers import load
    from lightning_offrl.ope.direct.fqe import FQESettings, fqe
    from lightning_offrl.ope.policies.files import load_gaussian

    torch.set_num_threads(1)
    episodes = load(arguments.data)
    for path in sorted((OUT / "direct" / episodes.name).glob("*.json")):
        record = json.loads(path.read_text())
        if "pessimistic" in record:
            continue
        policy = load_gaussian(Path(arguments.policies) / f"{record['policy']}.json")
        settings = FQESettings(layer_norm=True, critics=2, reduction="min")
        updates = record["settings"]["updates"]
        found = fqe(policy, episodes, discount=DISCOUNT, updates=updates, settings=settings, seed=0)
        record["pessimistic"] = {"value": round(found.value, 1), "flags": found.flags}
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(record["policy"], found.value, flush=True)


def main() -> None:
    """Parse and go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    runner = verbs.add_parser("run")
    for parser_of in (runner, verbs.add_parser("pessimistic")):
        parser_of.add_argument("--data", required=True)
        parser_of.add_argument("--policies", required=True)
    runner.add_argument("--updates", type=int, default=10_000)
    runner.add_argument("--refits", type=int, default=3)
    runner.add_argument("--model-updates", type=int, default=10_000)
    verbs.add_parser("report")
    arguments = parser.parse_args()
    if arguments.verb == "report":
        report()
    else:
        {"run": run, "pessimistic": pessimistic}[arguments.verb](arguments)


if __name__ == "__main__":
    main()
