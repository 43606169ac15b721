"""What may be expected of a dataset, and the measures that verdict and advice share.

The verdict is one of

    refuse   this data cannot support a claim of improvement
    imitate  behavior cloning is enough
    improve  there is something to gain, and from what
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lightning_offrl.reports.compare_returns import CLEAR
from lightning_offrl.reports.dataset.evidence import OURS, Evidence
from lightning_offrl.reports.dataset.findings import FEW, distinct_episodes
from lightning_offrl.reports.dataset.measure import DatasetMeasures
from lightning_offrl.reports.dataset.statistics import Summary, summary
from lightning_offrl.reports.dataset.stitching import COUNTED
from lightning_offrl.reports.formatting import counted, mean_and_error, percent, short_number

GOOD = 0.9
"""Quality from which imitation is enough."""
MATERIAL = 0.1
"""Stitching potential that counts, as a share of the best single episode's value."""
TRIED = 0.05
"""Variety of actions in the same state, as a share of that of random actions, below which there is only one action."""
NARROW, BROAD = 0.25, 0.75
"""The same, for how conservative an algorithm has to be."""
TQ = "Schweighofer et al. 2022 (imitation competes where the mean return is near the best); the number is ours"


@dataclass(frozen=True)
class DatasetVerdict:
    """What may be expected.

    Attributes:
        kind: see the module.
        headline: one line.
        sentences: why.
        evidence: the numbers behind them.
    """

    kind: Literal["refuse", "imitate", "improve"]
    headline: str
    sentences: tuple[str, ...]
    evidence: tuple[Evidence, ...]


# -- measures that several sentences use -------------------------------------------------------------------------------


def quality(measures: DatasetMeasures) -> float:
    """Mean return between 0 (random, or the worst episode) and 1 (expert, or the mean of the best tenth)."""
    low, high = scale(measures)
    return (measures.returns.mean - low) / (high - low) if high > low else 1.0


def scale(measures: DatasetMeasures) -> tuple[float, float]:
    """The returns that count as 0 and 1: the references where known, else the worst episode and the best tenth."""
    return measures.episodes.references or (measures.returns.smallest, measures.imbalance.best_tenth)


def smallest_clear(measures: DatasetMeasures) -> float:
    """The smallest difference of mean returns between two samples of this size that is `CLEAR` standard errors."""
    return CLEAR * math.sqrt(2.0) * measures.returns.deviation / math.sqrt(distinct_episodes(measures))


def recombination(measures: DatasetMeasures) -> float:
    """Stitching potential as a share of the size of the best single episode's value."""
    return measures.stitching.gain / max(abs(measures.stitching.single), 1e-12)


def stitches(measures: DatasetMeasures) -> bool:
    """Whether recombining episodes promises a material gain, beyond its standard error."""
    error = measures.stitching.gain_error
    sure = math.isnan(error) or measures.stitching.gain > CLEAR * error
    return recombination(measures) >= MATERIAL and sure


def randomness(measures: DatasetMeasures) -> float:
    """0 for one action per state, 1 for uniformly random actions; see `mixture.Policies`."""
    return measures.policies.randomness


def policy_returns(measures: DatasetMeasures) -> list[Summary]:
    """Returns of the episodes of each policy that was told apart, the most frequent first."""
    returns, number = measures.episodes.returns(), measures.policies.of_episode
    return [summary(returns[number == k]) for k in range(measures.policies.number) if bool((number == k).any())]


def explained_by_policy(measures: DatasetMeasures) -> float:
    """Share of the variance of returns that lies between the policies (eta squared); 0 with one policy."""
    parts = policy_returns(measures)
    total = measures.returns.count
    between = sum(p.count * (p.mean - measures.returns.mean) ** 2 for p in parts) / total
    within = measures.returns.deviation**2 * (total - 1) / total
    return between / within if within > 0 else 0.0


def stitching_evidence(measures: DatasetMeasures) -> Evidence:
    """The stitching potential, and from where it counts."""
    found = measures.stitching
    return Evidence(
        f"stitching potential (at most {counted(COUNTED, 'change')} of episode)",
        f"{mean_and_error(found.gain, found.gain_error)} on {short_number(found.single)}, "
        f"{percent(max(recombination(measures), 0.0))}",
        f"{percent(MATERIAL)} and {CLEAR:g} standard errors",
        f"{OURS}: data of one policy (hopper medium) reaches 4 % through the tolerance of the links alone",
    )


def quality_evidence(measures: DatasetMeasures) -> Evidence:
    """Where the mean return stands."""
    known = measures.episodes.references is not None
    low, high = scale(measures)
    ends = "random and expert" if known else "the worst episode and the mean of the best tenth"
    return Evidence(
        f"mean return between {ends}",
        f"{_mean_return(measures)} between {short_number(low)} and {short_number(high)}: "
        f"{percent(quality(measures)) if 0 <= quality(measures) <= 1 else f'{quality(measures):.2f}'}",
        percent(GOOD),
        TQ,
    )


def _mean_return(measures: DatasetMeasures) -> str:
    return mean_and_error(measures.returns.mean, measures.returns.error)


def randomness_evidence(measures: DatasetMeasures) -> Evidence:
    """How varied the actions tried in a state are."""
    policies = measures.policies
    limits = f"{percent(NARROW)} and {percent(BROAD)} of that of random actions"
    if policies.spread is None:
        assert policies.disagreement is not None
        value = f"{percent(policies.disagreement)}: {percent(policies.randomness)} of that of random actions"
        return Evidence("two actions in the same state differ", value, limits, OURS)
    spread = math.sqrt(sum(s * s for s in policies.spread) / len(policies.spread))
    value = f"{spread:.2f} half ranges: {percent(policies.randomness)} of that of random actions (0.58)"
    return Evidence("standard deviation of the actions in a state", value, limits, OURS)


def policies_evidence(measures: DatasetMeasures) -> Evidence:
    """How many policies there are."""
    policies = measures.policies
    more = " or more" if policies.at_most else ""
    return Evidence("effective number of policies", f"{policies.effective:.1f}{more}", "1.5 and 2.5", OURS)


# -- verdict -----------------------------------------------------------------------------------------------------------


def dataset_verdict(measures: DatasetMeasures) -> DatasetVerdict:
    """The verdict, by the first rule that holds."""
    reasons = list(_refusals(measures))
    if reasons:
        return DatasetVerdict(
            "refuse",
            "This data cannot support an improvement claim",
            tuple(sentence for sentence, _ in reasons),
            tuple(one for _, one in reasons),
        )
    evidence = (quality_evidence(measures), stitching_evidence(measures))
    if quality(measures) >= GOOD and not stitches(measures):
        return DatasetVerdict(
            "imitate",
            "Behavior cloning is enough",
            (
                f"The mean episode already returns {_mean_return(measures)}, {percent(min(quality(measures), 1.0))} of "
                f"the way to {short_number(scale(measures)[1])}, and recombining episodes promises "
                f"{percent(max(recombination(measures), 0.0))} more at best. Offline reinforcement learning has "
                "little left to gain here, and can lose what is there.",
            ),
            evidence,
        )
    sentences: list[str] = []
    best, found = measures.imbalance, measures.stitching
    if measures.returns.deviation == 0:
        sentences.append(f"Every episode returns the same, {short_number(measures.returns.mean)}.")
    elif measures.policies.number == 1:
        sentences.append(
            f"Returns go from {short_number(measures.returns.smallest)} to {short_number(measures.returns.largest)}, "
            "but one policy made all episodes, as far as can be told: the best of them differ by the noise of actions, "
            "by where they began and by luck, so picking them selects luck too."
        )
    elif best.best_tenth - measures.returns.mean > smallest_clear(measures):
        sentences.append(
            f"The best tenth of the episodes returns {mean_and_error(best.best_tenth, best.best_tenth_error)}, the "
            f"mean episode {_mean_return(measures)}, and which of {measures.policies.number} policies acted explains "
            f"{percent(explained_by_policy(measures))} of the variance of returns: what the better did is in the data."
        )
    if stitches(measures):
        sentences.append(
            f"Pieces of different episodes fit together: with at most {counted(COUNTED, 'change')} of episode, "
            f"{short_number(found.stitched[found.changes.index(COUNTED)])} (discounted, an optimistic estimate) is "
            f"within reach from the logged starts, {short_number(found.single)} by following the best single one."
        )
        headline = "There is something to gain, also by recombining episodes"
    else:
        sentences.append(
            "Recombining episodes adds little "
            f"({percent(max(recombination(measures), 0.0))} of the best single episode's value): what can be gained is "
            f"the choice among the actions that were tried in each state, and these are "
            f"{percent(randomness(measures))} as varied as random ones."
        )
        headline = (
            "There may be something to gain: one policy, with noise around it"
            if measures.policies.number == 1
            else "There is something to gain, by doing what the better episodes did"
        )
    return DatasetVerdict("improve", headline, tuple(sentences), evidence)


def _refusals(measures: DatasetMeasures) -> Iterator[tuple[str, Evidence]]:
    count = distinct_episodes(measures)
    if measures.returns.deviation <= 1e-9 * max(abs(measures.returns.mean), 1.0) and not stitches(measures):
        yield (
            f"Every episode returns the same, {short_number(measures.returns.mean)}, and recombining them gains "
            "nothing: no behavior in it is better than another.",
            Evidence("standard deviation of returns", "0", "above 0", OURS),
        )
    if measures.rewards.distinct == 1 and measures.endings.terminal == 0 and measures.returns.deviation > 0:
        yield (
            f"Every reward is {measures.rewards.steps.mean:.4g} and no episode ends in a terminal state: returns "
            "differ only by when the log was cut, which is no achievement.",
            Evidence("different rewards, terminal episodes", "1 and 0", "above 1, or above 0", OURS),
        )
    if count < FEW:
        yield (
            f"With {counted(count, 'different episode')}, an importance-weighted estimate of a new policy can never "
            f"reach the {FEW} effective episodes that it needs, and a fitted one cannot be checked.",
            Evidence("different episodes", f"{count}", f"at least {FEW}", "effective sample size, as in `offrl ope`"),
        )
    if randomness(measures) < TRIED:
        yield (
            "In the same state, (nearly) always the same was done: there is no alternative in the data whose outcome "
            "could be compared, so any improvement would be a guess.",
            Evidence("variety of actions in a state", percent(randomness(measures)), f"above {percent(TRIED)}", OURS),
        )
    clear, headroom = smallest_clear(measures), measures.imbalance.best_tenth - measures.returns.mean
    if count >= 2 and measures.returns.deviation > 0 and clear > headroom and not stitches(measures):
        yield (
            f"With {counted(count, 'different episode')} a difference of mean returns has to exceed "
            f"{short_number(clear)} to be clear, but the best tenth of the episodes is only "
            f"{short_number(headroom)} above the mean.",
            Evidence(
                "smallest clear difference",
                short_number(clear),
                f"below {short_number(headroom)}",
                f"{CLEAR:g} standard errors of a difference of two such means",
            ),
        )
