"""The tables of ``ranking.py``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

EVIDENCE = ("weights", "near Q", "fitted", "one wrong", "optimistic")
NOW = "smallest lower bound"


def write(records: list[dict[str, Any]], out: Path | None) -> str:
    """The page; stored with the means of each setting if ``out`` is a folder."""
    text = page(records)
    if out is not None:
        kinds = ("regret", "harm", "alone", "claim", "bounded", "covered", "size")
        short = [
            {
                k: {key: round(float(np.mean(v)), 4) for key, v in x.items()} if k in kinds else x
                for k, x in r.items()
                if k != "group"
            }
            for r in records
        ]
        (out / "ranking.json").write_text(json.dumps(short) + "\n")
        (out / "ranking.md").write_text(text)
    return text


def page(records: list[dict[str, Any]]) -> str:
    """All tables."""
    logs = sum(r["logs"] for r in records)
    lines = [
        "# Which number should rank policies, and which of them may be the best",
        "",
        f"`python benchmarks/ranking.py`: {len(records)} settings, {logs:,} logs. Regret is the value of the best "
        "policy that has an estimate minus that of the chosen one, in % of the range of the candidates' values (the "
        "one that the log does not show left aside). Differences to the rule of the first line are of the same logs, "
        "with standard errors over problems.",
        "",
        "| rank by | " + " | ".join(f"regret, {e}" for e in EVIDENCE) + " | all | difference to the first | worst "
        "setting | worse than the data | chosen by fitted values alone |",
        "|---|" + "---|" * (len(EVIDENCE) + 5),
    ]
    for key in records[0]["regret"]:
        cells = [_percent(_mean([r for r in records if r["evidence"] == e], "regret", key)) for e in EVIDENCE]
        off, error = _difference(records, "regret", key)
        more, chance = _difference(records, "harm", key)
        worst = max(float(np.mean(r["regret"][key])) for r in records)
        fitted = [r for r in records if r["evidence"] in ("fitted", "one wrong", "optimistic")]
        cells += [
            _percent(_mean(records, "regret", key)),
            "" if key == NOW else f"{100 * off:+.2f} ± {100 * error:.2f}",
            _percent(worst),
            _percent(_mean(records, "harm", key))
            + ("" if key == NOW else f" ({100 * more:+.2f} ± {100 * chance:.2f})"),
            _percent(_mean(fitted, "alone", key)) if fitted else "",
        ]
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    lines += ["", "## The claim about the chosen policy", "", _claims(records), "", "## Who may be the best", ""]
    lines += [
        "How often the set holds the best policy (at least 95 % is promised), mean and lowest of all settings, and "
        "what share of the candidates it holds.",
        "",
        "| rule | " + " | ".join(f"{e}: held (lowest), size" for e in EVIDENCE) + " |",
        "|---|" + "---|" * len(EVIDENCE),
    ]
    for rule in records[0]["covered"]:
        cells = []
        for e in EVIDENCE:
            of = [r for r in records if r["evidence"] == e]
            if of:
                lowest = min(float(np.mean(r["covered"][rule])) for r in of)
                cells.append(
                    f"{_percent(_mean(of, 'covered', rule))} ({_percent(lowest)}), {_percent(_mean(of, 'size', rule))}"
                )
        lines.append(f"| {rule} | " + " | ".join(cells) + " |")
    lines += ["", "## Each setting", "", *_settings(records)]
    return "\n".join(lines) + "\n"


def _claims(records: list[dict[str, Any]]) -> str:
    """How often a claim about the chosen one is too high."""
    pairs = [name.split("|") for name in records[0]["claim"]]
    keys, claims = list(dict.fromkeys(k for k, _ in pairs)), list(dict.fromkeys(c for _, c in pairs))
    lines = [
        "How often the number that is claimed for the chosen policy lies above its true value, by weights alone or "
        "with a near Q: mean, and the highest of all settings; behind the semicolon with fits. A lower bound of a 95 % "
        "interval may fail in 2.5 % of the cases for a policy that was not chosen by it.",
        "",
        "| rank by | " + " | ".join(f"claim: {c}" for c in claims) + " | claim: no other is better by more than the "
        "bound of the regret |",
        "|---|" + "---|" * (len(claims) + 1),
    ]
    fair = [r for r in records if r["evidence"] in ("weights", "near Q")]
    rest = [r for r in records if r["evidence"] == "fitted"]

    def cell(wrong: Callable[[dict[str, Any]], float]) -> str:
        parts = [[wrong(r) for r in some] for some in (fair, rest) if some]
        return "; ".join(f"{_percent(float(np.mean(part)))} ({_percent(max(part))})" for part in parts)

    for key in keys:
        cells = [cell(lambda r, name=f"{key}|{claim}": float(np.mean(r["claim"][name]))) for claim in claims]
        cells.append(cell(lambda r, name=key: 1.0 - float(np.mean(r["bounded"][name]))))
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _settings(records: list[dict[str, Any]]) -> list[str]:
    keys = list(records[0]["regret"])
    lines = [
        "Regret in %.",
        "",
        "| problem | episodes | candidates | with an estimate | evidence | " + " | ".join(keys) + " |",
        "|---|---|---|---|---|" + "---|" * len(keys),
    ]
    for r in records:
        numbers = " | ".join(f"{100 * float(np.mean(r['regret'][key])):.1f}" for key in keys)
        lines.append(
            f"| {r['problem']} | {r['episodes']:,} | {r['candidates']} | {r['eligible']:.1f} | {r['evidence']} | "
            f"{numbers} |"
        )
    return lines


def _mean(records: list[dict[str, Any]], kind: str, key: str) -> float:
    return float(np.mean([np.mean(r[kind][key]) for r in records])) if records else float("nan")


def _difference(records: list[dict[str, Any]], kind: str, key: str) -> tuple[float, float]:
    """Mean over settings of the paired difference to the first rule, and its standard error."""
    share: dict[tuple[str, int], dict[int, float]] = {}  # of each problem in the mean, by kind of problem
    for r in records:
        of = share.setdefault((r["problem"], r["candidates"]), {})
        for group, a, b in zip(r["group"], r[kind][key], r[kind][NOW], strict=True):
            of[group] = of.get(group, 0.0) + (a - b) / r["logs"] / len(records)
    parts = [np.array(list(of.values())) for of in share.values()]
    variance = sum(len(part) * float(part.var(ddof=1)) for part in parts if len(part) > 1)
    return float(sum(part.sum() for part in parts)), float(np.sqrt(variance))


def _percent(x: float) -> str:
    return f"{100 * x:.1f} %" if np.isfinite(x) else ""
