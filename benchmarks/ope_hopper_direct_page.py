"""The page, the numbers and the picture of `ope_hopper_direct`, from its records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

OUT = Path(__file__).resolve().parent / "results" / "ope"
DISCOUNT = 0.99
METHODS = {"fqe": "fitted Q evaluation", "mb": "model rollouts"}


def summary(records: list[dict[str, Any]], n_boot: int = 5000) -> dict[str, Any]:
    """Errors and rankings of both methods; with ``n_boot`` 0 without intervals of the rankings."""
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
            "spearman_95": rank_correlation_interval(torch.tensor(value), torch.tensor(tied), n_boot=n_boot),
            "spearman_lower": rank_correlation(torch.tensor([i.low for i in intervals]), torch.tensor(tied)),
            "spearman_unflagged": rank_correlation(torch.tensor(value[eligible]), torch.tensor(tied[eligible])),
            "spearman_untied": rank_correlation(torch.tensor(value), torch.tensor(truth)),
            "regret_at_1": float(truth.max() - truth[best]) / span if span > 0.0 else 0.0,
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
            "spearman_95": rank_correlation_interval(torch.tensor(value), torch.tensor(tied[have]), n_boot=n_boot),
            "regret_at_1": float(true.max() - truth[best]) / float(true.max() - true.min()),
            "chosen": records[best]["policy"],
        }
    return out


def section(records: list[dict[str, Any]], found: dict[str, Any], before: list[dict[str, Any]]) -> list[str]:
    """The part of one log; errors of ``before`` in brackets where they were others."""
    first = records[0]
    settings, model = first["settings"], first["model"]
    old = {r["policy"]: r for r in before}
    lines = [
        f"{len(records)} policies, {first['episodes']} episodes, {first['transitions']:,} transitions; mean discounted "
        f"return of the data {first['behavior_mean']:.1f}. FQE: {settings['updates']:,} updates, one fit and "
        f"{settings['refits']} refits to resampled episodes as heads of one network. Model: {model['updates']:,} "
        "updates.",
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
            error = f"{e['value'] / r['truth'] - 1.0:+.0%}"
            was = old.get(r["policy"], r)["estimates"][method]["value"]
            if round(was, 1) != round(e["value"], 1):
                error += f" (was {was / r['truth'] - 1.0:+.0%})"
            cells += [f"{e['value']:.1f} [{low:.0f}, {high:.0f}]{mark}", error]
        far = r["estimates"]["mb"]["diagnostics"].get("disagreement_ratio")
        cells.append("-" if far is None else f"{far:.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *notes, *([""] if notes else [])]
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
    seconds = max(r["model"]["cpu_seconds"] for r in records)
    lines += [
        "",
        f"The mean return of the data as the estimate for all: mean absolute error "
        f"{found['mean_absolute_error_of_the_data']:.1f}. Tied in truth: {'; '.join(tied) or 'none'}. The ensemble was "
        f"fitted in {seconds:.0f} s of CPU and explains {model['explained']:.1%} of the variance of held-out changes "
        f"({model['worst']:.1%} of the worst number).",
        "",
    ]
    return lines


def markdown(logs: dict[str, list[dict[str, Any]]], before: dict[str, list[dict[str, Any]]]) -> str:
    """The page of results."""
    lines = [
        f"# Direct off-policy evaluation of policies on {len(logs)} Hopper logs",
        "",
        f"Values are discounted by {DISCOUNT}. FQE: 256 x 256 with LayerNorm. Model: one ensemble of five members "
        "(200 x 3, each on its own resample) for all policies, 200 first states. Intervals: Student's t over the "
        "refits. One run, one seed. **Short fits: DOPE makes 1,000,000 updates.** With nine policies the standard "
        "error of a rank correlation is about 0.35.",
        "",
        *beside(logs, before),
        "![estimates against truth](hopper_direct.png)",
        "",
        "In the tables below ⚑ is a flag: the tool says by itself that this number is not to be relied on. *far*: how "
        "much the model's members disagree along its rollouts, in multiples of held-out data.",
        "",
    ]
    for name, records in logs.items():
        lines += [f"## {name}", "", *section(records, summary(records), before.get(name, []))]
    return "\n".join(lines)


def beside(logs: dict[str, list[dict[str, Any]]], before: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Both methods on each log before the sampler was repaired and now, of the policies that have both."""
    lines = [
        "Before and now: until the sampler of truncated normals was repaired, ppo, a2c and ars_std0.1 were asked for "
        "actions that they do not take.",
        "",
        "| log | policies | error of the data's mean | method | mean absolute error | of those not flagged | "
        "Spearman, ties as ties | off by more than 10 %, of these flagged | flagged without need |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, records in logs.items():
        old = {r["policy"]: r for r in before.get(name, [])}
        both = [r for r in records if r["policy"] in old]
        if not both:
            continue
        was = [old[r["policy"]] for r in both]
        found = [summary(was, 0), summary(both, 0)]
        for method in METHODS:
            warned = [warnings_of(of, method) for of in (was, both)]
            cells = [
                [f"{f[method]['mean_absolute_error']:.1f}" for f in found],
                [_unflagged(f[method], "") for f in found],
                [f"{f[method]['spearman']:.2f}" for f in found],
                [f"{w['off']}, {w['off and flagged']}" for w in warned],
                [f"{w['right and flagged']}" for w in warned],
            ]
            head = [name, f"{len(both)}", f"{found[1]['mean_absolute_error_of_the_data']:.1f}", method.upper()]
            lines.append("| " + " | ".join([*head, *(" → ".join(pair) for pair in cells)]) + " |")
    return [*lines, ""]


def warnings_of(records: list[dict[str, Any]], method: str) -> dict[str, int]:
    """How many are off by more than 10 %, and how many of these and of the others are flagged."""
    estimates = [(r["estimates"][method], r["truth"]) for r in records]
    off = [bool(e["flags"]) for e, truth in estimates if abs(e["value"] / truth - 1.0) > 0.1]
    right = [bool(e["flags"]) for e, truth in estimates if not abs(e["value"] / truth - 1.0) > 0.1]
    return {"off": len(off), "off and flagged": sum(off), "right": len(right), "right and flagged": sum(right)}


def _warned(records: list[dict[str, Any]], method: str) -> str:
    """Whether the flags stand where the errors are."""
    found = warnings_of(records, method)
    return (
        f"- {METHODS[method]}: flagged are {found['off and flagged']} of the {found['off']} that are off by more than "
        f"10 %, and {found['right and flagged']} of the other {found['right']}."
    )


def _unflagged(m: dict[str, Any], of: str = " policies") -> str:
    error = m["mean_absolute_error_unflagged"]
    return "none" if error is None else f"{error:.1f} ({m['unflagged']}{of})"


def _few(m: dict[str, Any]) -> str:
    # two policies have a rank correlation of 1 or -1, whatever they are
    return f"{m['spearman_unflagged']:.2f} ({m['unflagged']} policies)" if m["unflagged"] > 2 else "none"


def _interval(m: dict[str, Any]) -> str:
    low, high = m["spearman_95"]
    return f"{m['spearman']:.2f} [{low:.2f}, {high:.2f}]"


def plot(logs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Estimates with intervals against the truth, policy by policy, one panel for each log."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.2 * len(logs) + 0.6), layout="constrained")
    panels = figure.subplots(len(logs), squeeze=False)[:, 0]
    for axes, (name, records) in zip(panels, logs.items(), strict=True):
        _panel(axes, records, summary(records, 0))
        axes.set_title(name, loc="left", fontsize=10)
    panels[-1].set_xlabel("discounted return, gamma 0.99 (intervals may leave the frame)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncol=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def _panel(axes: Any, records: list[dict[str, Any]], found: dict[str, Any]) -> None:
    colors = {"fqe": "#0a6fb8", "mb": "#c2700a"}
    order = sorted(range(len(records)), key=lambda k: records[k]["truth"])
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
    axes.axvline(records[0]["behavior_mean"], color="#6b7785", lw=1.0, ls=":", label="mean return of the data")
    values = [e["value"] for r in records for e in r["estimates"].values()] + [r["truth"] for r in records]
    margin = 0.3 * (max(values) - min(values))
    axes.set_xlim(min(values) - margin, max(values) + margin)
    axes.set_yticks(range(len(order)), [records[k]["policy"] for k in order])
    axes.spines[["top", "right"]].set_visible(False)


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Records by the name of the log, of every folder that has some."""
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name != "before") if folder.is_dir() else []
    found = {name: [json.loads(p.read_text()) for p in sorted((folder / name).glob("*.json"))] for name in names}
    return {name: records for name, records in found.items() if records}


def report() -> None:
    """Read what was run and write the page, the numbers and the picture."""
    logs, before = read(OUT / "direct"), read(OUT / "direct" / "before")
    if not logs:
        raise SystemExit(f"there are no results under {OUT / 'direct'} yet; run the verb run first")
    numbers = {
        key: {name: {"summary": summary(records), "records": records} for name, records in of.items()}
        for key, of in (("logs", logs), ("before", before))
    }
    (OUT / "hopper_direct.json").write_text(json.dumps(_plain(numbers), indent=1) + "\n")
    (OUT / "hopper_direct.md").write_text(markdown(logs, before))
    plot(logs, OUT / "hopper_direct.png")
    print(markdown(logs, before))


def _plain(x: Any) -> Any:
    """Without NaN, which JSON has not."""
    if isinstance(x, dict):
        return {key: _plain(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(value) for value in x]
    return None if isinstance(x, float) and not np.isfinite(x) else x
