"""What to do with a dataset: sentences, each with the numbers that it stands on.

Every limit is in one of the constants here, in `verdict` or in `findings`, and is shown beside the
sentence with its source. Published scores are those of CORL's README (4 seeds, last evaluation, D4RL v2).
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from lightning_offrl.reports.dataset.evidence import OURS, Evidence, Finding
from lightning_offrl.reports.dataset.findings import FEW, check, distinct_episodes, repeats
from lightning_offrl.reports.dataset.measure import DatasetMeasures
from lightning_offrl.reports.dataset.verdict import (
    BROAD,
    GOOD,
    NARROW,
    DatasetVerdict,
    dataset_verdict,
    policies_evidence,
    quality,
    randomness,
    randomness_evidence,
    stitches,
    stitching_evidence,
)
from lightning_offrl.reports.formatting import counted, percent, short_number

CORL = "CORL's README, D4RL v2, 4 seeds"


@dataclass(frozen=True)
class Advice:
    """One thing to do.

    Attributes:
        topic: what it is about.
        sentence: what to do and why.
        evidence: the numbers behind it.
        option: words for the command line of ``offrl fit``, or empty.
    """

    topic: str
    sentence: str
    evidence: tuple[Evidence, ...] = ()
    option: str = ""


@dataclass(frozen=True)
class Assessment:
    """DatasetVerdict, advice and checks."""

    verdict: DatasetVerdict
    advice: tuple[Advice, ...]
    findings: tuple[Finding, ...]


def assess(measures: DatasetMeasures) -> Assessment:
    """Judge what was measured."""
    verdict = dataset_verdict(measures)
    advice = (
        *_algorithm(measures, verdict),
        *_conservatism(measures, verdict),
        *_reward(measures),
        *_sampling(measures),
        *_evaluation(measures),
    )
    return Assessment(verdict, advice, tuple(check(measures)))


def command(measures: DatasetMeasures, assessment: Assessment) -> str:
    """The training command that the advice adds up to."""
    options = " ".join(one.option for one in assessment.advice if one.option)
    return f"offrl fit --data.source {shlex.quote(measures.source)} {options}".strip()


def _algorithm(measures: DatasetMeasures, verdict: DatasetVerdict) -> Iterator[Advice]:
    discrete = measures.episodes.spec["action_kind"] == "discrete"
    cloning = "discrete_bc" if discrete else "bc"
    if verdict.kind == "refuse":
        yield Advice(
            "Algorithm",
            "If a policy is needed all the same, clone the behavior, say that this is what it is, and collect data in "
            "which other actions were tried.",
            verdict.evidence,
            f"--config {cloning}",
        )
        return
    if verdict.kind == "imitate":
        yield Advice(
            "Algorithm",
            "Clone the behavior. As a check, train one algorithm that stays close to it "
            f"({'discrete BCQ' if discrete else 'TD3+BC'}): if that is not clearly better, keep the clone.",
            verdict.evidence,
            f"--config {cloning}",
        )
        return
    policies = measures.policies
    evidence = (policies_evidence(measures), stitching_evidence(measures))
    if discrete:
        choice = "discrete CQL" if randomness(measures) >= NARROW else "discrete BCQ"
        why = (
            "actions vary enough in each state for a penalty on the values of rare ones to work"
            if choice == "discrete CQL"
            else "few actions are tried in each state, and it never leaves those"
        )
        config = "discrete_cql" if choice == "discrete CQL" else "discrete_bcq"
        yield Advice(
            "Algorithm",
            f"Begin with {choice}, because {why}; compare with discrete IQL, which never looks at actions outside of "
            "the data.",
            (*evidence, randomness_evidence(measures)),
            f"--config {config}",
        )
    elif policies.effective >= 2.5 or stitches(measures):
        yield Advice(
            "Algorithm",
            f"Begin with IQL: the data mixes behaviors ({policies.effective:.1f}{'+' if policies.at_most else ''} "
            "effective policies) and what is good has to be picked out step by step. On data of this kind imitation "
            "is far behind (hopper medium-replay: cloning 30, its best tenth 70, IQL 97).",
            (*evidence, Evidence("published scores", "30, 70 and 97 of 100", "", CORL)),
            "--config iql",
        )
    elif policies.effective >= 1.5:
        yield Advice(
            "Algorithm",
            f"Compare IQL with cloning only the best tenth: the data holds about {policies.effective:.1f} policies, "
            "and leaving out the worse may be all that is needed (hopper medium-expert: cloning all 52, its best tenth "
            "111, IQL 107).",
            (*evidence, Evidence("published scores", "52, 111 and 107 of 100", "", CORL)),
            "--config iql",
        )
    else:
        yield Advice(
            "Algorithm",
            "Begin with TD3+BC or IQL and expect a modest gain: this is one policy with noise around it (hopper "
            "medium: cloning 54, TD3+BC 60, IQL 68). ReBRAC goes further there (102) but its penalties have to be "
            "tuned.",
            (*evidence, Evidence("published scores", "54, 60, 68 and 102 of 100", "", CORL)),
            "--config iql",
        )
    yield Advice(
        "Baselines",
        f"Report cloning of all episodes ({cloning}) and of the best tenth beside it, on the same evaluation: an "
        "algorithm that does not beat both has only filtered.",
        (
            Evidence(
                "best tenth and mean of the data",
                f"{short_number(measures.imbalance.best_tenth)} and {short_number(measures.returns.mean)}",
            ),
        ),
    )


def _conservatism(measures: DatasetMeasures, verdict: DatasetVerdict) -> Iterator[Advice]:
    if verdict.kind != "improve":
        return
    value, discrete = randomness(measures), measures.episodes.spec["action_kind"] == "discrete"
    evidence = (randomness_evidence(measures),)
    if value < NARROW:
        remedy = (
            "a BCQ threshold of 0.3 or more, or a CQL weight of 1 or more"
            if discrete
            else "IQL's inverse temperature 0.5 (its authors' value for narrow human data), or TD3+BC with alpha 1"
        )
        yield Advice(
            "Conservatism",
            f"Stay close to the data: the actions tried in a state are only {percent(value)} as varied as random ones, "
            f"so the values of others are guesses. Take {remedy}.",
            evidence,
            "" if discrete else "--model.inverse_temperature 0.5",
        )
    elif value < BROAD:
        yield Advice(
            "Conservatism",
            f"Medium: the actions tried in a state are {percent(value)} as varied as random ones, so nearby "
            "alternatives have been seen and far ones have not. Begin with the shipped settings"
            + ("." if discrete else " (IQL's inverse temperature 3, TD3+BC's alpha 2.5)."),
            evidence,
        )
    else:
        less = "a CQL weight below 1" if discrete else "TD3+BC with alpha 4, or CQL with weight 5"
        yield Advice(
            "Conservatism",
            f"Little is needed: the actions tried in a state are {percent(min(value, 1.0))} as varied as random ones. "
            f"Begin with the shipped settings; if the policy stays near a poor average, loosen them ({less}).",
            evidence,
        )


def _reward(measures: DatasetMeasures) -> Iterator[Advice]:
    rewards, steps = measures.rewards, measures.rewards.steps
    size = Evidence(
        "size of the values", f"{rewards.size:.3g} (mean |reward| / (1 - {measures.discount:g}))", "0.1 to 100", OURS
    )
    sparse = Evidence("zero rewards", percent(rewards.zero), "95 % and only 0 and 1", "IQL's authors, AntMaze")
    if rewards.zero >= 0.95 and rewards.distinct == 2 and (steps.smallest, steps.largest) == (0.0, 1.0):
        yield Advice(
            "Rewards",
            "Take r - 1 (`antmaze`): with 0 and 1, and most of it 0, values start near their goal and the signal is "
            "faint; with -1 per step every step says that it is not over yet. Values change, the best policy in a task "
            "that ends at success does not.",
            (sparse,),
            "--data.reward antmaze",
        )
    elif steps.deviation == 0 and measures.returns.deviation == 0:
        yield Advice("Rewards", "Leave rewards as they are: they do not vary.", (size,))
    elif (rewards.size < 0.1 or rewards.size > 100.0) and measures.returns.deviation > 0:
        span = measures.returns.largest - measures.returns.smallest
        yield Advice(
            "Rewards",
            f"Scale rewards by 1000 / (range of returns) = {1000.0 / span:.3g} (`iql-locomotion`): values of the size "
            f"{rewards.size:.3g} suit neither the networks' start nor temperatures that were tuned on others. Scaling "
            "changes no preference"
            + (
                "; `standardize` would also shift, which with terminal states pays for, or against, living longer."
                if measures.endings.terminal
                else "."
            ),
            (size, Evidence("range of returns", short_number(span))),
            "--data.reward iql-locomotion",
        )
    else:
        yield Advice(
            "Rewards",
            f"Leave rewards as they are: values will be of the size {rewards.size:.3g}, which suits what is shipped.",
            (size,),
        )


def _sampling(measures: DatasetMeasures) -> Iterator[Advice]:
    found, copies = measures.imbalance, measures.copies
    if copies.duplicated and not repeats(measures):
        yield Advice(
            "Sampling",
            f"Let copies count once (`--data.sampling.weight unique`): {counted(copies.duplicated, 'episode')} would "
            "otherwise weigh more than their evidence.",
            (Evidence("duplicated episodes", f"{copies.duplicated:,}", "0"),),
            "--data.sampling.weight unique",
        )
    elif (
        found.upper_spread >= 0.15
        and found.best_tenth_steps < 0.3
        and quality(measures) < GOOD
        and measures.policies.number > 1
    ):
        yield Advice(
            "Sampling",
            "Draw episodes by their return (`--data.sampling.weight return`): the best tenth holds only "
            f"{percent(found.best_tenth_steps)} of the steps and stands far above the rest, where uniform batches "
            "hold an algorithm near the average. In a random environment this also favors luck.",
            (
                Evidence(
                    "positive-sided deviation of returns",
                    f"{found.upper_spread:.2f} of their range",
                    "0.15",
                    "gains grow with it (Hong et al. 2023, arXiv:2306.13085); the number is ours",
                ),
                Evidence("steps in the best tenth", percent(found.best_tenth_steps), "below 30 %", OURS),
            ),
            "--data.sampling.weight return",
        )
    if measures.rewards.zero >= 0.95 and 0 < measures.rewards.zero < 1:
        yield Advice(
            "Sampling",
            f"Give steps with a reward a fixed share of each batch: {percent(1 - measures.rewards.zero)} of the steps "
            "have one, so many batches of 256 hold hardly any.",
            (Evidence("rewarded steps in a batch of 256", f"{256 * (1 - measures.rewards.zero):.1f}", "13", OURS),),
            "--data.sampling.strata reward --data.sampling.shares [7,1]" if not copies.duplicated else "",
        )
    policies, smallest = measures.policies, percent(min(measures.policies.shares))
    if policies.number > 1 and min(policies.shares) < 0.1:
        yield Advice(
            "Sampling",
            f"{policies.number} policies made the data, one of them only {smallest} of the episodes. "
            "To see each equally often: `--data.sampling.strata policy --data.sampling.report` with the "
            ".json file beside this report.",
            (policies_evidence(measures), Evidence("smallest share", smallest, "10 %", OURS)),
        )


def _evaluation(measures: DatasetMeasures) -> Iterator[Advice]:
    count, steps = distinct_episodes(measures), measures.lengths.mean
    logged = "behavior_log_prob" in measures.episodes.data.keys()
    if count < FEW:
        return
    budget = 0.5 * math.log2(count / FEW) if count > FEW else 0.0
    source = f"Gaussian policies: effective episodes = n 2^(-2 KL), and {FEW} are needed"
    evidence = (
        Evidence("probabilities of the logged actions", "logged" if logged else "not logged"),
        Evidence("divergence that importance weights survive", f"{budget:.2g} bits per episode", "", source),
    )
    per_step = budget / max(steps, 1.0)
    if per_step < 0.01:
        sentence = (
            f"Importance weights will not carry an evaluation: with {count:,} episodes of {steps:,.0f} steps they "
            f"survive a divergence of {per_step:.2g} bits per step, almost the behavior itself. Use fitted Q "
            "evaluation, and check it in the environment where there is one."
        )
    else:
        sentence = (
            f"Importance-weighted estimates can work for policies within {per_step:.2g} bits per step of the "
            f"behavior ({count:,} episodes of {steps:,.0f} steps)"
            + ("." if logged else ", but the probabilities of the logged actions are missing: they have to be fitted.")
        )
    yield Advice("Evaluation", sentence, evidence)
    surprise = measures.links.surprise
    if surprise is not None and surprise > 1.0:
        yield Advice(
            "Luck",
            "The world is random: after the same action in the same state, what follows differs by "
            f"{surprise:.1f} typical steps. High returns are partly luck, so do not select episodes by return alone, "
            "and read the stitching potential as an upper bound.",
            (Evidence("difference of what follows", f"{surprise:.2f} steps", "1 step", OURS),),
        )
