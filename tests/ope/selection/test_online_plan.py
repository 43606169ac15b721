"""The plan of the first episodes: conjugate updates by hand, and whether estimates find the best policy sooner."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lightning_offrl.errors import InputError
from lightning_offrl.ope.estimate import Row
from lightning_offrl.ope.result import OPEResult
from lightning_offrl.ope.selection.online_plan import Belief, Estimates, estimated, plan
from lightning_offrl.ope.verdict import OPEVerdict
from lightning_offrl.ope.weighting.importance import plain
from lightning_offrl.ope.weighting.intervals import Interval

Z95 = 1.959963984540054


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_conjugate_update_by_hand():
    # prior N(10, 2^2), noise 4: worth 4 episodes; three that return 13, 15, 20 (mean 16) give (4 * 10 + 3 * 16) / 7
    belief = Belief(numbers(10.0, 5.0), numbers(2.0, 1.0), 4.0)
    assert belief.worth.tolist() == [4.0, 16.0]
    after = belief.after(numbers(3.0, 0.0), numbers(48.0, 0.0))
    assert after.mean.tolist() == pytest.approx([88 / 7, 5.0], abs=1e-12)
    assert after.deviation.tolist() == pytest.approx([4 / math.sqrt(7), 1.0], abs=1e-12)
    one_by_one = belief
    for value in (13.0, 15.0, 20.0):
        one_by_one = one_by_one.after(numbers(1.0, 0.0), numbers(value, 0.0))
    assert one_by_one.mean.tolist() == pytest.approx(after.mean.tolist(), abs=1e-12)


def test_without_a_prior_the_posterior_is_the_sample_mean():
    nothing = Belief(numbers(0.0, 0.0), numbers(math.inf, math.inf), 4.0)
    assert nothing.index(0).tolist() == [math.inf, math.inf]
    after = nothing.after(numbers(4.0, 0.0), numbers(10.0, 0.0))
    assert after.mean[0] == 2.5 and after.deviation.tolist() == [2.0, math.inf]
    assert int(after.best) == 0  # not the one of which nothing is known, whatever its mean says


def test_index_is_a_normal_quantile():
    belief = Belief(numbers(10.0, 5.0), numbers(2.0, 4.0), 4.0)
    assert belief.index(0).tolist() == [10.0, 5.0]  # at one half: the means
    assert belief.index(38).tolist() == pytest.approx([10.0 + 2 * Z95, 5.0 + 4 * Z95], abs=1e-9)  # 1 - 1 / 40


def test_chance_to_be_the_best_of_two_in_closed_form():
    belief = Belief(numbers(1.0, 0.0), numbers(3.0, 4.0), 1.0)
    exact = 0.5 * (1 + math.erf(1.0 / 5.0 / math.sqrt(2)))
    error = math.sqrt(exact * (1 - exact) / 20_000)
    assert abs(float(belief.chance_best()[0]) - exact) < 4 * error


TRUTH = torch.linspace(40.0, 75.0, 8, dtype=torch.float64)
NOISE = 25.0


def losses(prior: Belief, episodes: int, seed: int = 2) -> torch.Tensor:
    """Best value minus the value of the policy that would be recommended, mean over simulations, by episode."""
    generator, belief, out = torch.Generator().manual_seed(seed), prior, []
    for t in range(episodes):
        chosen = belief.index(t).argmax(-1)
        one = torch.nn.functional.one_hot(chosen, 8).double()
        returned = TRUTH[chosen] + NOISE * torch.randn(len(chosen), generator=generator, dtype=torch.float64)
        belief = belief.after(one, one * returned[:, None])
        out.append((TRUTH.max() - TRUTH[belief.best]).mean())
    return torch.stack(out)


def test_estimates_find_the_best_of_eight_in_fewer_episodes():
    """Policies worth 40 to 75, episodes that vary by 25; estimates with errors of 10, each counted as 3 episodes."""
    runs = 600
    error = 10.0 * torch.randn(runs, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cold = losses(Belief(torch.zeros(runs, 8).double(), torch.full((runs, 8), math.inf).double(), NOISE), 40)
    warm = losses(Belief(TRUTH + error, torch.full((runs, 8), NOISE / math.sqrt(3)).double(), NOISE), 40)

    def needed(curve: torch.Tensor, loss: float = 5.0) -> int:
        return int((curve < loss).nonzero()[0]) + 1

    assert needed(warm) <= 5 and needed(cold) >= 15
    assert warm[7] < 0.5 * cold[7] and warm[19] < 0.75 * cold[19]


def test_a_misleading_estimate_is_found_out():
    """The worst of eight is put 50 above its value; counted as 3 episodes, and not as 30, that is soon corrected."""
    runs, bias = 400, torch.zeros(8, dtype=torch.float64)
    bias[0] = 50.0
    wrong = (TRUTH + bias).expand(runs, 8)
    soon = losses(Belief(wrong, torch.full((runs, 8), NOISE / math.sqrt(3)).double(), NOISE), 20)
    late = losses(Belief(wrong, torch.full((runs, 8), NOISE / math.sqrt(30)).double(), NOISE), 20)
    assert soon[0] > 15.0  # misled at first
    assert soon[-1] < 5.0 < 10.0 < late[-1]


def evaluation(*rows: tuple[str, str, float, float, float]) -> OPEResult:
    naive = Row("naive", "baseline", 5.0, "baseline", terms=plain(torch.tensor([1.0, 5.0, 9.0]).double()))
    found = [Row(n, f, v, "eligible", Interval(lo, hi, 0.95, "percentile")) for n, f, v, lo, hi in rows]
    word = "SINGLE" if rows else "ABSTAIN"
    return OPEResult("p", "log", 3, 0.9, None, "logged", [naive, *found], OPEVerdict(word, ""), (1.0, 5.0, 9.0, 9.0))


def test_prior_reaches_as_far_as_any_interval():
    mean, deviation = estimated(evaluation(("wis", "weights", 6.0, 5.0, 7.0), ("fqe", "values", 7.0, 6.5, 9.0)))
    assert mean == 7.0 and deviation == pytest.approx(2.0 / Z95)  # fqe speaks; wis reaches down to 5
    assert math.isnan(estimated(evaluation())[0])


def test_plan_from_evaluations():
    given = {"a": evaluation(("wis", "weights", 8.0, 4.0, 12.0)), "b": evaluation(("wis", "weights", 7.0, 6.9, 7.1))}
    found = plan({**given, "none": evaluation()}, 12)
    assert found.names == ["a", "b"] and found.left_out == ["none"]
    assert (
        "not in the plan: none: no eligible estimate with an interval; --plan_unknown N gives each N episodes first"
    ) in found.table()
    assert found.prior.noise == 4.0 and found.noise_from == "as in the log"  # deviation of 1, 5, 9
    # b's narrow interval does not count for more than three episodes
    assert found.prior.deviation.tolist() == pytest.approx([max(4 / Z95, 4 / math.sqrt(3)), 4 / math.sqrt(3)])
    assert len(found.order) == 12 and found.order[0] == "a" and set(found.order) == {"a", "b"}
    bad = plan(given, 6, played={"a": [0.0] * 5 + [2.0] * 5, "b": [5.0, 7.0]})
    assert bad.order[0] == "b" and bad.played.tolist() == [10.0, 2.0]
    assert bad.now.noise == pytest.approx(math.sqrt((10 + 2) / 10)) and "played episodes" in bad.noise_from
    for word in ("order:", "worth episodes", "b x"):
        assert word in bad.table(), bad.table()


def test_policies_that_nobody_can_judge_are_tried_only_if_asked_for():
    given = {"a": evaluation(("wis", "weights", 8.0, 4.0, 12.0)), "x": evaluation(), "y": evaluation()}
    found = plan(given, 7, unknown=3, played={"x": [9.0, 9.0]})
    assert found.names == ["a", "x", "y"] and not found.left_out and "not in the plan" not in found.table()
    # y is owed three episodes and x one more; then whoever has the largest quantile
    assert found.order[:4] == ["y", "y", "x", "y"] and found.order[4] in ("a", "x", "y")
    # a flat prior: after two episodes of 9 with the log's deviation 4, x is worth 9 +- 4 / sqrt 2, and y nothing yet
    assert found.now.mean.tolist() == [8.0, 9.0, 5.0] and found.now.deviation[1] == pytest.approx(4 / math.sqrt(2))
    assert "unknown" in found.table() and found.now.chance_best()[2] == 0.0
    content = found.to_dict()
    assert content["prior_deviation"][1:] == [None, None] and "NaN" not in json.dumps(content, allow_nan=False)
    # played once, it is known; never played and not asked for, it is left out
    once = plan(given, 4, played={"x": [9.0]})
    assert once.names == ["a", "x"] and once.left_out == ["y"]
    assert plan({"y": evaluation()}, 2, unknown=1).order == ["y", "y"]


def test_a_plan_from_what_was_written():
    given = {"a": evaluation(("wis", "weights", 8.0, 4.0, 12.0)), "none": evaluation()}
    stored = Estimates.from_dict(json.loads(json.dumps(Estimates.of(given).to_dict())))
    assert plan(stored, 9, played={"a": [1.0]}).to_dict() == plan(given, 9, played={"a": [1.0]}).to_dict()
    for wrong in (None, {}, {"policies": {"a": 1.0}, "log_mean": 1.0, "log_deviation": 1.0}):
        with pytest.raises(InputError, match="offrl select --json"):
            Estimates.from_dict(wrong)


def test_what_cannot_be_planned():
    given = {"a": evaluation(("wis", "weights", 8.0, 4.0, 12.0))}
    with pytest.raises(InputError, match="returns of 'c'"):
        plan(given, 3, played={"c": [1.0]})
    with pytest.raises(InputError, match="finite"):
        plan(given, 3, played={"a": [math.nan]})
    with pytest.raises(InputError, match="trust > 0"):
        plan(given, 3, trust=0.0)
    assert plan({"none": evaluation()}, 3).order == []
