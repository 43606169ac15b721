"""Choosing among several policies by their evaluations, and judging such choices where the truth is known.

    point    the estimate that speaks for the policy
    lower    the conservative value: the smallest lower bound of the eligible estimates
    top set  policies whose interval reaches the best lower bound: none of them is shown worse than the best

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
    SharpeRatio@k          (max truth among the k best by estimate - behaviour's value) / their deviation (1/k),
                           the behaviour, known from its log, being one of the candidates   (Kiyohara et al., 2023)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_offrl.errors import InputError
from lightning_offrl.ope.evaluation import Evaluation, Row
from lightning_offrl.ope.table import aligned, bounds, number
from lightning_offrl.ope.verdict import SPEAKERS


@dataclass
class Choice:
    """Several policies, ranked.

    Attributes:
        names: policies, as given.
        estimates: ``[P]`` point estimates; NaN where nothing is eligible.
        lower: ``[P]`` conservative values; NaN where there is none.
        upper: ``[P]`` upper bound of the estimate that speaks.
        by: ``[P]``, its name.
        by_point: names, best point estimate first.
        by_lower: names, best conservative value first.
        top: names of the top set.
        measures: of the point estimates against truths, where these were given.
        again: of the first of ``by_lower`` on episodes that took no part in the choice, or None.
    """

    names: list[str]
    estimates: Tensor
    lower: Tensor
    upper: Tensor
    by: list[str]
    by_point: list[str]
    by_lower: list[str]
    top: list[str]
    measures: dict[str, float] = field(default_factory=dict)
    evaluations: dict[str, Evaluation] = field(default_factory=dict, repr=False)
    truths: dict[str, float] = field(default_factory=dict)
    again: Evaluation | None = None

    def best(self, k: int) -> list[str]:
        """The k policies with the largest conservative values."""
        return self.by_lower[:k]

    def table(self) -> str:
        """Policies with ranks, the recommended one, and the measures."""
        head = ["policy", "by", "value", "interval", "conservative", "rank", "rank by lower bound", "verdict"]
        if self.truths:
            head.insert(7, "truth")
        cells = [head]
        for i, name in enumerate(self.names):
            row = speaker(self.evaluations[name])
            cell = [
                name,
                self.by[i],
                number(float(self.estimates[i])),
                "-" if row is None else bounds(row.interval),
                number(float(self.lower[i])),
                _place(name, self.by_point),
                _place(name, self.by_lower),
                self.evaluations[name].verdict.word + (" *" if name in self.top else ""),
            ]
            if self.truths:
                cell.insert(7, number(self.truths.get(name)))
            cells.append(cell)
        lines = aligned(cells)
        first = next(iter(self.evaluations.values()))
        if first.clusters is not None:
            lines += ["", f"Data      {first.data}: {first.unit}."]
        if self.by_lower:
            lines += [
                "",
                f"Choice    {self.by_lower[0]}, the best conservative value; * not shown worse than the best.",
            ]
            lines += self._again()
            if len(self.by_lower) > 3:
                lines.append(f"Top 3     {', '.join(self.best(3))} by conservative value.")
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
        row, before = speaker(self.again), float(self.estimates[self.names.index(self.by_lower[0])])
        other = f"On {self.again.unit.replace('episodes', 'other episodes', 1)}"
        if row is None:
            return [f"          {other} nothing is eligible: {self.again.verdict.sentence}."]
        return [
            f"          {other} its value is {number(row.value)} {bounds(row.interval)} ({row.name}), conservative "
            f"{number(self.again.conservative)};",
            f"          when it was chosen it was {number(before)}. Report this one: it was not chosen for being high.",
        ]


def speaker(evaluation: Evaluation) -> Row | None:
    """The eligible estimate that stands for a policy: hybrid, values, model, weights, ratios, in this order."""
    for family in ("hybrid", "values", "model", "weights", "ratios"):
        for name in SPEAKERS[family]:
            for row in evaluation.rows:
                if row.name == name and row.status == "eligible":
                    return row
    return None


def compare(
    evaluations: Mapping[str, Evaluation],
    truths: Mapping[str, float] | None = None,
    *,
    behaviour_value: float | None = None,
    threshold: float | None = None,
) -> Choice:
    """Rank policies that were evaluated on the same log.

    Args:
        evaluations: by name, of the same estimand.
        truths: true values by name, to judge the ranking.
        behaviour_value: for SharpeRatio@k; None: the log's mean.
        threshold: what counts as safe; None: the same.

    Raises:
        InputError: no policy, or evaluations of different estimands.
    """
    if not evaluations:
        raise InputError("no policy to compare; give at least one")
    estimands = {(e.data, e.n, e.discount, e.horizon) for e in evaluations.values()}
    if len(estimands) > 1:
        raise InputError(f"these evaluations cannot be compared: data, episodes, discount, horizon are {estimands}")
    names = list(evaluations)
    rows = [speaker(evaluations[name]) for name in names]
    nan = math.nan
    estimates = torch.tensor([nan if row is None else row.value for row in rows], dtype=torch.float64)
    lower = torch.tensor(
        [nan if (value := evaluations[name].conservative) is None else value for name in names], dtype=torch.float64
    )
    upper = torch.tensor(
        [nan if row is None or row.interval is None else row.interval.high for row in rows], dtype=torch.float64
    )
    choice = Choice(
        names,
        estimates,
        lower,
        upper,
        ["-" if row is None else row.name for row in rows],
        _ordered(names, estimates),
        _ordered(names, lower),
        [],
        evaluations=dict(evaluations),
        truths=dict(truths or {}),
    )
    if choice.by_lower:
        best = float(lower[names.index(choice.by_lower[0])])
        choice.top = [name for name, high in zip(names, upper.tolist(), strict=True) if high >= best]
    known = [i for i, name in enumerate(names) if name in choice.truths and not math.isnan(float(estimates[i]))]
    if len(known) > 1:
        first = next(iter(evaluations.values()))
        log = first.returns[1] if behaviour_value is None else behaviour_value
        truth = torch.tensor([choice.truths[names[i]] for i in known], dtype=torch.float64)
        choice.measures = measures(estimates[known], truth, log, log if threshold is None else threshold)
        every = torch.tensor([choice.truths[name] for name in names if name in choice.truths], dtype=torch.float64)
        if len(every) > len(known):  # what abstains cannot be chosen, however good it is
            span, best = float(every.max() - every.min()), float(truth[_best(estimates[known], 1)])
            choice.measures["regret@1 of all"] = (float(every.max()) - best) / span if span > 0.0 else 0.0
    return choice


def measures(
    estimates: Tensor, truths: Tensor, behaviour_value: float | None = None, threshold: float | None = None
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
    if behaviour_value is not None and len(truths) >= 2:
        out["SharpeRatio@3"] = sharpe_ratio(estimates, truths, behaviour_value, min(3, len(truths)))
    return out


def average_ranks(x: Tensor) -> Tensor:
    """Ranks from 1, ties share their mean: ``[P]`` float64."""
    below = (x.unsqueeze(-1) > x).sum(-1)
    same = (x.unsqueeze(-1) == x).sum(-1)
    return below + 0.5 * (same + 1)


def rank_correlation(estimates: Tensor, truths: Tensor) -> float:
    """Spearman's correlation with average ranks; NaN where all of one side are equal."""
    a, b = average_ranks(estimates).double(), average_ranks(truths).double()
    a, b = a - a.mean(), b - b.mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0.0 else math.nan


def rank_correlation_interval(
    estimates: Tensor, truths: Tensor, n_boot: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The middle 95 % of Spearman's correlation over bootstrap samples of the policies; NaN if none has two ranks."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(truths), (n_boot, len(truths)), generator=generator)
    found = torch.tensor([rank_correlation(estimates[i], truths[i]) for i in drawn], dtype=torch.float64)
    found = found[~found.isnan()]
    if not len(found):
        return math.nan, math.nan
    low, high = found.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


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


def sharpe_ratio(estimates: Tensor, truths: Tensor, behaviour_value: float, k: int) -> float:
    """Return over risk of the k best by estimate, the behaviour among the candidates; NaN where they do not differ."""
    if k < 2:
        raise InputError("SharpeRatio@k needs k of at least 2, for a single policy has no spread")
    one = torch.tensor([behaviour_value], dtype=torch.float64)
    candidates, values = torch.cat([estimates.double(), one]), torch.cat([truths.double(), one])
    portfolio = values[_best(candidates, k)]
    risk = float(portfolio.std(correction=0))
    return (float(portfolio.max()) - behaviour_value) / risk if risk > 0.0 else math.nan


def _best(estimates: Tensor, k: int) -> Tensor:
    return estimates.argsort(descending=True, stable=True)[:k]


def _ordered(names: Sequence[str], values: Tensor) -> list[str]:
    order = values.argsort(descending=True, stable=True).tolist()
    return [names[i] for i in order if not math.isnan(float(values[i]))]


def _place(name: str, order: list[str]) -> str:
    return str(order.index(name) + 1) if name in order else "-"
