"""Direct methods on Hopper medium: nine policies whose values are known, by fitted Q evaluation and by model rollouts.

    python benchmarks/ope_hopper_direct.py run --data hopper_medium-v2.hdf5 --policies ope-policies/hopper
    python benchmarks/ope_hopper_direct.py pessimistic --data hopper_medium-v2.hdf5 --policies ope-policies/hopper
    python benchmarks/ope_hopper_direct.py report

``run`` fits one dynamics ensemble for all policies, then evaluates each, and writes one JSON per policy into
``results/ope/direct/``; what is there already is skipped, so it can be stopped and started again. ``pessimistic`` adds
a ranking by the smaller of two critics. ``report`` writes ``results/ope/hopper_direct.{json,md,png}``. The truth is
300 episodes of each policy in the simulator (``ground_truth.json`` beside the policies), discounted by 0.99, with its
standard error.

The fits are **short**: 10,000 updates of 256 x 256 networks where DOPE makes 1,000,000, some twelve CPU minutes for
everything. With LayerNorm, which DOPE has not, chosen by what needs no truth: without it half of the targets of one
policy and a twentieth of another's lay outside what the rewards can add up to.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported

import numpy as np
import torch

OUT = Path(__file__).resolve().parent / "results" / "ope"
DISCOUNT = 0.99
METHODS = {"fqe": "fitted Q evaluation", "mb": "model rollouts"}


def run(arguments: argparse.Namespace) -> None:
    """Fit and evaluate what is missing."""
    from lightning_offrl.data.readers import load
    from lightning_offrl.dynamics.ensemble import fit_dynamics
    from lightning_offrl.ope.direct.estimate import largest_return
    from lightning_offrl.ope.direct.fqe import FQESettings, fqe
    from lightning_offrl.ope.direct.model_based import model_rollouts
    from lightning_offrl.ope.policies.files import load_gaussian

    torch.set_num_threads(1)
    folder, runs = Path(arguments.policies), OUT / "direct"
    runs.mkdir(parents=True, exist_ok=True)
    truth = json.loads((folder / "ground_truth.json").read_text())["policies"]
    episodes = load(arguments.data)
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
    for path in sorted((OUT / "direct").glob("*.json")):
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


def summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Errors and rankings of both methods."""
    from lightning_offrl.ope.selection.ranking import rank_correlation, rank_correlation_interval
    from lightning_offrl.ope.weighting.intervals import from_refits

    truth = np.array([r["truth"] for r in records])
    # differences below two standard errors are no order: such policies share the mean of their values
    errors = np.array([r["truth_error"] for r in records])
    tied = truth.copy()
    order = np.argsort(truth)
    groups: list[list[int]] = [[int(order[0])]]
    for i in order[1:]:
        last = groups[-1][-1]
        if truth[i] - truth[last] < 2.0 * float(np.hypot(errors[i], errors[last])):
            groups[-1].append(int(i))
        else:
            groups.append([int(i)])
    for group in groups:
        tied[group] = truth[group].mean()
    data = np.array([r["behavior_mean"] for r in records])
    out: dict[str, Any] = {
        "policies": len(records),
        "tied_groups": [[records[i]["policy"] for i in g] for g in groups],
        "mean_absolute_error_of_the_data": float(np.abs(data - truth).mean()),
    }
    for method in METHODS:
        value = np.array([r["estimates"][method]["value"] for r in records])
        eligible = np.array([not r["estimates"][method]["flags"] for r in records])
        intervals = [
            from_refits(r["estimates"][method]["value"], torch.tensor(r["estimates"][method]["replicates"]))
            for r in records
        ]
        covered = [i.low <= t <= i.high for i, t in zip(intervals, truth, strict=True)]
        best = int(np.argmax(value))
        span = float(truth.max() - truth.min())
        out[method] = {
            "mean_absolute_error": float(np.abs(value - truth).mean()),
            "mean_relative_error": float((np.abs(value - truth) / truth).mean()),
            "unflagged": int(eligible.sum()),
            "mean_absolute_error_unflagged": float(np.abs(value - truth)[eligible].mean()) if eligible.any() else None,
            "spearman": rank_correlation(torch.tensor(value), torch.tensor(tied)),
            "spearman_95": rank_correlation_interval(torch.tensor(value), torch.tensor(tied), n_boot=5000),
            "spearman_lower": rank_correlation(torch.tensor([i.low for i in intervals]), torch.tensor(tied)),
            "spearman_unflagged": rank_correlation(torch.tensor(value[eligible]), torch.tensor(tied[eligible])),
            "spearman_untied": rank_correlation(torch.tensor(value), torch.tensor(truth)),
            "regret_at_1": float(truth.max() - truth[best]) / span,
            "chosen": records[best]["policy"],
            "covered": int(sum(covered)),
            "intervals": [[i.low, i.high] for i in intervals],
            "cpu_seconds": float(sum(r["estimates"][method]["cpu_seconds"] for r in records)),
        }
    have = [k for k, r in enumerate(records) if "pessimistic" in r]
    if len(have) > 2:
        value, true = np.array([records[k]["pessimistic"]["value"] for k in have]), truth[have]
        best = have[int(np.argmax(value))]
        out["pessimistic"] = {
            "policies": len(have),
            "spearman": rank_correlation(torch.tensor(value), torch.tensor(tied[have])),
            "spearman_95": rank_correlation_interval(torch.tensor(value), torch.tensor(tied[have]), n_boot=5000),
            "regret_at_1": float(true.max() - truth[best]) / float(true.max() - true.min()),
            "chosen": records[best]["policy"],
        }
    return out


def markdown(records: list[dict[str, Any]], found: dict[str, Any]) -> str:
    """The page of results."""
    first = records[0]
    settings = first["settings"]
    lines = [
        f"# Direct off-policy evaluation of {len(records)} policies on Hopper medium",
        "",
        f"{first['dataset']}: {first['episodes']} episodes, {first['transitions']:,} transitions of one SAC policy, "
        f"discount {DISCOUNT}. Its own discounted return is {first['behavior_mean']:.1f}: what an estimate that knew "
        "nothing of a policy would say of all of them.",
        "",
        f"FQE: {settings['updates']:,} updates, 256 x 256 with LayerNorm, one fit and {settings['refits']} refits to "
        "resampled episodes as heads of one network. Model: one ensemble of five members (200 x 3, "
        f"{first['model']['updates']:,} updates, each on its own resample) for all policies, 200 first states. "
        "Intervals: Student's t over the refits. One run, one seed. **Short fits: DOPE makes 1,000,000 updates.**",
        "",
        "| policy | truth ± s.e. | FQE [95 %] | error | MB [95 %] | error | far |",
        "|---|---|---|---|---|---|---|",
    ]
    notes = []
    for k, r in sorted(enumerate(records), key=lambda pair: -pair[1]["truth"]):
        cells = [r["policy"], f"{r['truth']:.1f} ± {r['truth_error']:.1f}"]
        for method in METHODS:
            e = r["estimates"][method]
            low, high = found[method]["intervals"][k]
            mark = f" ⚑{len(notes) + 1}" if e["flags"] else ""
            if e["flags"]:
                notes.append(f"{len(notes) + 1}. {r['policy']}, {method}: {'; '.join(e['flags'])}.")
            cells += [f"{e['value']:.1f} [{low:.0f}, {high:.0f}]{mark}", f"{e['value'] / r['truth'] - 1.0:+.0%}"]
        far = r["estimates"]["mb"]["diagnostics"].get("disagreement_ratio")
        cells.append("-" if far is None else f"{far:.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "*far*: how much the model's members disagree along its rollouts, in multiples of held-out data.",
    ]
    lines += ["", "⚑ is a flag: the tool says by itself that this number is not to be relied on.", "", *notes, ""]
    lines += ["| | FQE | MB |", "|---|---|---|"]
    rows: list[tuple[str, Any]] = [
        ("mean absolute error", lambda m: f"{m['mean_absolute_error']:.1f}"),
        ("... without flagged ones", lambda m: _unflagged(m)),
        ("Spearman, truths within 2 s.e. tied [95 %]", lambda m: _interval(m)),
        ("... of the lower bounds instead", lambda m: f"{m['spearman_lower']:.2f}"),
        ("... among those not flagged", lambda m: _few(m)),
        ("regret@1 (0 best, 1 worst)", lambda m: f"{m['regret_at_1']:.2f} ({m['chosen']})"),
        ("truth inside the interval", lambda m: f"{m['covered']} of {len(records)}"),
        ("CPU seconds", lambda m: f"{m['cpu_seconds']:.0f}"),
    ]
    lines += [f"| {label} | {cell(found['fqe'])} | {cell(found['mb'])} |" for label, cell in rows]
    lines += ["", *[_warned(records, method) for method in METHODS]]
    if "pessimistic" in found:
        low = found["pessimistic"]
        values = ", ".join(
            f"{r['policy']} {r['pessimistic']['value']:.0f}"
            for r in sorted(records, key=lambda r: -r["truth"])
            if "pessimistic" in r
        )
        lines += [
            "",
            "FQE with the smaller of two critics in its targets (one fit each, the same lengths) is a ranking and no "
            f"estimate. Of {low['policies']} policies: Spearman {_interval(low)}, "
            f"regret@1 {low['regret_at_1']:.2f} ({low['chosen']}). In the order "
            f"of the truth: {values}.",
        ]
    tied = [" = ".join(group) for group in found["tied_groups"] if len(group) > 1]
    model = first["model"]
    lines += [
        "",
        f"The mean return of the data as the estimate for all: mean absolute error "
        f"{found['mean_absolute_error_of_the_data']:.1f}. Tied in truth: {'; '.join(tied) or 'none'}. With "
        f"{len(records)} policies the standard error of a rank correlation is about "
        f"{1.0 / np.sqrt(max(len(records) - 1, 1)):.2f}. The ensemble was fitted in "
        f"{max(r['model']['cpu_seconds'] for r in records):.0f} s of CPU and explains {model['explained']:.1%} of the "
        f"variance of held-out changes ({model['worst']:.1%} of the worst number).",
        "",
        "![estimates against truth](hopper_direct.png)",
        "",
    ]
    return "\n".join(lines)


def _warned(records: list[dict[str, Any]], method: str) -> str:
    """Whether the flags stand where the errors are."""
    off = {r["policy"]: abs(r["estimates"][method]["value"] / r["truth"] - 1.0) > 0.1 for r in records}
    flagged = {r["policy"]: bool(r["estimates"][method]["flags"]) for r in records}
    wrong, right = [n for n in off if off[n]], [n for n in off if not off[n]]
    return (
        f"- {METHODS[method]}: flagged are {sum(flagged[n] for n in wrong)} of the {len(wrong)} that are off by more "
        f"than 10 %, and {sum(flagged[n] for n in right)} of the other {len(right)}."
    )


def _unflagged(m: dict[str, Any]) -> str:
    error = m["mean_absolute_error_unflagged"]
    return "none" if error is None else f"{error:.1f} ({m['unflagged']} policies)"


def _few(m: dict[str, Any]) -> str:
    # two policies have a rank correlation of 1 or -1, whatever they are
    return f"{m['spearman_unflagged']:.2f} ({m['unflagged']} policies)" if m["unflagged"] > 2 else "none"


def _interval(m: dict[str, Any]) -> str:
    low, high = m["spearman_95"]
    return f"{m['spearman']:.2f} [{low:.2f}, {high:.2f}]"


def plot(records: list[dict[str, Any]], found: dict[str, Any], path: Path) -> None:
    """Estimates with intervals against the truth, policy by policy."""
    from matplotlib.figure import Figure

    colors = {"fqe": "#0a6fb8", "mb": "#c2700a"}
    order = sorted(range(len(records)), key=lambda k: records[k]["truth"])
    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for place, k in enumerate(order):
        label = "truth (300 episodes)" if place == 0 else None
        axes.plot([records[k]["truth"]] * 2, [place - 0.36, place + 0.36], color="#1f2933", lw=2.2, label=label)
    for shift, method in ((0.14, "fqe"), (-0.14, "mb")):
        for place, k in enumerate(order):
            e = records[k]["estimates"][method]
            low, high = found[method]["intervals"][k]
            face = "white" if e["flags"] else colors[method]
            axes.plot([low, high], [place + shift] * 2, color=colors[method], lw=1.6, alpha=0.8)
            axes.plot(e["value"], place + shift, "o", color=colors[method], mfc=face, ms=6.5, mew=1.6)
        axes.plot([], [], "o-", color=colors[method], label=f"{METHODS[method]}, 95 %")
    axes.plot([], [], "o", color="#6b7785", mfc="white", mew=1.6, label="flagged by the tool")
    behavior = records[0]["behavior_mean"]
    axes.axvline(behavior, color="#6b7785", lw=1.0, ls=":", label="mean return of the data")
    values = [e["value"] for r in records for e in r["estimates"].values()] + [r["truth"] for r in records]
    margin = 0.3 * (max(values) - min(values))
    axes.set_xlim(min(values) - margin, max(values) + margin)
    axes.set_yticks(range(len(order)), [records[k]["policy"] for k in order])
    axes.set_xlabel("discounted return, gamma 0.99 (intervals may leave the frame)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncol=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def report() -> None:
    """Read what was run and write the page, the numbers and the picture."""
    records = [json.loads(p.read_text()) for p in sorted((OUT / "direct").glob("*.json"))]
    found = summary(records)
    (OUT / "hopper_direct.json").write_text(json.dumps({"summary": found, "records": records}, indent=1) + "\n")
    (OUT / "hopper_direct.md").write_text(markdown(records, found))
    plot(records, found, OUT / "hopper_direct.png")
    print(markdown(records, found))


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
