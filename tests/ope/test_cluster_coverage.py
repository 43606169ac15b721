"""Coverage where everybody has an effect of their own: intervals of episodes fail, those of clusters hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.ope.direct.lstd import lstd
from lightning_offrl.ope.weighting.bandits import bandit_log
from lightning_offrl.ope.weighting.importance import importance_sampling
from lightning_offrl.ope.weighting.intervals import Resamples, from_refits, interval, resampled_interval
from lightning_offrl.ope.weighting.trajectories import Trajectories
from tests.ope.coin_log import POLICY


def clinic(people: int, generator: torch.Generator, even: bool) -> tuple[Trajectories, Tensor]:
    """A bandit log: everyone has an effect of their own on all their rewards, and up to 12 visits.

    The reward of action a at person j's visit is ``0.3 a + effect_j + noise``, both standard normal; the behavior
    takes action 1 with 0.4, the policy with 0.7, so its value is 0.21.
    """
    size = torch.full((people,), 6) if even else torch.randint(1, 13, (people,), generator=generator)
    person = torch.arange(people).repeat_interleave(size)
    effect = torch.randn(people, generator=generator)[person]
    action = (torch.rand(len(person), generator=generator) < 0.4).long()
    reward = 0.3 * action + effect + torch.randn(len(person), generator=generator)
    target = torch.tensor([[0.3, 0.7]]).expand(len(person), 2)
    return bandit_log(reward, action, target, torch.where(action == 1, 0.4, 0.6)), person


VALUE = 0.21


def coverage(logs: int, people: int, even: bool, seed: int = 0) -> dict[str, float]:
    """Share of nominal 95 % intervals that hold the value."""
    generator = torch.Generator().manual_seed(seed)
    held = dict.fromkeys(("episodes", "auto", "percentile", "delta"), 0)
    for i in range(logs):
        data, person = clinic(people, generator, even)
        terms = importance_sampling(data, normalized=True)
        held["episodes"] += interval(terms, n_boot=400, seed=i).contains(VALUE)
        drawn = Resamples(terms.n, 400, i, person)
        for method in ("auto", "percentile", "delta"):
            held[method] += resampled_interval(terms, drawn, 0.95, method)[0].contains(VALUE)
    return {name: count / logs for name, count in held.items()}


def test_intervals_of_episodes_are_too_narrow_and_those_of_clusters_are_not():
    """Of 500 logs; 0.95 has an error of 0.01."""
    found = coverage(500, 40, even=False)
    assert found["episodes"] < 0.75 and found["auto"] == pytest.approx(0.95, abs=0.025)


@pytest.mark.slow
@pytest.mark.parametrize(("people", "even"), [(15, True), (25, False), (60, False), (150, False)])
def test_coverage(people: int, even: bool):
    """Of 2,000 logs; 0.95 has an error of 0.005."""
    found = coverage(2000, people, even)
    assert found["episodes"] < 0.75 and found["auto"] == pytest.approx(0.95, abs=0.02)
    assert found["percentile"] <= found["delta"] + 0.01


@pytest.mark.slow
def test_coverage_of_refits():
    """Of 500 logs of 40 people with 6 episodes each, whose rewards have their effect in common: lstd with 20 refits."""
    generator, held = torch.Generator().manual_seed(0), {"episodes": 0, "clusters": 0}
    person = torch.arange(40).repeat_interleave(6)
    for i in range(500):
        effect = torch.randn(40, generator=generator)[person]
        reward = 1.0 + effect + torch.randn(240, generator=generator)
        episodes = from_arrays(
            {
                "observations": torch.nn.functional.one_hot(torch.arange(240) % 2, 2).float().numpy(),
                "actions": torch.randint(2, (240,), generator=generator).numpy(),
                "rewards": reward.numpy(),
                "terminated": torch.ones(240, dtype=torch.bool).numpy(),
                "truncated": torch.zeros(240, dtype=torch.bool).numpy(),
            }
        )
        for name, clusters in (("episodes", None), ("clusters", person)):
            fit = lstd(POLICY, episodes, discount=0.9, replicates=20, clusters=clusters, seed=i)
            held[name] += from_refits(fit.value, fit.replicates).contains(1.0)
    assert held["episodes"] < 400, held
    assert held["clusters"] / 500 == pytest.approx(0.95, abs=0.025), held
