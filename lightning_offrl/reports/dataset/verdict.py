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
from typing import TYPE_CHECKING, Literal

from lightning_offrl.reports.compare_returns import CLEAR, number, with_error
from lightning_offrl.reports.dataset.evidence import OURS, Evidence, percent, several
from lightning_offrl.reports.dataset.findings import FEW, distinct_episodes
from lightning_offrl.reports.dataset.statistics import Summary, summary
from lightning_offrl.reports.dataset.stitching import COUNTED

if TYPE_CHECKING:
    from lightning_offrl.reports.dataset.measure import DatasetMeasures

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
class Verdict:
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


def quality(seen: DatasetMeasures) -> float:
    """Mean return between 0 (random, or the worst episode) and 1 (expert, or the mean of the best tenth)."""
    low, high = scale(seen)
    return (seen.returns.mean - low) / (high - low) if high > low else 1.0


def scale(seen: DatasetMeasures) -> tuple[float, float]:
    """The returns that count as 0 and 1: the references where known, else the worst episode and the best tenth."""
    return seen.episodes.references or (seen.returns.smallest, seen.imbalance.best_tenth)


def smallest_clear(seen: DatasetMeasures) -> float:
    """The smallest difference of mean returns between two samples of this size that is `CLEAR` standard errors."""
    return CLEAR * math.sqrt(2.0) * seen.returns.deviation / math.sqrt(distinct_episodes(seen))


def recombination(seen: DatasetMeasures) -> float:
    """Stitching potential as a share of the size of the best single episode's value."""
    return seen.stitching.gain / max(abs(seen.stitching.single), 1e-12)


def stitches(seen: DatasetMeasures) -> bool:
    """Whether recombining episodes promises a material gain, beyond its standard error."""
    error = seen.stitching.gain_error
    sure = math.isnan(error) or seen.stitching.gain > CLEAR * error
    return recombination(seen) >= MATERIAL and sure


def randomness(seen: DatasetMeasures) -> float:
    """0 for one action per state, 1 for uniformly random actions; see `dataset_policies.Policies`."""
    return seen.policies.randomness


def policy_returns(seen: DatasetMeasures) -> list[Summary]:
    """Returns of the episodes of each policy that was told apart, the most frequent first."""
    returns, number = seen.episodes.returns(), seen.policies.of_episode
    return [summary(returns[number == k]) for k in range(seen.policies.number) if bool((number == k).any())]


def explained_by_policy(seen: DatasetMeasures) -> float:
    """Share of the variance of returns that lies between the policies (eta squared); 0 with one policy."""
    parts = policy_returns(seen)
    total = seen.returns.count
    between = sum(p.count * (p.mean - seen.returns.mean) ** 2 for p in parts) / total
    within = seen.returns.deviation**2 * (total - 1) / total
    return between / within if within > 0 else 0.0


def stitching_evidence(seen: DatasetMeasures) -> Evidence:
    """The stitching potential, and from where it counts."""
    found = seen.stitching
    return Evidence(
        f"stitching potential (at most {several(COUNTED, 'change')} of episode)",
        f"{with_error(found.gain, found.gain_error)} on {number(found.single)}, "
        f"{percent(max(recombination(seen), 0.0))}",
        f"{percent(MATERIAL)} and {CLEAR:g} standard errors",
        f"{OURS}: data of one policy (hopper medium) reaches 4 % through the tolerance of the links alone",
    )


def quality_evidence(seen: DatasetMeasures) -> Evidence:
    """Where the mean return stands."""
    known = seen.episodes.references is not None
    low, high = scale(seen)
    ends = "random and expert" if known else "the worst episode and the mean of the best tenth"
    return Evidence(
        f"mean return between {ends}",
        f"{with_error(seen.returns.mean, seen.returns.error)} between {number(low)} and {number(high)}: "
        f"{percent(quality(seen)) if 0 <= quality(seen) <= 1 else f'{quality(seen):.2f}'}",
        percent(GOOD),
        TQ,
    )


def randomness_evidence(seen: DatasetMeasures) -> Evidence:
    """How varied the actions tried in a state are."""
    policies = seen.policies
    limits = f"{percent(NARROW)} and {percent(BROAD)} of that of random actions"
    if policies.spread is None:
        assert policies.disagreement is not None
        value = f"{percent(policies.disagreement)}: {percent(policies.randomness)} of that of random actions"
        return Evidence("two actions in the same state differ", value, limits, OURS)
    spread = math.sqrt(sum(s * s for s in policies.spread) / len(policies.spread))
    value = f"{spread:.2f} half ranges: {percent(policies.randomness)} of that of random actions (0.58)"
    return Evidence("standard deviation of the actions in a state", value, limits, OURS)


def policies_evidence(seen: DatasetMeasures) -> Evidence:
    """How many policies there are."""
    policies = seen.policies
    more = " or more" if policies.at_most else ""
    return Evidence("effective number of policies", f"{policies.effective:.1f}{more}", "1.5 and 2.5", OURS)


# -- verdict -----------------------------------------------------------------------------------------------------------


def judge(seen: DatasetMeasures) -> Verdict:
    """The verdict, by the first rule that holds."""
    reasons = list(_refusals(seen))
    if reasons:
        return Verdict(
            "refuse",
            "This data cannot support an improvement claim",
            tuple(sentence for sentence, _ in reasons),
            tuple(one for _, one in reasons),
        )
    evidence = (quality_evidence(seen), stitching_evidence(seen))
    if quality(seen) >= GOOD and not stitches(seen):
        return Verdict(
            "imitate",
            "Behavior cloning is enough",
            (
                f"The mean episode already returns {with_error(seen.returns.mean, seen.returns.error)}, "
                f"{percent(min(quality(seen), 1.0))} of the way to {number(scale(seen)[1])}, and recombining episodes "
                f"promises {percent(max(recombination(seen), 0.0))} more at best. Offline reinforcement learning has "
                "little left to gain here, and can lose what is there.",
            ),
            evidence,
        )
    sentences: list[str] = []
    best = seen.imbalance
    if seen.returns.deviation == 0:
        sentences.append(f"Every episode returns the same, {number(seen.returns.mean)}.")
    elif seen.policies.number == 1:
        sentences.append(
            f"Returns go from {number(seen.returns.smallest)} to {number(seen.returns.largest)}, but one policy made "
            "all episodes, as far as can be told: the best of them differ by the noise of actions, by where they began "
            "and by luck, so picking them selects luck too."
        )
    elif best.best_tenth - seen.returns.mean > smallest_clear(seen):
        sentences.append(
            f"The best tenth of the episodes returns {with_error(best.best_tenth, best.best_tenth_error)}, the mean "
            f"episode {with_error(seen.returns.mean, seen.returns.error)}, and which of {seen.policies.number} "
            f"policies acted explains {percent(explained_by_policy(seen))} of the variance of returns: what the "
            f"better did is "
            "in the data."
        )
    if stitches(seen):
        sentences.append(
            f"Pieces of different episodes fit together: with at most {several(COUNTED, 'change')} of episode, "
            f"{number(seen.stitching.stitched[seen.stitching.changes.index(COUNTED)])} (discounted, an optimistic "
            f"estimate) is within reach from the logged starts, {number(seen.stitching.single)} by following the best "
            "single one."
        )
        headline = "There is something to gain, also by recombining episodes"
    else:
        sentences.append(
            "Recombining episodes adds little "
            f"({percent(max(recombination(seen), 0.0))} of the best single episode's value): what can be gained is the "
            f"choice among the actions that were tried in each state, and these are {percent(randomness(seen))} as "
            "varied as random ones."
        )
        headline = (
            "There may be something to gain: one policy, with noise around it"
            if seen.policies.number == 1
            else "There is something to gain, by doing what the better episodes did"
        )
    return Verdict("improve", headline, tuple(sentences), evidence)


def _refusals(seen: DatasetMeasures) -> Iterator[tuple[str, Evidence]]:
    count = distinct_episodes(seen)
    if seen.returns.deviation <= 1e-9 * max(abs(seen.returns.mean), 1.0) and not stitches(seen):
        yield (
            f"Every episode returns the same, {number(seen.returns.mean)}, and recombining them gains nothing: no "
            "behavior in it is better than another.",
            Evidence("standard deviation of returns", "0", "above 0", OURS),
        )
    if seen.rewards.distinct == 1 and seen.endings.terminal == 0 and seen.returns.deviation > 0:
        yield (
            f"Every reward is {seen.rewards.steps.mean:.4g} and no episode ends in a terminal state: returns differ "
            "only by when the log was cut, which is no achievement.",
            Evidence("different rewards, terminal episodes", "1 and 0", "above 1, or above 0", OURS),
        )
    if count < FEW:
        yield (
            f"With {several(count, 'different episode')}, an importance-weighted estimate of a new policy can never "
            f"reach the {FEW} effective episodes that it needs, and a fitted one cannot be checked.",
            Evidence("different episodes", f"{count}", f"at least {FEW}", "effective sample size, as in `offrl ope`"),
        )
    if randomness(seen) < TRIED:
        yield (
            "In the same state, (nearly) always the same was done: there is no alternative in the data whose outcome "
            "could be compared, so any improvement would be a guess.",
            Evidence("variety of actions in a state", percent(randomness(seen)), f"above {percent(TRIED)}", OURS),
        )
    clear, headroom = smallest_clear(seen), seen.imbalance.best_tenth - seen.returns.mean
    if count >= 2 and seen.returns.deviation > 0 and clear > headroom and not stitches(seen):
        yield (
            f"With {several(count, 'different episode')} a difference of mean returns has to exceed {number(clear)} to "
            f"be clear, but the best tenth of the episodes is only {number(headroom)} above the mean.",
            Evidence(
                "smallest clear difference",
                number(clear),
                f"below {number(headroom)}",
                f"{CLEAR:g} standard errors of a difference of two such means",
            ),
        )
