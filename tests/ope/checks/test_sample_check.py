"""Policies whose samples are not of their densities are caught wherever they are evaluated; others never are."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.dynamics.ensemble import fit_dynamics
from lightning_offrl.ope.checks.sample_check import check_samples
from lightning_offrl.ope.direct.fqe import FQESettings, fqe
from lightning_offrl.ope.direct.lstd import lstd
from lightning_offrl.ope.direct.model_based import model_rollouts
from lightning_offrl.ope.evaluate import evaluate
from lightning_offrl.ope.policies.target import (
    ClippedNormal,
    Deterministic,
    SquashedNormal,
    Tabular,
    TruncatedNormal,
    UniformMixture,
    smoothed,
)
from tests.ope.doubles import Linear, Table, UnderflowingNormal, episodes_of, random_mdp

SAID = "does not sample from the density that it states"


def log(size: int, seed: int = 0, n: int = 400) -> Episodes:
    """Episodes of ten steps with standard normal observations and uniform actions."""
    rng = np.random.default_rng(seed)
    return from_arrays(
        {
            "observations": rng.normal(size=(n, 3)).astype(np.float32),
            "actions": rng.uniform(-1.0, 1.0, (n, size)).astype(np.float32),
            "rewards": rng.normal(size=n),
            "terminated": np.arange(n) % 10 == 9,
            "truncated": np.zeros(n, bool),
            "observation_space": spaces.Box(-np.inf, np.inf, (3,), np.float32),
            "action_space": spaces.Box(-1.0, 1.0, (size,), np.float32),
        }
    )


def parameters(size: int, scale: float, std: float, seed: int = 0):
    """Means that are linear in the observation; beyond the box by many deviations where the scale is large."""
    gain = scale * torch.randn(3, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return lambda observation: (observation.double() @ gain, torch.full((1, size), std, dtype=torch.float64))


class Apart:
    """Samples of one policy, densities of another, as float32; what a stranger's may be."""

    is_deterministic, discrete = False, False

    def __init__(self, drawn, stated):
        self.drawn, self.stated = drawn, stated

    def sample(self, observation, n, generator):
        return self.drawn.sample(observation, n, generator).float()

    def log_prob(self, observation, action):
        return self.stated.log_prob(observation, action).float()

    def probabilities(self, observation):
        return None


def mixture(seed: int) -> Apart:
    """A mixture of two normals that says nothing of how it is made."""
    first, second = (TruncatedNormal(parameters(2, 1.0, 0.2, seed + k)) for k in (0, 1000))

    class Both:
        def sample(self, observation, n, generator):
            pair = [one.sample(observation, n, generator) for one in (first, second)]
            coin = torch.rand(n, len(observation), 1, generator=generator) < 0.3
            return torch.where(coin, *pair)

        def log_prob(self, observation, action):
            pair = torch.stack([one.log_prob(observation, action) for one in (first, second)])
            return torch.logsumexp(pair + torch.tensor([[0.3], [0.7]]).log(), 0)

    return Apart(Both(), Both())


def kinds(seed: int):
    """Honest policies of every kind, the size of their actions beside them."""
    rng = np.random.default_rng(seed)
    size, std = int(rng.choice([1, 2, 3, 6, 17])), float(rng.choice([0.001, 0.01, 0.1, 0.4, 2.0]))
    wanted = parameters(size, float(rng.choice([0.3, 1.0, 3.0, 30.0])), std, seed)
    truncated, squashed = TruncatedNormal(wanted), SquashedNormal(wanted)
    center = Deterministic(lambda observation: wanted(observation)[0].clamp(-1.0, 1.0))
    yield from ((truncated, size), (squashed, size), (smoothed(center, std), size))
    yield from ((UniformMixture(base, 0.1, size), size) for base in (truncated, squashed))
    yield from ((Apart(base, base), size) for base in (truncated, squashed))
    yield mixture(seed), 2


def test_honest_policies_raise_no_alarm():
    """By chance one in a million would: five standard errors and a little, or a sample of probability 1e-9."""
    logs = {size: log(size) for size in (1, 2, 3, 6, 17)}
    asked = [(policy, size, seed) for seed in range(25) for policy, size in kinds(seed)]
    alarms = [found for p, size, seed in asked if (found := check_samples(p, logs[size], seed)) and not found.agree]
    assert len(asked) == 200 and not alarms


@pytest.mark.parametrize("size", [1, 3, 6, 17])
@pytest.mark.parametrize("std", [0.05, 0.1])
def test_an_inversion_that_underflows_is_caught(size, std):
    wanted = parameters(size, 1.0, std, 1)
    for policy in (UnderflowingNormal(wanted), UniformMixture(UnderflowingNormal(wanted), 0.1, size)):
        found = check_samples(policy, log(size))
        assert found is not None and not found.agree and found.impossible > 0.001
        assert SAID in (found.reason() or "")
    assert check_samples(TruncatedNormal(wanted), log(size)).agree


@pytest.mark.parametrize(
    ("drawn", "stated"),
    [
        ("shift", TruncatedNormal(parameters(2, 0.3, 0.2))),
        (TruncatedNormal(parameters(2, 0.3, 0.4)), TruncatedNormal(parameters(2, 0.3, 0.2))),
        (TruncatedNormal(parameters(2, 0.3, 0.1)), TruncatedNormal(parameters(2, 0.3, 0.2))),
        # the density before it is squashed, and that before it is clipped
        (SquashedNormal(parameters(2, 1.0, 0.5)), TruncatedNormal(parameters(2, 1.0, 0.5))),
        (ClippedNormal(parameters(2, 1.0, 0.5)), TruncatedNormal(parameters(2, 1.0, 0.5))),
    ],
    ids=["shifted", "wider", "narrower", "not squashed", "clipped"],
)
def test_samples_and_densities_that_differ_are_caught(drawn, stated):
    if drawn == "shift":
        mean, std = parameters(2, 0.3, 0.2), 0.2
        drawn = TruncatedNormal(lambda observation: (mean(observation)[0] + std, mean(observation)[1]))
    found = check_samples(Apart(drawn, stated), log(2))
    assert found is not None and not found.agree


def test_a_density_that_is_not_normalized_is_caught():
    class Half(TruncatedNormal):
        def log_prob(self, observation, action):
            return super().log_prob(observation, action) - 0.7

    assert not check_samples(Half(parameters(2, 0.3, 0.2)), log(2)).agree


def test_discrete_policies():
    mdp = random_mdp()
    episodes = episodes_of(mdp.sample_transitions(np.full((5, 3), 1 / 3), 300, 20), 5, 3)
    table = torch.softmax(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), -1)
    assert all(check_samples(policy, episodes, s).agree for policy in (Tabular(table), Table(table)) for s in range(20))

    class Other(Table):
        def sample(self, observation, n, generator):
            return (super().sample(observation, n, generator) + 1) % 3

    found = check_samples(Other([[0.9, 0.1, 0.0]] * 5), episodes)
    assert not found.agree and found.impossible > 0.05


def test_there_is_nothing_to_check_without_a_density():
    assert check_samples(Linear(torch.zeros(1, 3), 0.1), log(1)) is None
    assert check_samples(Deterministic(lambda observation: observation[:, :1]), log(1)) is None


def test_it_reaches_every_estimate_and_the_verdict():
    wanted = parameters(1, 1.0, 0.05, 1)
    wrong, right, data = UnderflowingNormal(wanted), TruncatedNormal(wanted), log(1)
    how = {"discount": 0.9, "seed": 0}
    model = fit_dynamics(data, members=2, updates=5, seed=0)
    for policy, told in ((wrong, True), (right, False)):
        found = [
            fqe(policy, data, updates=20, settings=FQESettings(hidden=(8,)), **how),
            lstd(policy, data, **how),
            model_rollouts(policy, data, horizon=3, model=model, **how),
        ]
        for estimate in found:
            assert any(SAID in flag for flag in estimate.flags) is told
        uniform = UniformMixture(TruncatedNormal(wanted), 1.0, 1)
        result = evaluate(policy, data, behavior=uniform, direct=found[:2], n_boot=50, **how)
        assert any(SAID in note for note in result.notes) is told
        for row in result.rows:
            if row.status != "baseline":
                assert any(SAID in reason for reason in row.reasons) is told
                assert not told or row.status == "abstains"
        if told:
            assert result.verdict.word == "ABSTAIN" and SAID in result.verdict.sentence
            assert "the policy " + SAID in " ".join(result.table().split())
            assert SAID in json.dumps(result.to_dict())


def test_the_behavior_is_checked_too():
    data, target = log(1), UniformMixture(TruncatedNormal(parameters(1, 0.3, 0.5)), 0.5, 1)
    behavior = Apart(TruncatedNormal(parameters(1, 0.3, 0.1)), UniformMixture(target, 1.0, 1))
    result = evaluate(target, data, behavior=behavior, discount=0.9, n_boot=50)
    assert any(note.startswith(f"the behavior policy {SAID}") for note in result.notes)
    assert all(row.status != "eligible" for row in result.rows)


def test_no_other_random_numbers_are_used():
    """What is drawn elsewhere stays as it was."""
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check_samples(TruncatedNormal(parameters(1, 0.3, 0.5)), log(1))
    assert torch.equal(before, torch.get_rng_state())
