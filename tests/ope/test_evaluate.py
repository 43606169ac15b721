"""Whole evaluations: who is eligible, what agrees, the words, groups, bandits, policies without density."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.errors import InputError
from lightning_offrl.ope.direct.estimate import multiplicities
from lightning_offrl.ope.direct.lstd import lstd
from lightning_offrl.ope.evaluate import evaluate
from lightning_offrl.ope.policies.target import ClippedNormal, Deterministic, SquashedNormal, Tabular
from lightning_offrl.ope.weighting.importance import importance_sampling, naive, per_decision
from lightning_offrl.ope.weighting.intervals import interval
from lightning_offrl.ope.weighting.trajectories import trajectories
from tests.ope.coin_log import POLICY, direct, finite_log

TRUTH = 3 * (0.5 * 0.7 + 0.5 * 0.65)


def test_estimates_are_those_of_the_pure_functions():
    episodes = finite_log()
    found = evaluate(POLICY, episodes, discount=0.9, estimators=("auto", "is"))
    data = trajectories(episodes, POLICY, discount=0.9)
    assert [row.name for row in found.rows] == ["naive", "is", "wis", "pdis", "cwpdis"]
    assert found.row("wis").value == importance_sampling(data, normalized=True).value
    assert found.row("cwpdis").interval == interval(per_decision(data, normalized=True))
    assert found.row("naive").value == naive(data).value and found.row("naive").status == "baseline"
    assert all(row.status == "eligible" for row in found.rows[1:])
    assert found.row("wis").ess == pytest.approx(found.weights.ess)


def test_conservative_value_is_the_smallest_lower_bound_of_the_eligible():
    episodes = finite_log()
    fitted = direct(1.9, episodes, spread=0.2)
    broken = direct(-50.0, episodes, method="mb", flags=["diverged"])
    found = evaluate(POLICY, episodes, discount=1.0, direct=[fitted, broken])
    eligible = [row for row in found.rows if row.status == "eligible"]
    assert found.row("mb").status == "abstains" and found.row("mb").reasons == ("diverged",)
    assert found.conservative == min(row.interval.low for row in eligible) < TRUTH
    assert found.conservative > -1.0


def test_independent_estimates_that_agree():
    episodes = finite_log()
    found = evaluate(POLICY, episodes, discount=1.0, direct=[direct(TRUTH, episodes)])
    assert found.verdict.word == "AGREE" and found.verdict.exit_code == 0
    # the fitted values here are 0, so wdr is cwpdis to rounding and confirms nothing
    assert {(c.first, c.second) for c in found.comparisons} == {("cwpdis", "fqe")}
    assert found.row("wdr").value == pytest.approx(found.row("cwpdis").value, rel=1e-12)
    assert "wdr gives cwpdis's number" in found.verdict.sentence


def test_independent_estimates_that_disagree():
    episodes = finite_log()
    found = evaluate(POLICY, episodes, discount=1.0, direct=[direct(TRUTH - 1.0, episodes)])
    assert found.verdict.word == "DISAGREE" and found.verdict.exit_code == 4
    assert "at least one of them is wrong" in found.verdict.sentence
    gap = next(c for c in found.comparisons if (c.first, c.second) == ("cwpdis", "fqe"))
    assert gap.agree is False and gap.difference == pytest.approx(1.0, abs=0.25)


def test_estimates_of_one_family_do_not_confirm_each_other():
    found = evaluate(POLICY, finite_log(), discount=1.0)
    assert found.verdict.word == "SINGLE" and "no independent estimate" in found.verdict.sentence


def test_nothing_eligible_abstains_with_the_reason():
    found = evaluate(Tabular([[0.02, 0.98], [0.98, 0.02]]), finite_log(n=60, steps=8), discount=1.0)
    assert found.verdict.word == "ABSTAIN" and found.verdict.exit_code == 3 and found.conservative is None
    assert "effective sample size" in found.verdict.sentence
    table = found.table()
    assert "ABSTAIN" in table and "Abstained because" in table
    assert all(line.split()[1] == "-" for line in table.splitlines() if line.startswith("wis"))  # no number is shown


def test_small_differences_agree_whatever_their_intervals_say():
    episodes = finite_log(n=5_000)
    weighted = evaluate(POLICY, episodes, discount=1.0, estimators=("cwpdis",)).row("cwpdis").value
    spread = float(naive(trajectories(episodes, discount=1.0)).per_episode.quantile(torch.tensor(0.95).double())) - 0.0
    for share, word in ((0.04, "AGREE"), (0.1, "DISAGREE")):  # of the middle nine tenths of the returns
        fitted = direct(weighted + share * spread, episodes, 1e-4)
        found = evaluate(POLICY, episodes, discount=1.0, estimators=("cwpdis",), direct=[fitted])
        assert not found.comparisons[0].interval.contains(0.0) and found.verdict.word == word


def test_differences_to_fitted_values_are_paired_by_their_resamples():
    """A fit that moves with the data exactly as the weighted estimate does differs from it by a constant."""
    episodes = finite_log()
    terms = per_decision(trajectories(episodes, POLICY, discount=1.0), normalized=True)
    counts = multiplicities(episodes.n_episodes, 60, 3)[1:]
    fitted = direct(terms.value - 0.5, episodes, refits=0)
    fitted.replicates, fitted.counts = terms.resampled(counts) - 0.5, counts
    found = evaluate(POLICY, episodes, discount=1.0, estimators=("cwpdis",), direct=[fitted])
    gap = found.comparisons[0]
    assert gap.paired and (gap.interval.low, gap.interval.high) == pytest.approx((0.5, 0.5), abs=1e-9)
    fitted.counts = None
    gap = evaluate(POLICY, episodes, discount=1.0, estimators=("cwpdis",), direct=[fitted]).comparisons[0]
    assert not gap.paired and gap.interval.width > 0.1


def test_better_or_worse_than_the_data_is_a_paired_claim():
    episodes = finite_log(n=4000)
    assert "shown better than the data" in evaluate(POLICY, episodes, discount=1.0).verdict.against_data
    worse = Tabular([[0.4, 0.6], [0.6, 0.4]])
    assert "shown worse than the data" in evaluate(worse, episodes, discount=1.0).verdict.against_data
    same = Tabular([[0.6, 0.4], [0.6, 0.4]])
    assert "not shown better" in evaluate(same, episodes, discount=1.0).verdict.against_data


def test_deterministic_policies_are_refused_with_what_applies_and_blurred_on_request():
    generator = torch.Generator().manual_seed(0)
    behavior = SquashedNormal(lambda o: (0.3 * o[:, :1].double(), torch.full((len(o), 1), 0.6).double()))
    observation = torch.randn(3000, 2, generator=generator)
    action = behavior.sample(observation, 1, generator)[0].float()
    episodes = from_arrays(
        {
            "observations": observation.numpy(),
            "actions": action.numpy(),
            "rewards": (1.0 - (action[:, 0] - 0.2) ** 2).numpy(),
            "terminated": torch.ones(3000, dtype=torch.bool).numpy(),
            "truncated": torch.zeros(3000, dtype=torch.bool).numpy(),
            "behavior_log_prob": behavior.log_prob(observation, action).numpy(),
        }
    )
    policy = Deterministic(lambda o: torch.full((len(o), 1), 0.2))
    found = evaluate(policy, episodes, discount=1.0)
    assert found.verdict.word == "ABSTAIN" and "fqe" in found.verdict.sentence and "kis" in found.verdict.sentence
    blurred = evaluate(policy, episodes, discount=1.0, bandwidth=0.1)
    # the blurred policy earns 1 - h^2 (its spread around the best action)
    assert blurred.row("wis").status == "eligible"
    assert blurred.row("wis").value == pytest.approx(1.0 - 0.1**2, abs=4 * 0.001)
    assert any("kernel" in note for note in blurred.notes)
    clipped = ClippedNormal(lambda o: (torch.zeros(len(o), 1), torch.ones(len(o), 1)))
    assert "atoms" in evaluate(clipped, episodes, discount=1.0).verdict.sentence


def test_groups_have_their_own_estimates_and_are_covered_together():
    episodes = finite_log()
    labels = ["ward A" if i % 4 else "ward B" for i in range(400)]
    found = evaluate(POLICY, episodes, discount=1.0, by={"ward": labels}, direct=[direct(TRUTH, episodes)])
    groups = found.groups["ward"]
    assert {label: group.n for label, group in groups.items()} == {"ward A": 300, "ward B": 100}
    member = torch.tensor([label == "ward B" for label in labels])
    alone = trajectories(episodes, POLICY, discount=1.0).select(member)
    terms = importance_sampling(alone, normalized=True)
    assert groups["ward B"].row("wis").value == pytest.approx(terms.value)
    assert groups["ward B"].row("wis").interval == interval(terms, level=0.975)  # two groups share the error
    assert groups["ward B"].row("wis").interval.width > interval(terms).width
    assert groups["ward B"].row("fqe").interval is None
    assert "By ward" in found.table()
    with pytest.raises(InputError, match="at most 50 groups"):
        evaluate(POLICY, episodes, discount=1.0, by={"ward": list(range(400))})
    with pytest.raises(InputError, match="3 labels for 400 episodes"):
        evaluate(POLICY, episodes, discount=1.0, by={"ward": [1, 2, 3]})


def test_bandit_logs_are_episodes_of_one_step():
    episodes = finite_log(n=500, steps=1)
    found = evaluate(POLICY, episodes, discount=0.5)
    data = episodes.data
    p = POLICY.probabilities(data["observation"]).gather(-1, data["action"][:, None]).squeeze(-1)
    w = p / data["behavior_log_prob"].double().exp()
    r = data["next", "reward"].double()
    assert found.row("pdis").value == pytest.approx(float((w * r).mean()), abs=1e-12)
    assert found.row("wis").value == pytest.approx(float((w * r).sum() / w.sum()), abs=1e-12)


def test_time_discounting_uses_the_log_s_times():
    episodes = finite_log(n=50, steps=3)
    elapsed = torch.tensor([0.0, 0.5, 2.0]).repeat(50)
    found = evaluate(POLICY, episodes, discount=0.5, elapsed=elapsed)
    reward = episodes.data["next", "reward"].double().view(50, 3)
    expected = (reward * 0.5 ** torch.tensor([0.0, 0.5, 2.0]).double()).sum(-1).mean()
    assert found.row("naive").value == pytest.approx(float(expected), abs=1e-12)
    with pytest.raises(InputError, match="discount by step"):
        evaluate(POLICY, episodes, discount=0.5, elapsed=elapsed, direct=[direct(1.0, episodes)])


def test_limited_horizon_leaves_out_estimates_of_whole_episodes():
    episodes = finite_log()
    found = evaluate(POLICY, episodes, discount=1.0, horizon=2, direct=[direct(2.0, episodes)])
    assert found.horizon == 2 and "the first 2 steps" in found.table()
    assert found.row("fqe").status == "abstains" and "whole episodes" in found.row("fqe").reasons[0]
    assert found.row("wdr").status == "eligible"  # any value function serves as control variate


def test_estimated_behavior_is_named():
    episodes = finite_log()
    behavior = Tabular([[0.6, 0.4], [0.6, 0.4]])
    found = evaluate(POLICY, episodes, discount=1.0, behavior=behavior)
    assert found.behavior == "estimated" and any("regression importance sampling" in note for note in found.notes)
    assert "unseen" in found.support
    assert evaluate(POLICY, episodes, discount=1.0).behavior == "logged"


def test_guaranteed_intervals_only_with_a_range():
    episodes = finite_log()
    assert evaluate(POLICY, episodes, discount=1.0).row("naive").guaranteed is None
    found = evaluate(POLICY, episodes, discount=1.0, reward_range=(0.0, 1.0), max_weight=20.0)
    mean, low, high = found.row("naive").value, found.row("naive").guaranteed.low, found.row("naive").guaranteed.high
    half = 3.0 * math.sqrt(math.log(2 / 0.025) / (2 * 400))
    assert high - low <= 2 * half + 1e-9 and low <= mean <= high
    assert found.row("pdis").guaranteed.guaranteed and found.row("wis").guaranteed is None
    assert "guaranteed" in found.table()


def test_bounds_are_left_when_every_estimate_abstains():
    """The policy takes an action that the log never shows; with rewards from 0 to 1 its value is still bounded."""
    reward = lambda state, action: (action == 0).double() * 0.5  # noqa: E731
    episodes = finite_log(p=1e-9, reward=reward)
    policy = Tabular([[0.8, 0.2], [0.8, 0.2]])  # action 1 pays 1 in truth, and nobody knows
    found = evaluate(policy, episodes, discount=1.0, reward_range=(0.0, 1.0))
    assert found.verdict.word == "ABSTAIN" and found.bounds.low <= 3 * (0.8 * 0.5 + 0.2) <= found.bounds.high
    # by hand: w_t = 0.8^t; lower: sum 0.5 * 0.8^t, upper: that + sum 1 - 0.8^t; no spread between episodes
    weights = [0.8, 0.64, 0.512]
    lower = sum(0.5 * w for w in weights)
    assert (found.bounds.low, found.bounds.high) == pytest.approx((lower, lower + 3 - sum(weights)), abs=1e-6)
    assert "Whatever the log lacks" in found.table()
    assert evaluate(policy, episodes, discount=1.0).bounds is None
    estimated = evaluate(policy, episodes, discount=1.0, reward_range=(0.0, 1.0), behavior=Tabular([[0.9, 0.1]] * 2))
    assert estimated.bounds is None


def test_what_is_written_is_plain_json():
    episodes = finite_log()
    found = evaluate(
        POLICY, episodes, discount=1.0, by={"half": [i % 2 for i in range(400)]}, direct=[direct(2.0, episodes)]
    )
    text = json.dumps(found.to_dict(), allow_nan=False)
    back = json.loads(text)
    assert back["verdict"] == found.verdict.word and set(back["groups"]["half"]) == {"0", "1"}
    assert back["estimates"][0]["definition"].startswith("mean return of the log")
    for row in found.rows:
        assert f"{row.name}:" in found.table()  # every name is defined under the table


def test_unknown_estimators_are_named():
    with pytest.raises(InputError, match="no estimator 'wsi'"):
        evaluate(POLICY, finite_log(), discount=1.0, estimators=("wsi",))


def test_linear_fitted_values_beside_weights_on_real_code():
    """LSTD with its own refits: paired with the weights by the resamples that both saw; all near the truth."""
    episodes = finite_log(n=600, steps=3)
    fitted = lstd(POLICY, episodes, discount=0.9, replicates=30)
    found = evaluate(POLICY, episodes, discount=0.9, direct=[fitted])
    truth = TRUTH / 3 * (1 + 0.9 + 0.81)
    for name in ("wis", "cwpdis", "wdr"):
        row = found.row(name)
        assert row.status == "eligible" and abs(row.value - truth) < 4 * row.terms.standard_error
    gap = next(c for c in found.comparisons if (c.first, c.second) == ("cwpdis", "lstd"))
    assert gap.paired
