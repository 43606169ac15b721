"""Importance sampling from real logs of Hopper against Monte-Carlo truths of nine policies.

    python benchmarks/ope_hopper.py --data hopper_medium-v2.hdf5 --policies ope-policies/hopper

The log: 701 episodes of one stochastic policy (``sac``), with the log-probabilities of its actions. Evaluated: that
policy itself, the same with other spreads (``sac_x0.95`` ...), with one action in ten uniform (``sac_eps0.1``), and
four that do something else. Values are discounted sums of the first H rewards, discount 0.99. The truths are means of
300 simulated episodes, so they have errors, too: z = (estimate - truth) / sqrt(se^2 + se_truth^2).

Writes ``results/ope/hopper.json`` and ``results/ope/hopper.md``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from lightning_offrl.data.readers import load
from lightning_offrl.ope.checks.support import far_share, unseen_share
from lightning_offrl.ope.checks.weight_diagnostics import Limits, check_weights
from lightning_offrl.ope.policies.files import load_gaussian
from lightning_offrl.ope.weighting.importance import PerEpisodeTerms, importance_sampling, naive, per_decision
from lightning_offrl.ope.weighting.intervals import interval
from lightning_offrl.ope.weighting.trajectories import trajectories

RESULTS = Path(__file__).resolve().parent / "results" / "ope"
HORIZONS = (5, 10, 20, 50)
BEHAVIOR = "sac"
DEFINITIONS = {
    "naive": "mean return of the log: the value of the behavior, not of the policy",
    "is": "mean of weight times return; weight: the product of ratios of the whole episode",
    "wis": "is, divided by the mean weight",
    "pdis": "each reward times the weight up to its own step",
    "cwpdis": "pdis, each step divided by its mean weight",
}


def estimates(data: Any) -> dict[str, PerEpisodeTerms]:
    return {
        "naive": naive(data),
        "is": importance_sampling(data),
        "wis": importance_sampling(data, normalized=True),
        "pdis": per_decision(data),
        "cwpdis": per_decision(data, normalized=True),
    }


def run(data_file: str, folder: Path, seed: int = 0) -> dict[str, Any]:
    truth = json.loads((folder / "ground_truth.json").read_text())
    episodes = load(data_file)
    behavior = load_gaussian(folder / BEHAVIOR)
    rows = []
    for name in truth["policies"]:
        policy = load_gaussian(folder / name)
        whole = trajectories(episodes, policy, discount=truth["gamma"], horizon=max(HORIZONS))
        for horizon in HORIZONS:
            begun = time.perf_counter()
            data = whole.first(horizon)
            check = check_weights(data)
            by_density = unseen_share(episodes, policy, behavior, horizon=horizon, seed=seed)
            by_distance = far_share(episodes, policy, horizon=horizon, seed=seed)
            reasons = [*check.reasons]
            reasons += [r for r in (by_density.reason(Limits().unseen_share), by_distance.reason(0.02)) if r]
            true = truth["policies"][name]["truncated_discounted"][str(horizon)]
            for estimator, terms in estimates(data).items():
                bounds = interval(terms, seed=seed)
                error = math.hypot(terms.standard_error, true["se"])
                eligible = not reasons and estimator != "naive"
                rows.append(
                    {
                        "policy": name,
                        "horizon": horizon,
                        "estimator": estimator,
                        "value": terms.value,
                        "low": bounds.low,
                        "high": bounds.high,
                        "se": terms.standard_error,
                        "truth": true["mean"],
                        "truth_se": true["se"],
                        "z": (terms.value - true["mean"]) / error if error > 0.0 else None,
                        "ess": check.ess,
                        "mean_weight": check.mean_weight,
                        "unseen": by_density.share,
                        "far": by_distance.share,
                        "status": "baseline" if estimator == "naive" else "eligible" if eligible else "ABSTAIN",
                        "reasons": [] if estimator == "naive" else reasons,
                    }
                )
            print(f"{name} H={horizon}: {time.perf_counter() - begun:.1f} s, {'; '.join(reasons) or 'eligible'}")
    return {"data": episodes.name, "episodes": episodes.n_episodes, "gamma": truth["gamma"], "rows": rows}


def number(x: float) -> str:
    return f"{x:.3f}" if math.isfinite(x) else "-"


def markdown(result: dict[str, Any]) -> str:
    rows = result["rows"]
    shown = [r for r in rows if r["status"] == "eligible" and r["policy"] != BEHAVIOR]
    inside = [r for r in shown if abs(r["z"]) <= 1.96]
    same = [r for r in rows if r["policy"] == BEHAVIOR and r["estimator"] == "naive"]
    weighed = "ESS | mean w | unseen | far"
    lines = [
        "# Importance sampling on Hopper, against Monte-Carlo truths",
        "",
        f"Log: {result['data']}, {result['episodes']} episodes of `{BEHAVIOR}`, with logged log-probabilities. Value: "
        f"the first H rewards, discount {result['gamma']}. Truth: the mean of 300 simulated episodes. Interval: 95 %, "
        "bootstrap of episodes. z: (estimate - truth) over both errors. ESS: effective sample size. mean w: mean "
        "weight of an episode, expected 1. unseen: share of the policy's own episodes whose weight exceeds the number "
        "of logged episodes. far: share of its actions farther from the log than 99 % of the log's own actions in "
        "similar states. Made by `benchmarks/ope_hopper.py`.",
        "",
        *[f"- `{name}`: {words}" for name, words in DEFINITIONS.items()],
        "",
        f"**Of {len(shown)} eligible estimates of other policies than the behavior, {len(inside)} are within 1.96 "
        f"errors of the truth** (largest |z| {max(abs(r['z']) for r in shown):.2f}). All weights of the behavior "
        "itself are 1 and every estimate is the mean of the log, which is off its simulated truth by z = "
        f"{', '.join(format(r['z'], '+.1f') for r in same)} at H = {', '.join(str(r['horizon']) for r in same)}: "
        "one sample against another, and the horizons share their episodes.",
        "",
        "## Eligible, beside the log's own mean",
        "",
        f"| policy | H | truth | estimator | value | 95 % interval | z | {weighed} |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    eligible = {(r["policy"], r["horizon"]) for r in rows if r["status"] == "eligible"}
    for r in rows:
        if r["policy"] == BEHAVIOR and r["estimator"] != "naive":
            continue  # the same numbers again
        if (r["policy"], r["horizon"]) in eligible:
            lines.append(
                f"| {r['policy']} | {r['horizon']} | {r['truth']:.3f} ± {r['truth_se']:.3f} | {r['estimator']} | "
                f"{number(r['value'])} | {number(r['low'])} to {number(r['high'])} | {r['z']:+.1f} | {weights(r)} |"
            )
    lines += [
        "",
        "## Abstained: what would have been printed, and what speaks against it",
        "",
        f"| policy | H | truth | naive | wis (z) | pdis (z) | {weighed} | first reason |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        if (r["policy"], r["horizon"]) in eligible or r["estimator"] != "wis":
            continue
        near = {o["estimator"]: o for o in rows if (o["policy"], o["horizon"]) == (r["policy"], r["horizon"])}
        said = [f"{number(near[e]['value'])} ({near[e]['z']:+.0f})" for e in ("wis", "pdis")]
        lines.append(
            f"| {r['policy']} | {r['horizon']} | {r['truth']:.3f} | {number(near['naive']['value'])} | "
            f"{' | '.join(said)} | {weights(r)} | {r['reasons'][0]} |"
        )
    return "\n".join(lines) + "\n"


def weights(row: dict[str, Any]) -> str:
    return f"{row['ess']:.0f} | {row['mean_weight']:.2f} | {row['unseen']:.0%} | {row['far']:.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="hopper_medium-v2.hdf5, with infos/action_log_probs")
    parser.add_argument("--policies", required=True, type=Path, help="folder of the policies and ground_truth.json")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    result = run(options.data, options.policies, options.seed)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "hopper.md").write_text(markdown(result))
    rows = ",\n".join(json.dumps(row) for row in result.pop("rows"))
    (RESULTS / "hopper.json").write_text(json.dumps(result)[:-1] + f', "rows": [\n{rows}\n]}}\n')
    print(f"wrote {RESULTS / 'hopper.md'}")


if __name__ == "__main__":
    main()
