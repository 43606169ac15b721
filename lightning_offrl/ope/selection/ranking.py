"""Choosing among several policies by their evaluations, and judging such choices where the truth is known.

    value         the representative estimate of the policy, see `representative_estimate`
    less error    that estimate less one standard error
    lower         the lower bound of its interval
    conservative  the smallest lower bound of the eligible estimates: what is safe to claim of a policy
    regret        how much better than it another policy can be, at most
    top set       policies that may be the best, by paired differences (`lightning_offrl.ope.selection.confidence_set`)

What is safe to claim is not what chooses best. The smallest of all bounds is that of the noisiest estimate, and a
policy with few estimates has few to fear; the largest lets one wrong estimate choose; the value alone heeds no error.
Over 12,204 logs of policies with known values (``benchmarks/ranking.py``):

                            loss of the choice, % of     the same where one    choice worse
                            the range of the values      fit is far too high   than the data
    smallest lower bound    10.2                         11.4                  3.8 %
    largest lower bound     10.0                         19.9                  3.1 %
    lower                    8.6                         10.1                  3.3 %
    less error               7.4                          7.8                  3.3 %
    value                    7.3                          7.5                  3.8 %
    regret                   7.5                          7.6                  3.7 %

Therefore policies are ranked by the value less one standard error. What is claimed of the chosen one stays its
conservative value: with weights alone or a good Q it lies above the truth in 0.7 % of the choices (at most 2.0 % in any
setting; 2.5 % are promised). With fits that are biased it fails more often, by whatever policies are ranked.

The best of K estimates is too high, because it was chosen for being high: evaluate the chosen policy again on episodes
that took no part in the choice.

Measures of a ranking, with known truths (definitions differ between programs, so they are spelt out):

    absolute error         mean |estimate - truth|, also over (max truth - min truth)
    rank correlation       Spearman's, ties share their average rank
    regret@k               (max truth - max truth among the k best by estimate) / (max truth - min truth)
    regret@1 of all        the same with those that abstain among the truths: they cannot be chosen, however good
    regret_sum@k           sum of the k largest truths - sum of the truths of the k best by estimate
    unsafe called safe     share of the policies truly below the threshold that the estimate puts above it
    safe called unsafe     share of the policies truly above it that the estimate puts below
    SharpeRatio@k          (max truth among the k best by estimate - behavior's value) / their deviation (1/k),
                           the behavior, known from its log, being one of the candidates   (Kiyohara et al., 2023)
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_offrl.data.text_table import aligned
from lightning_offrl.errors import InputError
from lightning_offrl.ope.estimate import Row
from lightning_offrl.ope.result import OPEResult
from lightning_offrl.ope.selection.confidence_set import gaps_of
from lightning_offrl.ope.text import WIDTH, bounds, number
from lightning_offrl.ope.verdict import REPRESENTATIVES
from lightning_offrl.training.old_code import takes_old_keywords

RANKINGS = {
    "less-error": "the representative estimate less one standard error",
    "lower": "the lower bound of the representative estimate",
    "conservative": "the conservative value, the smallest lower bound of all eligible estimates",
    "value": "the representative estimate",
    "regret": "how much better another policy may be, at most",
}
"""What policies can be ranked by."""
RANK_BY = "less-error"


@dataclass
class Choice:
    """Several policies, ranked.

    Attributes:
        names: The names of the policies, as given.
        estimates: ``[P]`` representative estimates; NaN where nothing is eligible.
        lower: ``[P]`` lower bounds of the same estimates; NaN where there is none.
        less_error: ``[P]``, the same less one standard error; NaN without an interval.
        conservative: ``[P]``, what is safe to claim; NaN where there is nothing.
        regret: ``[P]``, how much better another of these may be at most; NaN without an interval.
        by: ``[P]``, the names of the estimators of the representative estimates.
        rank_by: The one of `RANKINGS` that orders the policies.
        ranking: The names of the policies with an interval, best first.
        by_point: The names, best point estimate first.
        by_lower: The names, best conservative value first.
        top: The names of the policies that may be the best.
        level: The probability that the best of those with an interval is among ``top``.
        measures: The point estimates measured against true values, where these were given.
        again: The evaluation of the first of ``ranking`` on episodes that took no part in the choice, or None.
    """

    names: list[str]
    estimates: Tensor
    lower: Tensor
    less_error: Tensor
    conservative: Tensor
    regret: Tensor
    by: list[str]
    rank_by: str
    ranking: list[str]
    by_point: list[str]
    by_lower: list[str]
    top: list[str]
    level: float
    measures: dict[str, float] = field(default_factory=dict)
    evaluations: dict[str, OPEResult] = field(default_factory=dict, repr=False)
    truths: dict[str, float] = field(default_factory=dict)
    again: OPEResult | None = None

    @property
    def chosen(self) -> str | None:
        """The first of ``ranking``; None where there is none."""
        return self.ranking[0] if self.ranking else None

    def best(self, k: int) -> list[str]:
        """The first k of ``ranking``."""
        return self.ranking[:k]

    @property
    def key(self) -> tuple[str, Tensor] | None:
        """Name and ``[P]`` of what orders them; None where it is among the value, its interval and the claim."""
        return {"less-error": ("less error", self.less_error), "regret": ("regret", self.regret)}.get(self.rank_by)

    @property
    def doubt(self) -> str:
        """What to keep in mind about the choice: its estimates disagree, or there is only one."""
        verdict = None if self.chosen is None else self.evaluations[self.chosen].verdict
        return f"{verdict.word}: {verdict.sentence}." if verdict and verdict.word in ("DISAGREE", "SINGLE") else ""

    @property
    def rule(self) -> str:
        """What orders them, in words."""
        return f"Ranked by {RANKINGS[self.rank_by]}."

    def table(self) -> str:
        """Policies with ranks, the recommended one, and the measures."""
        head = ["policy", "by", "value", "interval", "conservative", "rank", "rank by value", "verdict"]
        if self.truths:
            head.insert(7, "truth")
        key = self.key
        if key is not None:
            head.insert(5, key[0])
        cells = [head]
        for i, name in enumerate(self.names):
            row = representative_estimate(self.evaluations[name])
            cell = [
                name,
                self.by[i],
                number(float(self.estimates[i])),
                "-" if row is None else bounds(row.interval),
                number(float(self.conservative[i])),
                _place(name, self.ranking),
                _place(name, self.by_point),
                self.evaluations[name].verdict.word + (" *" if name in self.top else ""),
            ]
            if self.truths:
                cell.insert(7, number(self.truths.get(name)))
            if key is not None:
                cell.insert(5, number(float(key[1][i])))
            cells.append(cell)
        lines = aligned(cells)
        first = next(iter(self.evaluations.values()))
        if first.clusters is not None:
            lines += ["", f"Data      {first.data}: {first.unit}."]
        if self.chosen is not None:
            claim = float(self.conservative[self.names.index(self.chosen)])
            lines += ["", f"Choice    {self.chosen}; worth {number(claim)} at least (its conservative value)."]
            star = (
                f"{self.rule} * may be the best: paired differences do not show another better (the best of all with "
                f"an interval is among these with {self.level:.4g} probability)."
            )
            for said in filter(None, (self.doubt, star)):
                lines += textwrap.wrap(said, WIDTH, initial_indent=" " * 10, subsequent_indent=" " * 10)
            lines += self._again()
            if len(self.ranking) > 3:
                lines.append(f"Top 3     {', '.join(self.best(3))}.")
        else:
            lines += ["", "Choice    none: no policy has an eligible estimate with an interval."]
        if self.measures:
            found = int((~self.estimates.isnan()).sum())
            lines += [
                "",
                f"Against the truth, {found} policies (with so few, a correlation has an error of about "
                f"{1 / math.sqrt(max(found - 1, 1)):.2f}):",
            ]
            lines += [f"  {name}: {number(value)}" for name, value in self.measures.items()]
        return "\n".join(lines)

    def _again(self) -> list[str]:
        """The chosen policy's value on other episodes, or the advice to ask for it."""
        if self.again is None:
            return [
                "          The value of a policy that was chosen for its value is too high: evaluate it again on",
                "          episodes that took no part in the choice.",
            ]
        row, before = representative_estimate(self.again), float(self.estimates[self.names.index(self.ranking[0])])
        other = f"On {self.again.unit.replace('episodes', 'other episodes', 1)}"
        if row is None:
            return [f"          {other} nothing is eligible: {self.again.verdict.sentence}."]
        return [
            f"          {other} its value is {number(row.value)} {bounds(row.interval)} ({row.name}), conservative "
            f"{number(self.again.conservative)};",
            f"          when it was chosen it was {number(before)}. Report this one: it was not chosen for being high.",
        ]


def representative_estimate(evaluation: OPEResult) -> Row | None:
    """The eligible estimate that stands for a policy: hybrid, values, model, weights, ratios, in this order."""
    for family in ("hybrid", "values", "model", "weights", "ratios"):
        for name in REPRESENTATIVES[family]:
            for row in evaluation.rows:
                if row.name == name and row.status == "eligible":
                    return row
    return None


@takes_old_keywords
def compare(
    evaluations: Mapping[str, OPEResult],
    truths: Mapping[str, float] | None = None,
    *,
    behavior_value: float | None = None,
    threshold: float | None = None,
    rank_by: str = RANK_BY,
) -> Choice:
    """Rank policies that were evaluated on the same log.

    Args:
        evaluations: by name, of the same estimand.
        truths: true values by name, to judge the ranking.
        behavior_value: for SharpeRatio@k; None: the log's mean.
        threshold: what counts as safe; None: the same.
        rank_by: one of `RANKINGS`.

    Raises:
        InputError: no policy, evaluations of different estimands, or an unknown ranking.
    """
    if not evaluations:
        raise InputError("no policy to compare; give at least one")
    if rank_by not in RANKINGS:
        raise InputError(f"policies cannot be ranked by {rank_by!r}; there are {', '.join(RANKINGS)}")
    estimands = {(e.data, e.n, e.discount, e.horizon) for e in evaluations.values()}
    if len(estimands) > 1:
        raise InputError(f"these evaluations cannot be compared: data, episodes, discount, horizon are {estimands}")
    names = list(evaluations)
    rows = [representative_estimate(evaluations[name]) for name in names]
    nan = math.nan
    estimates = torch.tensor([nan if row is None else row.value for row in rows], dtype=torch.float64)
    bounded = [i for i, row in enumerate(rows) if row is not None and row.bounded]
    lower, less_error, regret = (torch.full_like(estimates, nan) for _ in range(3))
    conservative = torch.tensor(
        [nan if (value := evaluations[name].conservative) is None else value for name in names], dtype=torch.float64
    )
    level = next(iter(evaluations.values())).level
    top = [name for name, row in zip(names, rows, strict=True) if row is not None]
    if bounded:
        ranked = [row for row in (rows[i] for i in bounded) if row is not None]
        lower[bounded] = torch.tensor([row.interval.low for row in ranked if row.interval], dtype=torch.float64)
        errors = torch.tensor([row.standard_error for row in ranked], dtype=torch.float64)
        less_error[bounded] = estimates[bounded] - errors
        compared = gaps_of(ranked, level)
        regret[bounded] = compared.regret
        worse = {names[i] for i, kept in zip(bounded, compared.kept.tolist(), strict=True) if not kept}
        top = [name for name in top if name not in worse]
    keys = {"less-error": less_error, "lower": lower, "conservative": conservative, "value": estimates}
    key = -regret if rank_by == "regret" else keys[rank_by]
    choice = Choice(
        names,
        estimates,
        lower,
        less_error,
        conservative,
        regret,
        ["-" if row is None else row.name for row in rows],
        rank_by,
        _ordered(names, torch.where(lower.isnan(), nan, key)),
        _ordered(names, estimates),
        _ordered(names, conservative),
        top,
        level,
        evaluations=dict(evaluations),
        truths=dict(truths or {}),
    )
    known = [i for i, name in enumerate(names) if name in choice.truths and not math.isnan(float(estimates[i]))]
    if len(known) > 1:
        first = next(iter(evaluations.values()))
        log = first.returns[1] if behavior_value is None else behavior_value
        truth = torch.tensor([choice.truths[names[i]] for i in known], dtype=torch.float64)
        choice.measures = measures(estimates[known], truth, log, log if threshold is None else threshold)
        every = torch.tensor([choice.truths[name] for name in names if name in choice.truths], dtype=torch.float64)
        if len(every) > len(known):  # what abstains cannot be chosen, however good it is
            span, best = float(every.max() - every.min()), float(truth[_best(estimates[known], 1)])
            choice.measures["regret@1 of all"] = (float(every.max()) - best) / span if span > 0.0 else 0.0
    return choice


@takes_old_keywords
def measures(
    estimates: Tensor, truths: Tensor, behavior_value: float | None = None, threshold: float | None = None
) -> dict[str, float]:
    """All measures of the module's head for ``[P]`` estimates and truths; k = 1 and 3 where there are so many."""
    span = float(truths.max() - truths.min())
    error = float((estimates - truths).abs().mean())
    out = {"absolute error": error, "absolute error / range": error / span if span > 0.0 else math.nan}
    out["rank correlation"] = rank_correlation(estimates, truths)
    if len(truths) > 3:
        ends = rank_correlation_interval(estimates, truths)
        out["rank correlation, 95 % from"], out["rank correlation, 95 % to"] = ends
    for k in (1, 3):
        if k <= len(truths):
            out[f"regret@{k}"] = regret(estimates, truths, k)
            out[f"regret_sum@{k}"] = regret_sum(estimates, truths, k)
    if threshold is not None:
        out["unsafe called safe"], out["safe called unsafe"] = misjudged(estimates, truths, threshold)
    if behavior_value is not None and len(truths) >= 2:
        out["SharpeRatio@3"] = sharpe_ratio(estimates, truths, behavior_value, min(3, len(truths)))
    return out


def rank_correlation(estimates: Tensor, truths: Tensor) -> float:
    """Spearman's correlation with average ranks; NaN where all of one side are equal."""
    return float(_rank_correlations(estimates.unsqueeze(0), truths.unsqueeze(0)))


def rank_correlation_interval(
    estimates: Tensor, truths: Tensor, n_boot: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The middle 95 % of Spearman's correlation over bootstrap samples of the policies; NaN if none has two ranks."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(truths), (n_boot, len(truths)), generator=generator)
    found = _rank_correlations(estimates[drawn], truths[drawn])
    found = found[~found.isnan()]
    if not len(found):
        return math.nan, math.nan
    low, high = found.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def _rank_correlations(first: Tensor, second: Tensor) -> Tensor:
    """``[R]`` from ``[R, P]`` each; all at once, where `scipy.stats.spearmanr` takes one row after the other."""
    from scipy.stats import rankdata

    a, b = (torch.from_numpy(rankdata(x.numpy(), axis=-1)) for x in (first, second))
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    scale = a.norm(dim=-1) * b.norm(dim=-1)
    return torch.where(scale > 0.0, (a * b).sum(-1) / scale, torch.nan)


def regret(estimates: Tensor, truths: Tensor, k: int = 1) -> float:
    """``(max truth - max truth among the k best by estimate) / (max - min truth)``; 0 where all are equal."""
    span = float(truths.max() - truths.min())
    return (float(truths.max()) - float(truths[_best(estimates, k)].max())) / span if span > 0.0 else 0.0


def regret_sum(estimates: Tensor, truths: Tensor, k: int = 1) -> float:
    """Sum of the k largest truths minus the sum of the truths of the k best by estimate."""
    return float(truths.sort(descending=True).values[:k].sum()) - float(truths[_best(estimates, k)].sum())


def misjudged(estimates: Tensor, truths: Tensor, threshold: float) -> tuple[float, float]:
    """Share of truly unsafe policies called safe (the dangerous error), and of truly safe ones called unsafe."""
    unsafe, called_safe = truths < threshold, estimates >= threshold
    dangerous = float((unsafe & called_safe).sum()) / max(int(unsafe.sum()), 1)
    wasted = float((~unsafe & ~called_safe).sum()) / max(int((~unsafe).sum()), 1)
    return dangerous, wasted


def sharpe_ratio(estimates: Tensor, truths: Tensor, behavior_value: float, k: int) -> float:
    """Return over risk of the k best by estimate, the behavior among the candidates; NaN where they do not differ."""
    if k < 2:
        raise InputError("SharpeRatio@k needs k of at least 2, for a single policy has no spread")
    one = torch.tensor([behavior_value], dtype=torch.float64)
    candidates, values = torch.cat([estimates.double(), one]), torch.cat([truths.double(), one])
    portfolio = values[_best(candidates, k)]
    risk = float(portfolio.std(correction=0))
    return (float(portfolio.max()) - behavior_value) / risk if risk > 0.0 else math.nan


def _best(estimates: Tensor, k: int) -> Tensor:
    return estimates.argsort(descending=True, stable=True)[:k]


def _ordered(names: Sequence[str], values: Tensor) -> list[str]:
    order = values.argsort(descending=True, stable=True).tolist()
    return [names[i] for i in order if not math.isnan(float(values[i]))]


def _place(name: str, order: list[str]) -> str:
    return str(order.index(name) + 1) if name in order else "-"
