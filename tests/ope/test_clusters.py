"""Intervals where several episodes belong to one person: formulas by hand, every resample, and copies."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_offrl.data.clusters import Clusters
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.split import split_by_episode
from lightning_offrl.dynamics.ensemble import fit_dynamics
from lightning_offrl.errors import InputError
from lightning_offrl.ope.checks.weight_diagnostics import Limits, check_weights, weights_by_step
from lightning_offrl.ope.direct.dice import DICESettings, dice
from lightning_offrl.ope.direct.double_reinforcement import drl
from lightning_offrl.ope.direct.estimate import DirectEstimate
from lightning_offrl.ope.direct.fqe import FQESettings, fqe
from lightning_offrl.ope.direct.lstd import lstd
from lightning_offrl.ope.direct.model_based import model_rollouts
from lightning_offrl.ope.evaluate import evaluate
from lightning_offrl.ope.policies.behavior import fit_behavior
from lightning_offrl.ope.policies.target import Tabular
from lightning_offrl.ope.result import OPEResult
from lightning_offrl.ope.selection.ranking import compare
from lightning_offrl.ope.tails import tail
from lightning_offrl.ope.weighting.doubly_robust import doubly_robust, magic
from lightning_offrl.ope.weighting.importance import importance_sampling, per_decision, plain
from lightning_offrl.ope.weighting.intervals import Resamples, interval, resampled_interval
from lightning_offrl.ope.weighting.sensitivity import sensitivity
from lightning_offrl.ope.weighting.trajectories import Trajectories
from tests.ope.coin_log import POLICY, finite_log
from tests.ope.linear_quadratic import BEHAVIOR, TARGET

GENERAL = Limits(ess=5.0, ess_share=0.0, top_share=1.0, clusters=2.0, cluster_share=1.0, mean_errors=50.0)


def table(n: int, steps: int = 3, seed: int = 0) -> Trajectories:
    """Random episodes of different lengths with weights near 1 and values."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(steps) < torch.randint(1, steps + 1, (n,), generator=draw).unsqueeze(-1)
    reward, q, v, noise = (torch.randn(n, steps, generator=draw).double() for _ in range(4))
    behavior = torch.full((n, steps), math.log(0.5)).double()
    return Trajectories(
        reward=reward,
        mask=mask,
        discount=0.9,
        behavior_log_prob=behavior,
        target_log_prob=behavior + 0.3 * noise - 0.045,
        q=q,
        v=v,
    )


def together(n: int, clusters: int, seed: int = 0) -> list[int]:
    """Labels of n episodes, every cluster with at least one."""
    draw = torch.Generator().manual_seed(seed)
    return [*range(clusters), *torch.randint(clusters, (n - clusters,), generator=draw).tolist()]


def grouped(labels: list[int]) -> list[list[int]]:
    return [[i for i, x in enumerate(labels) if x == label] for label in dict.fromkeys(labels)]


# -- against formulas and enumeration --------------------------------------------------------------------------------


def test_the_error_of_a_mean_is_liang_and_zeger_s():
    """Regression on a constant: sqrt(C / (C - 1)) times the root of the sum of squared sums of residuals over n."""
    y, labels = table(40).returns, together(40, 9)
    mean = sum(y.tolist()) / 40
    sums = [sum(float(y[i]) - mean for i in members) for members in grouped(labels)]
    by_hand = math.sqrt(9 / 8 * sum(s * s for s in sums)) / 40
    found = plain(y).clustered(Clusters.of(labels, 40))
    assert (found.value, found.standard_error) == pytest.approx((mean, by_hand), rel=1e-12)
    half = 1.959963984540054 * by_hand
    delta = interval(plain(y), method="delta", clusters=Clusters.of(torch.tensor(labels) % 20, 40))
    assert (delta.low, delta.high) == (-math.inf, math.inf)  # nine clusters are too few to say so
    kept, _ = resampled_interval(plain(y), Lenient(40, 10, 0, labels), 0.95, "delta")
    assert (kept.low, kept.high) == pytest.approx((mean - half, mean + half), rel=1e-9)


def test_the_error_of_a_weighted_mean_is_liang_and_zeger_s():
    """Weighted least squares on a constant, which is what wis is."""
    data, labels = table(40), together(40, 9)
    w, y = data.log_weights[:, -1].exp().tolist(), data.returns.tolist()
    value = sum(a * b for a, b in zip(w, y, strict=True)) / sum(w)
    sums = [sum(w[i] * (y[i] - value) for i in members) for members in grouped(labels)]
    by_hand = math.sqrt(9 / 8 * sum(s * s for s in sums)) / sum(w)
    found = importance_sampling(data, normalized=True).clustered(Clusters.of(labels, 40))
    assert (found.value, found.standard_error) == pytest.approx((value, by_hand), rel=1e-12)


class Lenient(Resamples):
    """RandomStreams from however few clusters."""

    enough = True


class Every(Lenient):
    """All ``C ** C`` ways to draw C clusters, each once."""

    def __init__(self, n: int, labels: list[int]) -> None:
        super().__init__(n, 1, 0, labels)
        c = self.units
        ways = torch.cartesian_prod(*[torch.arange(c)] * c)
        self._drawn, self.n_boot = [torch.nn.functional.one_hot(ways, c).sum(1).double()], c**c


@pytest.mark.parametrize(
    "estimate",
    [
        lambda d: importance_sampling(d),
        lambda d: importance_sampling(d, normalized=True),
        lambda d: per_decision(d, normalized=True),
        lambda d: doubly_robust(d),
        lambda d: doubly_robust(d, normalized=True),
    ],
)
def test_every_resample_is_the_estimate_of_the_episodes_drawn(estimate):
    """Drawing clusters is drawing all their episodes: the estimator itself on each of 4 ** 4 piles of episodes."""
    data, labels = table(9), together(9, 4)
    members, every = grouped(labels), Every(9, labels)
    values, counts = every.values(estimate(data)), torch.cat(list(every.counts()))
    assert counts.sum(-1).unique().numel() > 3  # numbers of episodes differ
    for r, drawn in enumerate(itertools.product(range(4), repeat=4)):
        pile = torch.tensor([i for c in drawn for i in members[c]])
        # weights far from 1 are scaled by the largest of the sample, so equal to rounding only
        assert float(values[r]) == pytest.approx(estimate(data.select(pile)).value, rel=1e-12)
        assert counts[r].tolist() == torch.bincount(pile, minlength=9).tolist()
        assert float(estimate(data).resampled(counts[r : r + 1])) == pytest.approx(float(values[r]), rel=1e-12)


def test_the_jackknife_leaves_out_clusters():
    data, labels = table(12), together(12, 5)
    found = importance_sampling(data, normalized=True).clustered(Clusters.of(labels, 12)).left_out
    for c, members in enumerate(grouped(labels)):
        rest = torch.tensor([i for i in range(12) if i not in members])
        assert float(found[c]) == pytest.approx(importance_sampling(data.select(rest), normalized=True).value)
    bca, _ = resampled_interval(importance_sampling(data, normalized=True), Every(12, labels), 0.8, "bca")
    assert bca.usable and bca.low < bca.high


def test_effective_numbers_by_hand():
    weight, labels = [1.0, 3.0, 0.0, 2.0, 2.0, 4.0], [0, 0, 1, 1, 2, 2]
    logs = torch.tensor(weight).double().log().unsqueeze(-1)
    data = Trajectories(
        reward=torch.ones_like(logs), mask=torch.ones(6, 1, dtype=torch.bool), log_ratio=logs, clusters=labels
    )
    check = check_weights(data)
    assert (check.clusters, check.effective_clusters) == (3, pytest.approx(144 / (16 + 4 + 36)))
    assert check.top_cluster == pytest.approx(0.5) and check.mean_weight == pytest.approx(2.0)
    sums = [(4 - 2 * 2.0), (2 - 2 * 2.0), (6 - 2 * 2.0)]
    error = math.sqrt(3 / 2 * sum(s * s for s in sums)) / 6
    assert check.mean_weight_error == pytest.approx(error) and check.step_ratio_error == pytest.approx(error)
    assert weights_by_step(data).mean_error == (pytest.approx(error),)


# -- copies: a log in which every episode stands several times says no more ------------------------------------------


def repeated(episodes: Episodes, times: int) -> tuple[Episodes, Tensor]:
    index = torch.arange(episodes.n_episodes).repeat_interleave(times)
    return episodes.select(index), index


def direct(episodes: Episodes, **how: Any) -> DirectEstimate:
    # so many that the widths of intervals are compared, not their Monte-Carlo errors
    return lstd(POLICY, episodes, discount=0.9, replicates=200, seed=4, **how)


def everything(episodes: Episodes, clusters: Any = None, **how: Any) -> OPEResult:
    return evaluate(
        POLICY,
        episodes,
        discount=0.9,
        estimators=("auto", "is", "magic"),
        direct=[direct(episodes, clusters=clusters)],
        clusters=clusters,
        n_boot=200,
        tail=0.3,
        **how,
    )


@pytest.mark.parametrize("method", ["auto", "percentile-t", "bca", "delta"])
def test_copies_of_episodes_add_nothing(method: str):
    """Three copies of each of 150 episodes, as clusters, give the intervals of the 150; as episodes narrower ones."""
    once = finite_log(n=150)
    thrice, labels = repeated(once, 3)
    expected, found = everything(once, interval=method), everything(thrice, labels, interval=method)
    believed = everything(thrice, interval=method)
    for one, other, narrow in zip(expected.rows, found.rows, believed.rows, strict=True):
        assert other.status == one.status != "abstains"
        ends = (other.value, other.interval.low, other.interval.high)
        assert ends == pytest.approx((one.value, one.interval.low, one.interval.high), rel=1e-9), one.name
        assert narrow.interval.width < 0.75 * one.interval.width
    for one, other in zip(expected.verdict.comparisons, found.verdict.comparisons, strict=True):
        assert (other.interval.low, other.interval.high) == pytest.approx((one.interval.low, one.interval.high))
    assert found.verdict.word == expected.verdict.word and found.conservative == pytest.approx(expected.conservative)
    assert found.verdict.against_data == expected.verdict.against_data
    for one, other in zip(expected.tails, found.tails, strict=True):
        assert other.cvar_interval.low == pytest.approx(one.cvar_interval.low)
        assert other.quantile_interval.high == pytest.approx(one.quantile_interval.high)
    one, other = expected.weights, found.weights
    assert other.effective_clusters == pytest.approx(one.ess) and other.ess == pytest.approx(3 * one.ess)
    assert other.top_cluster == pytest.approx(one.top_share)
    for field in ("mean_weight", "mean_weight_error", "step_ratio", "step_ratio_error"):
        assert getattr(other, field) == pytest.approx(getattr(one, field)), field
    assert found.steps.mean_error == pytest.approx(expected.steps.mean_error)


def test_copies_add_nothing_to_what_hidden_causes_could_do():
    once = table(60)
    index = torch.arange(60).repeat_interleave(2)
    twice = Trajectories(**{**vars(once.select(index)), "clusters": index})
    one, two = (sensitivity(data, 1.5, n_boot=200) for data in (once, twice))
    assert (two.interval.low, two.interval.high) == pytest.approx((one.interval.low, one.interval.high))
    assert magic(twice)[1] == pytest.approx(magic(once)[1], abs=1e-9)


# -- clusters of one episode are episodes ----------------------------------------------------------------------------


def test_clusters_of_one_episode_change_no_bit():
    episodes = finite_log(n=80)
    how = {"reward_range": (0.0, 1.0), "by": {"half": [i % 2 for i in range(80)]}}
    for method in ("auto", "bca", "delta", "percentile"):
        plainly = everything(episodes, interval=method, **how).to_dict()
        found = everything(episodes, [f"person {i}" for i in range(80)], interval=method, **how).to_dict()
        assert found["clusters"] == {"column": None, "number": 80, "effective": 80.0, "largest": 1}
        assert "every episode is a cluster of its own, so" in found["notes"][0]
        for one in (plainly, found, *found["groups"]["half"].values(), *plainly["groups"]["half"].values()):
            del one["clusters"]
        assert found.pop("notes")[1:] == plainly.pop("notes") and found == plainly


def test_fits_to_clusters_of_one_episode_change_no_bit():
    episodes = BEHAVIOR.episodes(12, 6, seed=2)
    policy, alone = TARGET.policy(), list(range(12))
    small: dict[str, Any] = {"discount": 0.9, "updates": 6, "replicates": 3}
    net: dict[str, Any] = {"hidden": (4,), "batch_size": 32}
    models = [fit_dynamics(episodes, members=3, updates=3, hidden=(4,), clusters=c) for c in (None, alone)]
    pairs = [
        [fqe(policy, episodes, settings=FQESettings(**net), clusters=c, **small) for c in (None, alone)],
        [dice(policy, episodes, settings=DICESettings(**net), clusters=c, **small) for c in (None, alone)],
        [model_rollouts(policy, episodes, discount=0.9, model=m, horizon=3) for m in models],
    ]
    for one, other in pairs:
        assert one.value == other.value and one.replicates.equal(other.replicates) and one.counts.equal(other.counts)
        assert other.clusters is None


# -- fits ------------------------------------------------------------------------------------------------------------


def whole(counts: Tensor, labels: list[int]) -> bool:
    """All episodes of a cluster equally often, and of clusters as many as there are."""
    members = grouped(labels)
    same = all(bool((counts[:, m] == counts[:, m[:1]]).all()) for m in members)
    return same and bool((counts[:, [m[0] for m in members]].sum(-1) == len(members)).all())


def test_refits_draw_whole_clusters():
    episodes, labels = BEHAVIOR.episodes(14, 6, seed=2), together(14, 5)
    policy = TARGET.policy()
    small: dict[str, Any] = {"discount": 0.9, "updates": 4, "replicates": 6}
    net: dict[str, Any] = {"hidden": (4,), "batch_size": 32}
    model = fit_dynamics(episodes, members=4, updates=3, hidden=(4,), clusters=labels)
    found = [
        fqe(policy, episodes, settings=FQESettings(**net), clusters=labels, **small),
        dice(policy, episodes, settings=DICESettings(**net), clusters=labels, **small),
        lstd(policy, episodes, discount=0.9, replicates=6, clusters=labels),
        model_rollouts(policy, episodes, discount=0.9, model=model, horizon=3, clusters=labels),
    ]
    for fit in found:
        assert whole(fit.counts, labels), fit.method
        assert fit.clusters.tolist() == Clusters.of(labels, 14).index.tolist()
        assert fit.counts.sum(-1).unique().numel() > 1, fit.method
    some = model_rollouts(policy, episodes, discount=0.9, model=model, horizon=3, clusters=labels, starts=7)
    assert some.replicates.shape == (4,) and bool(some.replicates.isfinite().all())


def test_refits_equal_fits_to_the_clusters_drawn():
    episodes, labels = finite_log(n=40), together(40, 12)
    found = lstd(POLICY, episodes, discount=0.9, replicates=5, clusters=labels, seed=3)
    one_hot = model_rollouts(POLICY, episodes, discount=0.9, replicates=5, clusters=labels, seed=3)
    assert whole(found.counts, labels) and found.counts.equal(one_hot.counts)
    for i in range(5):
        drawn = episodes.select(torch.arange(40).repeat_interleave(found.counts[i].long()))
        again = lstd(POLICY, drawn, discount=0.9).value
        assert float(found.replicates[i]) == pytest.approx(again, abs=1e-10)
        assert float(one_hot.replicates[i]) == pytest.approx(again, abs=1e-6)


def test_folds_of_cross_fitting_keep_clusters_whole():
    episodes, labels = finite_log(n=60), together(60, 20)
    seen: list[Episodes] = []
    episodes.data["person"] = torch.tensor(labels).repeat_interleave(3)

    def values(train: Episodes) -> DirectEstimate:
        seen.append(train)
        return lstd(POLICY, train, discount=0.9)

    def ratios(train: Episodes):
        return type("Ratio", (), {"ratio": staticmethod(lambda of: torch.ones(len(of))), "flags": [], "method": "one"})

    found = drl(POLICY, episodes, discount=0.9, values=values, ratios=ratios, clusters=labels, n_boot=50)
    people = [set(part.data["person"].tolist()) for part in seen]
    assert not people[0] & people[1] and len(people[0] | people[1]) == 20
    assert whole(found.counts, labels)
    with pytest.raises(InputError, match="a cluster in each, got 30 folds of 20 clusters"):
        drl(POLICY, episodes, discount=0.9, values=values, ratios=ratios, clusters=labels, folds=30)


def test_the_behavior_is_judged_on_other_people():
    episodes, labels = finite_log(n=30), together(30, 10)
    plainly, alone, by = (fit_behavior(episodes, clusters=c).held_out_nll for c in (None, list(range(30)), labels))
    assert plainly == alone != by
    held = split_by_episode(episodes, 0.1, 0, labels)[1]
    data = episodes.select([i for i in range(30) if i not in held.tolist()]).data
    count = torch.bincount(data["observation"].argmax(-1) * 2 + data["action"], minlength=4).view(2, 2) + 0.5
    other = episodes.select(held).data
    share = (count / count.sum(-1, keepdim=True))[other["observation"].argmax(-1), other["action"]]
    assert by == pytest.approx(-float(share.log().mean()), rel=1e-6)


# -- whole evaluations -----------------------------------------------------------------------------------------------


def test_fits_to_other_resamples_have_no_interval():
    episodes, labels = finite_log(n=200), together(200, 60)
    walks = BEHAVIOR.episodes(14, 6, seed=2)
    model = fit_dynamics(walks, members=3, updates=2, hidden=(4,))
    rolled = model_rollouts(TARGET.policy(), walks, discount=0.9, model=model, horizon=3, clusters=together(14, 5))
    assert rolled.replicates is None and rolled.clusters is None  # its members saw resamples of episodes
    for fit in (direct(episodes), direct(episodes, clusters=together(200, 60, seed=5))):
        row = evaluate(POLICY, episodes, discount=0.9, direct=[fit], clusters=labels).row("lstd")
        assert row.interval is None and row.notes == ("no interval: it needs refits to resamples of these clusters",)
    found = everything(episodes, labels)
    assert found.row("lstd").interval.usable and found.unit == "200 episodes of 60 clusters"
    assert "Data      coins: 200 episodes of 60 clusters; return" in found.table()
    assert "of 60 clusters: effective number" in found.table()


def test_few_clusters_are_said_and_fewer_have_no_interval():
    episodes = finite_log(n=400)
    some = everything(episodes, [i % 20 for i in range(400)])
    assert any("20 clusters vary like 20.0 of equal size: below 30, intervals may be" in note for note in some.notes)
    assert some.row("cwpdis").interval.method == "percentile-t"
    assert "effective number of clusters 19 of 20: the interval may be too narrow" in some.row("wis").notes
    few = everything(episodes, Clusters.of([i % 9 for i in range(400)], 400, "ward"), reward_range=(0.0, 1.0))
    assert all(row.interval is None and row.guaranteed is None for row in few.rows)
    assert few.row("wis").reasons == ("effective number of clusters 8.8 of 9 (at least 10 are needed)",)
    assert few.row("lstd").status == "eligible" and few.row("lstd").notes == ("no interval: too few clusters",)
    assert few.conservative is None and few.verdict.against_data.startswith("no interval of the difference")
    assert "9 clusters (column ward) vary like 9.0 of equal size: too few for any interval, which needs 10" in few.notes
    assert few.row("naive").guaranteed is None
    bounded = everything(episodes, [i % 50 for i in range(400)], reward_range=(0.0, 1.0))
    assert "no guaranteed intervals: they are for independent episodes" in bounded.notes and bounded.bounds.usable
    assert bounded.row("naive").guaranteed is None and few.bounds is None
    # many clusters of which one has most episodes are few
    uneven = everything(episodes, [0] * 200 + list(range(1, 201)))
    assert uneven.clusters.n == 201 and uneven.row("naive").interval is None
    assert sensitivity(table(40), 1.2).interval.usable
    lone = Trajectories(**{**vars(table(40)), "clusters": together(40, 5)})
    assert sensitivity(lone, 1.2).interval.low == -math.inf
    assert tail(lone, 0.5, limits=GENERAL).cvar_interval is None


def test_one_person_who_holds_the_weight_is_a_reason():
    """300 episodes with weights 1, of which one person's 40 weigh 4: no episode holds much, the person a third."""
    logs = torch.zeros(300, 1).double()
    logs[:40] = math.log(4.0)
    labels = [0] * 40 + list(range(1, 261))
    data = Trajectories(reward=torch.ones(300, 1), mask=torch.ones(300, 1, dtype=torch.bool), log_ratio=logs)
    assert check_weights(data, Limits(mean_errors=100.0)).eligible
    check = check_weights(Trajectories(**{**vars(data), "clusters": labels}), Limits(mean_errors=100.0))
    assert check.effective_clusters == pytest.approx(420**2 / (160**2 + 260)) and check.top_share < 0.01
    assert check.reasons == (
        "effective number of clusters 6.8 of 261 (at least 10 are needed)",
        "one cluster holds 38% of the weight",
    )


def test_groups_have_their_own_clusters():
    episodes, labels = finite_log(n=400), [i % 80 for i in range(400)]
    by = {"site": ["north" if i % 80 < 74 else "south" for i in range(400)]}
    found = evaluate(POLICY, episodes, discount=0.9, clusters=Clusters.of(labels, 400, "who"), by=by)
    north, south = found.groups["site"]["north"], found.groups["site"]["south"]
    assert (north.clusters.n, south.clusters.n) == (74, 6)
    assert north.row("naive").interval.usable and south.row("naive").interval is None
    assert "clusters" in found.table() and found.to_dict()["groups"]["site"]["south"]["clusters"]["number"] == 6


def test_a_choice_says_what_its_unit_is():
    episodes, labels = finite_log(n=300), Clusters.of([i % 75 for i in range(300)], 300, "who")
    other = Tabular([[0.4, 0.6], [0.6, 0.4]])
    found = {
        name: evaluate(p, episodes, discount=0.9, clusters=labels, name=name)
        for name, p in (("a", POLICY), ("b", other))
    }
    choice = compare(found)
    choice.again = evaluate(POLICY, finite_log(n=300, seed=1), discount=0.9, clusters=labels)
    assert "Data      coins: 300 episodes of 75 clusters (column who)." in choice.table()
    assert "On 300 other episodes of 75 clusters (column who) its value is" in choice.table()
