"""Hidden causes: bounds against enumeration and a closed form, and what a log with its own probabilities gives away."""

from __future__ import annotations

from collections import defaultdict
from itertools import product

import numpy as np
import pytest
import torch

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers import load
from lightning_offrl.envs.sepsis.environment import Sepsis
from lightning_offrl.errors import InputError
from lightning_offrl.ope.checks.weight_diagnostics import Limits, check_weights
from lightning_offrl.ope.direct.lstd import lstd
from lightning_offrl.ope.evaluate import evaluate
from lightning_offrl.ope.policies.target import Discrete, TargetPolicy
from lightning_offrl.ope.weighting.importance import importance_sampling
from lightning_offrl.ope.weighting.intervals import interval
from lightning_offrl.ope.weighting.sensitivity import sensitivity, tipping_point, unrecorded_cause
from lightning_offrl.ope.weighting.trajectories import ESTIMATED, Trajectories


def random_log(episodes: int, horizon: int, seed: int = 0) -> Trajectories:
    draw = torch.Generator().manual_seed(seed)
    length = torch.randint(1, horizon + 1, (episodes,), generator=draw)
    mask = torch.arange(horizon) < length.unsqueeze(-1)
    behavior, target = (0.1 + 0.8 * torch.rand(episodes, horizon, generator=draw).double() for _ in range(2))
    reward = torch.randn(episodes, horizon, generator=draw).double()
    return Trajectories(
        reward=reward, mask=mask, discount=0.9, behavior_log_prob=behavior.log(), target_log_prob=target.log()
    )


def by_enumeration(data: Trajectories, gamma: float, decisions: int | None) -> tuple[float, float]:
    """Every episode at one of its two ends: the optimum of a ratio of linear functions lies at a corner."""
    ends = []
    for i in range(data.n):
        steps = int(data.length[i])
        b, pi = data.behavior_log_prob[i, :steps].exp(), data.target_log_prob[i, :steps].exp()
        weights = []
        for odds in product((1.0 / gamma, 1.0, gamma), repeat=steps):
            if decisions is not None and sum(o != 1.0 for o in odds) > decisions:
                continue
            theta = torch.tensor(odds, dtype=torch.float64) * b / (1.0 - b)
            weights.append(float((pi / (theta / (1.0 + theta))).prod()))
        ends.append((min(weights), max(weights)))
    values = []
    for corner in product((0, 1), repeat=data.n):
        w = np.array([ends[i][k] for i, k in enumerate(corner)])
        values.append(float((w * data.returns.numpy()).sum() / w.sum()))
    return min(values), max(values)


@pytest.mark.parametrize("decisions", [None, 1, 2, 7])
def test_bounds_against_every_corner(decisions: int | None) -> None:
    data = random_log(7, 3)
    for gamma in (1.3, np.float64(4.0)):
        found = sensitivity(data, gamma, decisions=decisions, n_boot=1)
        assert (found.low, found.high) == pytest.approx(by_enumeration(data, gamma, decisions), abs=1e-12)


def test_bounds_are_nested_to_the_ends_of_what_was_seen() -> None:
    """Also where weights differ by a hundred orders of magnitude."""
    data = random_log(80, 60)
    before = sensitivity(data, 1.0, n_boot=1)
    for gamma in (1.2, 2.0, 10.0, 100.0, 1e4):
        found = sensitivity(data, gamma, n_boot=1)
        assert float(data.returns.min()) <= found.low <= before.low and before.high <= found.high
        assert found.high - found.low > before.high - before.low or gamma > 10.0  # then at the ends
        assert found.high <= float(data.returns.max())
        before = found
    assert tipping_point(data, 0.5 * (before.low + before.high)) <= 1e4


def test_without_hidden_causes_it_is_wis() -> None:
    data = random_log(60, 4)
    terms = importance_sampling(data, normalized=True)
    found = sensitivity(data, 1.0, n_boot=400, seed=3)
    assert (found.low, found.high) == pytest.approx((terms.value, terms.value), abs=1e-12)
    same = interval(terms, n_boot=400, seed=3, method="percentile")
    assert (found.interval.low, found.interval.high) == pytest.approx((same.low, same.high), abs=1e-12)
    wider = sensitivity(data, 1.5, n_boot=400, seed=3)
    assert wider.interval.low < found.interval.low and wider.interval.high > found.interval.high


def confounded_bandit() -> Trajectories:
    """u is a coin, seen by who acts: action 1 with probability .8 if u = 1 and .2 if not; the reward is u.

    The record says that action 1 has probability .5, and that it earns .8; done to everybody it earns .5. The odds
    ratio of .8 to .5 is 4. Ten episodes stand for the population.
    """
    action = torch.tensor([1.0] * 5 + [0.0] * 5)
    cause = torch.tensor([1.0] * 4 + [0.0] + [1.0] + [0.0] * 4)
    return Trajectories(
        reward=cause.double().unsqueeze(-1),
        mask=torch.ones(10, 1, dtype=torch.bool),
        behavior_log_prob=torch.full((10, 1), 0.5, dtype=torch.float64).log(),
        target_log_prob=action.double().unsqueeze(-1).log(),
    )


def test_a_bandit_whose_truth_is_at_the_bound() -> None:
    data = confounded_bandit()
    assert importance_sampling(data, normalized=True).value == pytest.approx(0.8)
    assert sensitivity(data, 4.0, n_boot=1).low == pytest.approx(0.5, abs=1e-12)
    assert sensitivity(data, 3.9, n_boot=1).low > 0.5
    assert tipping_point(data, 0.5) == pytest.approx(4.0, rel=1.1e-3)
    assert tipping_point(data, 0.8 + 1e-12) < 1.01 and tipping_point(data, 1.5) == float("inf")


def test_what_cannot_be_asked() -> None:
    data = random_log(5, 2)
    with pytest.raises(InputError, match="odds ratio of at least 1, got 0.5"):
        sensitivity(data, 0.5)
    with pytest.raises(InputError, match="at least 1 per episode, got 0"):
        sensitivity(data, 2.0, decisions=0)
    with pytest.raises(InputError, match="no probabilities of its actions"):
        sensitivity(Trajectories(reward=data.reward, mask=data.mask), 2.0)
    with pytest.raises(InputError, match="not ratios alone"):
        sensitivity(Trajectories(reward=data.reward, mask=data.mask, log_ratio=data.log_ratio), 2.0)
    never = Trajectories(
        reward=data.reward, mask=data.mask, log_ratio=data.log_ratio - torch.inf, behavior_log_prob=data.log_ratio
    )
    with pytest.raises(InputError, match="every weight is 0"):
        sensitivity(never, 2.0)


# -- the log's own probabilities ---------------------------------------------------------------------------------------


def admissions(hidden: bool, told: bool = True) -> tuple[Sepsis, Episodes]:
    ward = Sepsis(hidden_diabetes=hidden, diabetes=0.5)
    return ward, load(ward.dataset(ward.clinician(), 300, seed=4, log_probabilities=told))


def of(ward: Sepsis, name: str) -> TargetPolicy:
    table = ward.on_record(ward.policies()[name])
    return Discrete(lambda observation: torch.as_tensor(table(observation.numpy())))


def test_probabilities_that_the_record_does_not_explain() -> None:
    assert unrecorded_cause(admissions(hidden=False)[1]) is None
    assert unrecorded_cause(admissions(hidden=True, told=False)[1]) is None
    _, log = admissions(hidden=True)
    groups = defaultdict(list)
    rows = zip(*(log.data[key].tolist() for key in ("observation", "action", "behavior_log_prob")), strict=True)
    for observation, action, log_prob in rows:
        groups[(*observation, action)].append(log_prob)
    several = [g for g in groups.values() if len(g) > 1]
    differ = [g for g in several if max(abs(x - np.mean(g)) for x in g) > 0.01]
    found = unrecorded_cause(log)
    assert found is not None and found.steps == sum(map(len, several))
    assert found.share == pytest.approx(sum(map(len, differ)) / found.steps) and found.share > 0.3
    off = np.concatenate([np.array(g) - np.mean(g) for g in differ])
    assert found.factor == pytest.approx(float(np.exp(np.sqrt((off**2).mean()))), rel=1e-6)


def test_the_page_says_what_it_assumes() -> None:
    ward, told = admissions(hidden=True)
    policy = of(ward, "blind clinician")
    seen = told.data.exclude("behavior_log_prob")
    untold = Episodes(seen, told.start, told.length, told.spec)
    fitted = of(ward, "blind clinician")  # what a good fit finds
    estimated = evaluate(policy, untold, discount=0.99, behavior=fitted, n_boot=50)
    assert "wis, pdis, cwpdis assume that nothing the log lacks" in estimated.verdict.assumption
    assert "no unmeasured confounding" in " ".join(estimated.table().split())
    assert estimated.to_dict()["assumption"] == estimated.verdict.assumption
    assert "contradicts" not in estimated.verdict.assumption  # such a log says nothing about it
    limits = Limits(ess=2.0, ess_share=0.0, top_share=1.0, far_share=1.0)
    logged = evaluate(policy, told, discount=0.99, n_boot=50, limits=limits)
    assert logged.row("wis").status == "eligible" and logged.verdict.assumption == ""
    both = evaluate(policy, told, discount=0.99, n_boot=50, direct=[lstd(policy, told, discount=0.99)])
    assert both.verdict.assumption.startswith("lstd assumes") and "The log contradicts it" in both.verdict.assumption
    open_log = admissions(hidden=False)[1]
    ward = Sepsis(diabetes=0.5)
    policy = of(ward, "blind clinician")
    plain = evaluate(policy, open_log, discount=0.99, n_boot=50, direct=[lstd(policy, open_log, discount=0.99)])
    assert plain.verdict.assumption.startswith("lstd assumes") and "contradicts" not in plain.verdict.assumption
    # Named or automatic, doubly robust estimates get the fitted values.
    named = evaluate(
        policy,
        open_log,
        discount=0.99,
        n_boot=50,
        estimators=("wdr",),
        direct=[lstd(policy, open_log, discount=0.99)],
        limits=limits,
    )
    automatic = evaluate(
        policy, open_log, discount=0.99, n_boot=50, direct=[lstd(policy, open_log, discount=0.99)], limits=limits
    )
    assert named.row("wdr").value == automatic.row("wdr").value


def test_a_lasting_cause_shows_in_the_mean_weight() -> None:
    """Two steps, one coin that decides them: given the first action, the second is no toss of its own."""
    cause = torch.arange(400) % 2 == 0
    chance = torch.where(cause, 0.9, 0.1)
    both = torch.distributions.Bernoulli(chance.unsqueeze(-1).expand(400, 2))
    torch.manual_seed(0)
    action = both.sample()
    data = Trajectories(
        reward=torch.zeros(400, 2),
        mask=torch.ones(400, 2, dtype=torch.bool),
        behavior_log_prob=torch.full((400, 2), 0.5).log(),  # what a fit to single steps finds
        target_log_prob=torch.where(action == 1.0, 0.9, 0.1).log(),
        behavior=ESTIMATED,
    )
    # E[w] = 1/2 (.82 / .5)^2 + 1/2 (.18 / .5)^2
    found = check_weights(data)
    assert found.mean_weight == pytest.approx(0.5 * 1.64**2 + 0.5 * 0.36**2, abs=4 * found.mean_weight_error)
    assert found.wrong and "something that the log lacks" in found.reasons[-1]
