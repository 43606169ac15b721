"""Which policies to try first, once episodes may be played: a plan that begins from the off-policy estimates.

The value of each policy has a normal posterior. It begins at the estimate (Konyushkova et al., 2021, do the same with a
Gaussian process over policies), and n played episodes with the mean return x move it:

    1 / s'^2  =  1 / s^2 + n / noise^2                 m'  =  s'^2 (m / s^2 + n x / noise^2)

Next is the policy whose posterior has the largest quantile at 1 - 1 / t, t the number of the coming episode (Bayes-UCB:
Kaufmann, Cappe and Garivier, 2012, algorithm 1 with c = 0; t counts from 2, so the first choice is by the mean). The
scale of returns needs no tuning, for the noise sets it.

An interval of an estimate holds chance, not the bias of a wrong assumption. Therefore no estimate counts for more than
`TRUST` episodes, however narrow its interval: a plan must be able to find out that the log misled it. Mean loss (value
of the best policy minus that of the one recommended) over 2,000 simulations of 8 policies worth 40 to 75 whose episodes
vary by 25, after 8, 20 and 50 episodes:

    without estimates                                     10.1    5.7    3.1
    estimates off by 10, counted as  1 episode             4.9    3.9    2.4
                                     3 episodes            3.5    2.9    2.0
                                    30 episodes            3.9    3.4    2.6
    estimates off by 25, counted as  3 episodes            6.9    4.9    3.0
                                    30 episodes            8.7    8.0    6.2
    exact, but the worst is put   3 episodes               5.0    2.8    2.0
    50 too high, counted as       30 episodes              34.8   13.1    0.7

A policy without an eligible estimate takes part only if asked for (``unknown``), or once it was played: that nobody can
judge it offline is a reason to try it where trying is allowed, and a reason not to where it might do harm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from lightning_offrl.data.text_table import aligned
from lightning_offrl.errors import InputError
from lightning_offrl.ope.result import OPEResult
from lightning_offrl.ope.selection.ranking import representative_estimate
from lightning_offrl.ope.text import number, plain_values
from lightning_offrl.ope.verdict import REPRESENTATIVES

TRUST = 3.0
"""Most episodes that an estimate may count for."""
ENOUGH = 10
"""Degrees of freedom from which on the noise is measured on the played episodes, not on the log."""
UNKNOWN = "no eligible estimate with an interval"
"""Why a policy is not in a plan."""


@dataclass(frozen=True)
class Belief:
    """Normal posteriors of the values of K policies; leading dimensions are independent problems.

    Args:
        mean: ``[..., K]`` float64.
        deviation: ``[..., K]``; infinite where nothing is known, and the mean says nothing.
        noise: standard deviation of the return of one episode.
    """

    mean: Tensor
    deviation: Tensor
    noise: float

    @property
    def worth(self) -> Tensor:
        """``[..., K]``, how many episodes would tell as much."""
        return (self.noise / self.deviation).square()

    @property
    def best(self) -> Tensor:
        """``[...]`` int64, the policy with the largest mean among those of which anything is known."""
        return torch.where(self.deviation.isfinite(), self.mean, -torch.inf).argmax(-1)

    def after(self, count: Tensor, total: Tensor) -> Belief:
        """The posterior once ``count`` ``[..., K]`` more episodes have returned ``total`` ``[..., K]`` in sum."""
        before, seen = self.deviation**-2, count / self.noise**2
        precision = before + seen
        mean = (before * self.mean + total / self.noise**2) / precision
        return Belief(torch.where(precision > 0.0, mean, self.mean), precision**-0.5, self.noise)

    def index(self, episode: int) -> Tensor:
        """``[..., K]``, what the next policy has most of; ``episode`` is the number of those played before."""
        quantile = float(torch.special.ndtri(torch.tensor(1.0 - 1.0 / (episode + 2.0), dtype=torch.float64)))
        known = self.deviation.isfinite()
        return torch.where(known, self.mean + quantile * torch.where(known, self.deviation, 0.0), torch.inf)

    def chance_best(self, draws: int = 20_000, seed: int = 0) -> Tensor:
        """``[K]``, the posterior probability of each to be the best of those of which anything is known, by draws."""
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(draws, *self.mean.shape, generator=generator, dtype=torch.float64)
        known = self.deviation.isfinite()
        drawn = self.mean + torch.where(known, self.deviation, 0.0) * normal
        winner = torch.where(known, drawn, -torch.inf).argmax(-1)
        return known * torch.bincount(winner, minlength=self.mean.shape[-1]).double() / draws


@dataclass(frozen=True)
class Estimates:
    """All that a plan needs of evaluations.

    Attributes:
        by_name: mean and deviation of each policy's value, NaN where there is no eligible estimate with an interval.
        log_mean: mean return of the log.
        log_deviation: standard deviation of the return of one of its episodes.
    """

    by_name: dict[str, tuple[float, float]]
    log_mean: float
    log_deviation: float

    @classmethod
    def of(cls, evaluations: Mapping[str, OPEResult]) -> Estimates:
        """From evaluations of the same estimand."""
        first = next(iter(evaluations.values()))
        log = first.row("naive").terms
        spread = math.nan if log is None else float(log.per_episode.std())
        return cls({name: estimated(one) for name, one in evaluations.items()}, first.returns[1], spread)

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        known = {name: list(pair) if math.isfinite(sum(pair)) else None for name, pair in self.by_name.items()}
        return {"policies": known, "log_mean": self.log_mean, "log_deviation": plain_values(self.log_deviation)}

    @classmethod
    def from_dict(cls, content: Any) -> Estimates:
        """What `to_dict` wrote.

        Raises:
            InputError: something else.
        """
        try:
            nothing = (math.nan, math.nan)
            pairs = {
                str(name): nothing if pair is None else (float(pair[0]), float(pair[1]))
                for name, pair in content["policies"].items()
            }
            spread = content["log_deviation"]
            return cls(pairs, float(content["log_mean"]), math.nan if spread is None else float(spread))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as problem:
            raise InputError("no estimates to plan from: expected what offrl select --json writes") from problem


@dataclass
class Plan:
    """The next episodes, and what is believed before them.

    Attributes:
        names: The names of the policies that take part.
        prior: The belief from the estimates.
        now: The belief from the estimates and the played episodes.
        played: ``[K]`` episodes played so far.
        order: The policy to play next, one name an episode, as if every policy returned its mean.
        left_out: The names of the policies without an eligible estimate with an interval.
        noise_from: Where the noise comes from, in words.
    """

    names: list[str]
    prior: Belief
    now: Belief
    played: Tensor
    order: list[str]
    left_out: list[str] = field(default_factory=list)
    noise_from: str = "given"

    def table(self) -> str:
        """Beliefs, the order, and what to do with what comes back."""
        lines = [
            f"Plan      the next {len(self.order)} episodes; an episode's return varies by {number(self.now.noise)} "
            f"({self.noise_from})"
        ]
        if self.names:
            chance = self.now.chance_best()
            cells = [["policy", "prior", "worth episodes", "played", "now", "best with", "planned"]]
            for i, name in enumerate(self.names):
                cells.append(
                    [
                        name,
                        _belief(self.prior, i),
                        f"{float(self.prior.worth[i]):.1f}",
                        f"{int(self.played[i])}",
                        _belief(self.now, i),
                        f"{float(chance[i]):.0%}" if math.isfinite(float(self.now.deviation[i])) else "-",
                        f"{self.order.count(name)}",
                    ]
                )
            lines += ["  " + line for line in aligned(cells)]
            lines += ["  order: " + ", ".join(runs(self.order))] if self.order else []
            lines.append("  Returns count as in the estimates: same discount, same steps. Then plan again with them.")
        lines += [f"  {self.absent}"] if self.left_out else []
        return "\n".join(lines)

    @property
    def absent(self) -> str:
        """Which policies are not in the plan, why, and how to include them; empty if all are in it."""
        if not self.left_out:
            return ""
        return f"not in the plan: {', '.join(self.left_out)}: {UNKNOWN}; --plan_unknown N gives each N episodes first"

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "names": self.names,
            "prior_mean": self.prior.mean.tolist(),
            "prior_deviation": plain_values(self.prior.deviation.tolist()),
            "worth_episodes": self.prior.worth.tolist(),
            "noise": self.now.noise,
            "noise_from": self.noise_from,
            "played": self.played.tolist(),
            "mean": self.now.mean.tolist(),
            "deviation": plain_values(self.now.deviation.tolist()),
            "chance_best": self.now.chance_best().tolist() if self.names else [],
            "order": self.order,
            "left_out": self.left_out,
        }


def plan(
    evaluations: Mapping[str, OPEResult] | Estimates,
    episodes: int = 20,
    *,
    played: Mapping[str, Sequence[float]] | None = None,
    noise: float | None = None,
    trust: float = TRUST,
    unknown: int = 0,
) -> Plan:
    """Plan the next episodes.

    Args:
        evaluations: by name, of the same estimand; or what a plan needs of them.
        episodes: how many to plan.
        played: returns by name of what was played already, in the evaluations' estimand.
        noise: standard deviation of an episode's return; None: within policies over what was played, once that has
            `ENOUGH` degrees of freedom, before that of the log's episodes.
        trust: most episodes that an estimate may count for.
        unknown: episodes that every policy without an eligible estimate is given before all else, those played counted;
            0: it is left out until it was played. In the order it is taken to return what the log does.

    Raises:
        InputError: returns of a policy that is not there, or numbers that cannot be.
    """
    given = evaluations if isinstance(evaluations, Estimates) else Estimates.of(evaluations)
    played = dict(played or {})
    strange = [name for name in played if name not in given.by_name]
    if strange:
        raise InputError(f"there are returns of {strange[0]!r}, which is none of {', '.join(given.by_name)}")
    returns = {name: torch.tensor(list(values), dtype=torch.float64) for name, values in played.items()}
    if any(not bool(values.isfinite().all()) for values in returns.values()):
        raise InputError("the returns of played episodes must be finite numbers")
    if episodes < 0 or unknown < 0 or not trust > 0.0 or (noise is not None and not noise > 0.0):
        raise InputError(
            f"a plan needs episodes >= 0, unknown >= 0, trust > 0 and noise > 0, got {episodes}, {unknown}, {trust} "
            f"and {noise}"
        )
    told = "given"
    if noise is None:
        noise, told = _noise(list(returns.values()), given.log_deviation)
    names, means, deviations, left_out = [], [], [], []
    for name, (mean, deviation) in given.by_name.items():
        judged = math.isfinite(mean) and math.isfinite(deviation)
        if not judged and not unknown and not len(returns.get(name, ())):
            left_out.append(name)
            continue
        names.append(name)
        means.append(mean if judged else given.log_mean)
        deviations.append(max(deviation, noise / math.sqrt(trust)) if judged else math.inf)
    prior = Belief(torch.tensor(means).double(), torch.tensor(deviations).double(), noise)
    empty = torch.zeros(0, dtype=torch.float64)
    count = torch.tensor([len(returns.get(name, empty)) for name in names], dtype=torch.float64)
    total = torch.tensor([float(returns.get(name, empty).sum()) for name in names], dtype=torch.float64)
    now = prior.after(count, total)
    order: list[str] = []
    ahead, so_far = now, int(sum(len(values) for values in returns.values()))
    owed = torch.where(prior.deviation.isfinite(), 0.0, unknown - count).clamp(min=0.0)
    for i in range(episodes if names else 0):
        chosen = int(owed.argmax() if bool(owed.any()) else ahead.index(so_far + i).argmax())
        owed[chosen] = (owed[chosen] - 1.0).clamp(min=0.0)
        order.append(names[chosen])
        one = torch.zeros_like(ahead.mean)
        one[chosen] = 1.0
        ahead = ahead.after(one, one * ahead.mean)
    return Plan(names, prior, now, count, order, left_out, told)


def estimated(evaluation: OPEResult) -> tuple[float, float]:
    """Mean and deviation of a policy's value by its estimates.

    The mean is the representative estimate; the deviation is that of a normal distribution whose interval reaches
    as far as that of any family's representative, so that estimates which differ make a wide belief. NaN where
    there is none.
    """
    row, eligible = representative_estimate(evaluation), [r for r in evaluation.rows if r.status == "eligible"]
    found = []
    for names in REPRESENTATIVES.values():
        of_family = next((r for name in names for r in eligible if r.name == name), None)
        if of_family is not None and of_family.interval is not None and of_family.bounded:
            found.append(of_family.interval)
    if row is None or not found:
        return math.nan, math.nan
    reach = max(max(i.high for i in found) - row.value, row.value - min(i.low for i in found))
    z = float(torch.special.ndtri(torch.tensor(0.5 + 0.5 * evaluation.level, dtype=torch.float64)))
    return row.value, reach / z


def _noise(returns: list[Tensor], log: float) -> tuple[float, str]:
    degrees = sum(len(values) - 1 for values in returns if len(values))
    if degrees >= ENOUGH:
        squares = sum(float((values - values.mean()).square().sum()) for values in returns if len(values))
        if squares > 0.0:
            return math.sqrt(squares / degrees), "measured on the played episodes"
    if not log > 0.0:
        raise InputError("the log's episodes all return the same; say how much an episode's return varies (noise)")
    return log, "as in the log"


def _belief(belief: Belief, i: int) -> str:
    if not math.isfinite(float(belief.deviation[i])):
        return "unknown"
    return f"{number(float(belief.mean[i]))} +- {number(float(belief.deviation[i]), 3)}"


def runs(order: Sequence[str]) -> list[str]:
    """``a a b`` as ``a x 2``, ``b``."""
    counted = ((name, len(list(same))) for name, same in groupby(order))
    return [name if n == 1 else f"{name} x {n}" for name, n in counted]
