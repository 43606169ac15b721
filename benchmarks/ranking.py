"""Which number should rank policies from a log, and which of them may be the best? Where all values are known exactly.

    python benchmarks/ranking.py [--logs 300]

Random processes, a contextual bandit, a cliff and (by weights alone) the sepsis ward; 5 to 20 candidates, among them
near-duplicates, one with little support and one that the log does not show (`ranking_problems`). Every log is evaluated
as ``offrl select`` does it: the same weights, estimators, limits, 1,000 resamples, 10 refits, intervals at 95 %. Five
kinds of evidence:

    weights     wis, pdis, cwpdis
    near Q      these, and dr and wdr with a Q that is exact but for noise of a tenth of its spread
    fitted      all of these with a Q fitted to the log (counted: no network), and that fit's own value ("fqe")
    one wrong   the same, where the value of one fit, of a policy with eligible weights, is too high by half the range
    optimistic  the same fit, which takes what the log does not show for good

Writes ``results/ranking.{json,md}``; about ten minutes of one core.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is imported

import numpy as np
import torch
from ranking_page import write
from ranking_problems import PROBLEMS, Log, Problem, draw, fitted, seen_by
from torch import Tensor

from lightning_offrl.ope.checks.weight_diagnostics import check_weights
from lightning_offrl.ope.direct.estimate import multiplicities
from lightning_offrl.ope.estimate import Row
from lightning_offrl.ope.selection.confidence_set import PairedDifferences, gaps_of
from lightning_offrl.ope.weighting.doubly_robust import doubly_robust
from lightning_offrl.ope.weighting.importance import importance_sampling, per_decision
from lightning_offrl.ope.weighting.intervals import Interval, Resamples, student_t

OUT = Path(__file__).resolve().parent / "results"
N_BOOT, LEVEL = 1000, 0.95
ESTIMATORS = ("wis", "pdis", "cwpdis", "dr", "wdr", "fqe")
FQE = 5
SPEAKERS = ("wdr", "dr", "fqe", "cwpdis", "wis", "pdis")
REFITS = 10
LOGS_PER_PROBLEM = 5
EVIDENCE = ("weights", "near Q", "fitted", "one wrong", "optimistic")
SETTINGS = [
    (name, episodes, candidates, evidence)
    for name, sizes, candidates in (
        ("random process", (200, 1000), 10),
        ("random process", (500,), 20),
        ("random process", (500,), 5),
        ("bandit", (100, 500), 10),
        ("cliff", (200, 500), 10),
        ("sepsis", (500,), 8),
    )
    for episodes in sizes
    for evidence in (EVIDENCE[:1] if name == "sepsis" else EVIDENCE)
]


def columns(of: Problem, log: Log, policy: int, table: np.ndarray | None) -> tuple[bool, list[str], list[Tensor]]:
    """Whether the weights are eligible, and what estimates are sums of ratios of, ``[n, K]`` each (see `estimates`).

    ``wis`` and ``cwpdis`` divide by the same weights, and so does ``wdr``, whose v at step t + 1 has the weight of t.
    """
    data = seen_by(of, log, policy, table)
    eligible = check_weights(data).eligible
    names, parts = [], []
    if eligible:
        wis = importance_sampling(data, normalized=True)
        cwpdis = per_decision(data, normalized=True)
        names += ["weight", "wis", "pdis", "cwpdis"]
        parts += [cwpdis.denominator, wis.numerator, per_decision(data).per_episode.unsqueeze(-1), cwpdis.numerator]
        top = data.log_weights.amax(0, keepdim=True)  # what `weighted` takes out before exp
        if data.q is not None and data.v is not None:
            weight = torch.exp(data.log_weights - top)
            later = torch.cat([data.factors * data.v, torch.zeros_like(data.v[:, :1])], -1)[:, 1:]
            names += ["dr", "first", "wdr"]
            parts += [
                doubly_robust(data).per_episode.unsqueeze(-1),
                data.v[:, :1],
                weight * (data.factors * (data.reward - data.q) + later),
            ]
    return eligible, names, parts


def estimates(names: list[str], parts: list[Tensor]) -> dict[str, Tensor]:
    """Estimates from the means ``[..., K]`` of `columns`."""
    of = dict(zip(names, parts, strict=True))
    out = {name: of[name][..., 0] for name in ("pdis", "dr") if name in of}
    if "weight" in of:
        out["wis"] = of["wis"][..., 0] / of["weight"][..., -1]
        out["cwpdis"] = (of["cwpdis"] / of["weight"]).sum(-1)
    if "wdr" in of:
        out["wdr"] = of["first"][..., 0] + (of["wdr"] / of["weight"]).sum(-1)
    return out


@dataclass(frozen=True)
class Found:
    """All estimates of P policies from one log.

    Attributes:
        values: ``[P, E]``, NaN where not eligible.
        resampled: ``[P, E, R]``, estimates from weights in the resamples, NaN for fits.
        refits: ``[P, REFITS, E]``, all estimates in the resamples of the fits.
        weighed: ``[P]`` bool, the weights are eligible.
    """

    values: Tensor
    resampled: Tensor
    refits: Tensor
    weighed: Tensor

    @property
    def error(self) -> Tensor:
        """``[P, E]``, standard errors."""
        out = self.resampled.std(-1)
        out[:, FQE] = self.refits[..., FQE].std(-1)
        return out

    def lower(self, tail: Tensor) -> Tensor:
        """``[P, E]``, the bounds below which the value lies with probability ``tail`` ``[P]``."""
        ordered = self.resampled.nan_to_num(torch.inf).sort(-1).values
        place = tail * (N_BOOT - 1)
        first = place.long().clamp(max=N_BOOT - 2)
        index = first[:, None, None].expand(-1, len(ESTIMATORS), 1)
        left, right = ordered.gather(-1, index).squeeze(-1), ordered.gather(-1, index + 1).squeeze(-1)
        out = left + (place - first)[:, None] * (right - left)
        factor = torch.tensor([_student(round(float(t), 6)) for t in tail], dtype=torch.float64)
        out[:, FQE] = self.values[:, FQE] + factor * self.error[:, FQE]
        return torch.where(self.values.isnan(), torch.nan, out)

    def select(self, kept: Tensor) -> Found:
        """Of some policies."""
        return Found(self.values[kept], self.resampled[kept], self.refits[kept], self.weighed[kept])


@cache
def _student(tail: float) -> float:
    return student_t(tail, REFITS - 1)


def evaluated(of: Problem, log: Log, counts: Tensor, evidence: str, rng: Any) -> Found:
    """Every candidate's estimates.

    Args:
        of: the problem.
        log: drawn from it.
        counts: ``[R, n]``, resamples for what rests on weights.
        evidence: one of `EVIDENCE`.
        rng: of the noise of a near Q.
    """
    p, n = len(of.policies), len(log.mask)
    again = multiplicities(n, REFITS, 0)
    tables = fits = None
    if evidence == "near Q":
        tables = _near(of, rng)
    elif evidence != "weights":
        fits, tables = fitted(of, log, again.numpy(), evidence == "optimistic")
    found = [columns(of, log, i, None if tables is None else tables[i]) for i in range(p)]
    wide = torch.cat([torch.empty(n, 0).double(), *(part for _, _, parts in found for part in parts)], -1)
    tall = torch.cat([again, counts]) @ wide / n  # all episodes once, then resamples for fits, then for weights
    table = torch.full((p, len(ESTIMATORS), len(tall)), torch.nan, dtype=torch.float64)
    at = 0
    for i, (_, names, parts) in enumerate(found):
        sizes = [part.shape[-1] for part in parts]
        for name, value in estimates(names, list(tall[:, at : at + sum(sizes)].split(sizes, -1))).items():
            table[i, ESTIMATORS.index(name)] = value
        at += sum(sizes)
    if fits is not None:
        table[:, FQE, : 1 + REFITS] = torch.from_numpy(fits)
    weighed = torch.tensor([eligible for eligible, _, _ in found])
    if evidence == "one wrong" and bool(weighed.any()):
        table[rng.choice(np.flatnonzero(weighed.numpy())), FQE] += 0.5 * float(np.ptp(of.values[:-1]))
    return Found(table[..., 0], table[..., 1 + REFITS :], table[..., 1 : 1 + REFITS].mT, weighed)


def speaking(values: Tensor) -> Tensor:
    """``[P]`` int64, the estimate that speaks; -1 where none is eligible."""
    out = torch.full((len(values),), -1)
    for name in reversed(SPEAKERS):
        at = ESTIMATORS.index(name)
        out = torch.where(values[:, at].isnan(), out, at)
    return out


def spoken_rows(found: Found) -> list[Row]:
    """The speakers as the package has them."""
    rows = []
    counts = multiplicities(2, REFITS, 0)[1:]  # stands for those of the log: the same for all
    for i, e in enumerate(speaking(found.values).tolist()):
        value, error = float(found.values[i, e]), float(found.error[i, e])
        around = Interval(value - error, value + error, 0.68, "")
        if e == FQE:
            row = Row("fqe", "values", value, "eligible", around, resampled=found.refits[i, :, e], counts=counts)
        else:
            stand_in: Any = KeySet(found.refits[i, :, e])
            row = Row(ESTIMATORS[e], "weights", value, "eligible", around)
            row.resampled, row.terms = found.resampled[i, e], stand_in
        rows.append(row)
    return rows


@dataclass(frozen=True)
class KeySet:
    """In place of `PerEpisodeTerms`: the estimate in the resamples of the fits, known already."""

    refits: Tensor
    n: int = 2

    def resampled(self, counts: Tensor) -> Tensor:
        return self.refits


def keys(found: Found, compared: PairedDifferences) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Numbers to rank by, and claims about values: ``[P]`` each; all policies have an estimate."""
    half = (1.0 - LEVEL) / 2.0
    values, error, known = found.values, found.error, ~found.values.isnan()
    p = len(values)
    low = found.lower(torch.full((p,), half, dtype=torch.float64))
    divided = found.lower(half / known.sum(-1).double())
    speaks = speaking(values).unsqueeze(-1)
    of = lambda table: table.gather(-1, speaks).squeeze(-1)  # noqa: E731
    shift = ((found.resampled - values.unsqueeze(-1)) / error.unsqueeze(-1)).nan_to_num(-torch.inf).amax(1)
    together = torch.where(found.weighed, shift.quantile(1.0 - half, -1), 0.0).clamp(min=1.96)
    simultaneous = values - together.unsqueeze(-1) * error
    simultaneous[:, FQE] = divided[:, FQE]
    by = {
        "smallest lower bound": low.nan_to_num(torch.inf).amin(-1),
        "lower bound of the representative_estimate": of(low),
        "representative_estimate minus one error": of(values) - of(error),
        "lower bound of the narrowest": low.gather(-1, error.nan_to_num(torch.inf).argmin(-1, True)).squeeze(-1),
        "largest lower bound": low.nan_to_num(-torch.inf).amax(-1),
        "largest, Bonferroni": divided.nan_to_num(-torch.inf).amax(-1),
        "largest, simultaneous": simultaneous.nan_to_num(-torch.inf).amax(-1),
        "point estimate": of(values),
        "smallest regret bound": -compared.regret,
    }
    all_policies = found.lower(torch.full((p,), half / p, dtype=torch.float64))
    claims = {
        "smallest lower bound": by["smallest lower bound"],
        "representative_estimate": by["lower bound of the representative_estimate"],
        "smallest, for all policies": all_policies.nan_to_num(torch.inf).amin(-1),
        "representative_estimate, for all policies": of(all_policies),
    }
    return by, claims


def top_sets(by: dict[str, Tensor], found: Found, compared: PairedDifferences) -> dict[str, Tensor]:
    """``[P]`` bool each: who is not shown worse than the best."""
    spoken, mean = by["lower bound of the representative_estimate"], by["point estimate"]
    high = 2.0 * mean - spoken
    best = int(mean.argmax())
    alone = compared.gap[:, best] <= 1.645 * compared.error[:, best]
    return {
        "interval reaches the best smallest lower bound": high >= by["smallest lower bound"].max(),
        "interval reaches the best lower bound of a representative_estimate": high >= spoken.max(),
        "paired difference to the best estimate, one at a time": alone,
        "paired differences to all rivals together": compared.kept,
    }


def measure(setting: tuple[str, int, int, str], logs: int, counts: Tensor) -> dict[str, Any]:
    """One setting over all its logs."""
    name, episodes, candidates, evidence = setting
    began = time.process_time()
    per_problem = LOGS_PER_PROBLEM if name != "sepsis" else max(1, logs // 4)
    rows: list[dict[str, Any]] = []
    for number in range(logs):
        if number % per_problem == 0:
            of, rng = _problem(name, candidates, number), np.random.default_rng([1, number])
        log = draw(of, episodes, seed=1000 + number)
        rows.append(judged(of, evaluated(of, log, counts, evidence, rng)))
        if rows[-1]:
            rows[-1]["group"] = number // per_problem
    rows = [row for row in rows if row]
    out: dict[str, Any] = {
        "problem": name,
        "episodes": episodes,
        "candidates": candidates,
        "evidence": evidence,
        "logs": len(rows),
        "group": [row["group"] for row in rows],
    }
    out["eligible"] = float(np.mean([row["eligible"] for row in rows]))
    for kind in ("regret", "harm", "alone", "claim", "bounded", "covered", "size"):
        out[kind] = {key: [float(row[kind][key]) for row in rows] for key in rows[0][kind]}
    out["cpu_seconds"] = round(time.process_time() - began, 1)
    return out


@lru_cache(maxsize=70)
def _problem(name: str, candidates: int, number: int) -> Problem:
    seed = [20240, number, sorted(PROBLEMS).index(name), candidates]
    return PROBLEMS[name](np.random.default_rng(seed), candidates)


def _near(of: Problem, rng: Any) -> np.ndarray:
    """``[P, H, S, A]``, the exact Q with noise of a tenth of its spread."""
    visits = of.mdp.visits(of.behavior, of.horizon)
    q = of.q[:, 0]
    spread = np.sqrt((visits * (q - (of.behavior * q).sum(-1, keepdims=True)) ** 2).sum((-1, -2)) / visits.sum())
    noise = 0.1 * spread[:, None, None] * rng.standard_normal(q.shape) * ~of.mdp.terminal[:, None]
    return of.q + noise[:, None]


def judged(of: Problem, found: Found) -> dict[str, Any]:
    """What each key chose, against the truth; empty where fewer than two policies have an estimate."""
    kept = (~found.values.isnan()).any(-1)
    if int(kept.sum()) < 2:
        return {}
    truth, found = torch.from_numpy(of.values)[kept], found.select(kept)
    compared = gaps_of(spoken_rows(found), LEVEL)
    by, claims = keys(found, compared)
    sets = top_sets(by, found, compared)
    span, best = float(np.ptp(of.values[:-1])), int(truth.argmax())  # not down to the one that nobody would try
    chosen = {key: int(number.argmax()) for key, number in by.items()}
    return {
        "eligible": int(kept.sum()),
        "regret": {key: float(truth[best] - truth[i]) / span for key, i in chosen.items()},
        "harm": {key: float(truth[i]) < of.behavior_value for key, i in chosen.items()},
        "alone": {key: not bool(found.weighed[i]) for key, i in chosen.items()},
        "claim": {
            f"{key}|{claim}": float(number[i]) > float(truth[i])
            for key, i in chosen.items()
            for claim, number in claims.items()
        },
        "bounded": {key: float(compared.regret[i]) >= float(truth[best] - truth[i]) for key, i in chosen.items()},
        "covered": {rule: bool(inside[best]) for rule, inside in sets.items()},
        "size": {rule: float(inside.double().mean()) for rule, inside in sets.items()},
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, default=300)
    parser.add_argument("--only", help="a problem's name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts: dict[int, Tensor] = {}
    records = []
    for setting in SETTINGS:
        if options.only and setting[0] != options.only:
            continue
        n = setting[1]
        if n not in counts:
            counts[n] = next(iter(Resamples(n, N_BOOT, 0).counts()))
        records.append(measure(setting, options.logs, counts[n]))
        print(*setting, f"{records[-1]['cpu_seconds']} s", flush=True)
    print(write(records, None if options.only or options.logs < 100 else OUT))


if __name__ == "__main__":
    main()
