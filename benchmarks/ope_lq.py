"""Direct methods on a linear-quadratic system whose value is solved: how far off are they, seed by seed?

    python benchmarks/ope_lq.py [--seeds 5]

Two dimensions, Gaussian policies, discount 0.95; the target policy's value from a Lyapunov equation, at the very first
states of each log, so that nothing but the method's own error and the log's noise is left. Each seed has its own log
and its own fits. Writes ``results/ope/lq.{json,md}``; two CPU minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the system is that of the tests

import numpy as np
import torch

from lightning_offrl.ope.direct.dice import dice
from lightning_offrl.ope.direct.fqe import FQESettings, fqe
from lightning_offrl.ope.direct.lstd import lstd
from tests.ope.linear_quadratic import BEHAVIOR, DISCOUNT, TARGET

OUT = Path(__file__).resolve().parent / "results" / "ope"
EPISODES, STEPS = 200, 50
METHODS: dict[str, tuple[str, Any]] = {
    "fqe": (
        "FQE, 64 x 64, 6,000 updates of 256",
        lambda episodes, seed: fqe(
            TARGET.policy(), episodes, discount=DISCOUNT, updates=6000, settings=FQESettings(hidden=(64, 64)), seed=seed
        ),
    ),
    "lstd": (
        "LSTD, quadratic features (hold the exact Q)",
        lambda episodes, seed: lstd(TARGET.policy(), episodes, discount=DISCOUNT, seed=seed),
    ),
    "dice": (
        "DICE, 64 x 64, 5,000 updates of 1,024",
        lambda episodes, seed: dice(TARGET.policy(), episodes, discount=DISCOUNT, updates=5000, seed=seed),
    ),
}


def measure(seed: int) -> dict[str, Any]:
    """One log and a fit of each method."""
    episodes = BEHAVIOR.episodes(EPISODES, STEPS, seed=seed)
    first = episodes.data["observation"][episodes.start].double().numpy()
    p = TARGET.lyapunov()
    truth = TARGET.value() + np.trace(p) - np.einsum("bi,ij,bj->b", first, p, first).mean()
    record: dict[str, Any] = {"seed": seed, "truth": float(truth)}
    for name, (_, fit) in METHODS.items():
        began = time.process_time()
        found = fit(episodes, seed)
        record[name] = {
            "value": found.value,
            "error": found.value / truth - 1.0,
            "flags": found.flags,
            "cpu_seconds": round(time.process_time() - began, 1),
        }
        print(seed, name, f"{found.value:.3f} of {truth:.3f}", found.flags, flush=True)
    return record


def markdown(records: list[dict[str, Any]]) -> str:
    """The page of results."""
    lines = [
        "# Direct off-policy evaluation of a linear-quadratic system",
        "",
        f"Two dimensions, {EPISODES} episodes of {STEPS} steps, discount {DISCOUNT}. The target policy's value is "
        f"{TARGET.value():.3f} over standard normal first states, the behavior policy's {BEHAVIOR.value():.3f}, both "
        "from a Lyapunov equation. Below, the truth is that at the first states of each log. Each seed has its own log "
        "and its own fit.",
        "",
        "| seed | truth | " + " | ".join(METHODS) + " |",
        "|---|---|" + "---|" * len(METHODS),
    ]
    for r in records:
        cells = [f"{r[m]['value']:.3f} ({r[m]['error']:+.1%}){' ⚑' if r[m]['flags'] else ''}" for m in METHODS]
        lines.append(f"| {r['seed']} | {r['truth']:.3f} | " + " | ".join(cells) + " |")
    largest = [max(abs(r[m]["error"]) for r in records) for m in METHODS]
    mean = [float(np.mean([abs(r[m]["error"]) for r in records])) for m in METHODS]
    lines.append("| | largest error | " + " | ".join(f"{x:.1%}" for x in largest) + " |")
    lines.append("| | mean error | " + " | ".join(f"{x:.1%}" for x in mean) + " |")
    seconds = [float(np.mean([r[m]["cpu_seconds"] for r in records])) for m in METHODS]
    lines.append("| | CPU seconds | " + " | ".join(f"{x:.1f}" for x in seconds) + " |")
    lines += ["", *[f"- `{name}`: {words}." for name, (words, _) in METHODS.items()]]
    flags = sorted({f"`{m}`, seed {r['seed']}: {flag}" for r in records for m in METHODS for flag in r[m]["flags"]})
    lines += ["", "⚑ is a flag of the tool itself:", "", *[f"- {flag}." for flag in flags]] if flags else []
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    torch.set_num_threads(1)
    records = [measure(seed) for seed in range(parser.parse_args().seeds)]
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "lq.json").write_text(json.dumps(records, indent=1) + "\n")
    (OUT / "lq.md").write_text(markdown(records))
    print(markdown(records))


if __name__ == "__main__":
    main()
