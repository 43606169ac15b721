"""Policy shift against closed forms of Gaussian shifts, and sums over tables for discrete actions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_offrl.data.readers import load
from lightning_offrl.diagnostics.shift import (
    density_ratio,
    discrepancy,
    distinguish,
    excess_surprisal,
    kl_divergence,
    knn_divergence,
)
from lightning_offrl.envs.gridworld.environment import GridWorld
from lightning_offrl.errors import InputError
from lightning_offrl.ope.policies.target import Deterministic, SquashedNormal, Tabular
from tests.diagnostics.gaussian import PHI, STD, log_of, policy, z_of

# -- bits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "steps"), [(0.25, 10_000), (0.5, 5_000), (1.0, 5_000)])
def test_divergence_by_neighbors_in_three_dimensions(bits: float, steps: int) -> None:
    found = knn_divergence(log_of(2, 1, steps), policy(z_of(bits), 1))
    assert found.value == pytest.approx(bits, rel=0.15) and found.name == "kl_bits_knn"
    assert bits < 0.5 or found.level == "caution"  # five decisions per episode: 2.5 and 5 bits


def test_divergence_of_two_densities() -> None:
    """Sampled, against (z^2 + r^2 - 1)/2 - ln r nats of normals with a ratio r of standard deviations."""
    episodes = log_of(3, 2, 2_000)
    found = kl_divergence(episodes, policy(1.5, 2), policy(0.0, 2))
    exact = 0.5 * 1.5**2 / math.log(2.0)
    assert found.numbers["kl_bits_step"] == pytest.approx(exact, abs=4 * found.numbers["kl_bits_step_error"])
    assert found.numbers["kl_bits_step_error"] < 0.03 * exact
    assert found.value == pytest.approx(5 * found.numbers["kl_bits_step"])
    assert found.numbers["kl_bits_limit"] == pytest.approx(0.5 * math.log2(400 / 30))
    assert found.level == "alarm" and "too far" in found.reading  # 8.1 bits per episode
    near = kl_divergence(episodes, policy(0.3, 2), policy(0.0, 2), horizon=2)
    assert near.level == "ok" and near.value == pytest.approx(2 * 0.045 / math.log(2.0), rel=0.2)
    assert "enough" in near.reading
    wide = kl_divergence(episodes, policy(0.0, 2, ratio=0.5), policy(0.0, 2))
    exact = 2 * (0.125 - 0.5 - math.log(0.5)) / math.log(2.0)
    assert wide.numbers["kl_bits_step"] == pytest.approx(exact, rel=0.03)


def test_squashing_cancels() -> None:
    """Of tanh of two normals the divergence is that of the normals, also where tanh rounds to 1."""
    episodes = log_of(2, 2, 500)

    def squashed(shift: float, std: float) -> SquashedNormal:
        return SquashedNormal(lambda o: (o.double() + shift, torch.full(o.shape, std, dtype=torch.float64)))

    for shift in (1.0, 30.0):
        found = kl_divergence(episodes, squashed(shift, 0.5), squashed(shift + 0.25, 0.5))
        assert found.numbers["kl_bits_step"] == pytest.approx(2 * 0.5 * 0.25 / math.log(2.0), abs=1e-9)
    # A policy that is not known to be squashed is sampled; where tanh is far from 1 that gives the same.
    base = squashed(1.0, 0.5)
    opaque = type("Opaque", (), {n: getattr(base, n) for n in ("is_deterministic", "discrete", "sample", "log_prob")})()
    opaque.probabilities = lambda observation: None
    sampled = kl_divergence(episodes, opaque, squashed(1.25, 0.5), draws=64)
    assert sampled.numbers["kl_bits_step"] == pytest.approx(0.25 / math.log(2.0), rel=0.05)


def test_divergence_of_discrete_actions_is_a_sum() -> None:
    world = GridWorld("open", slip=0.2)
    behavior, target = world.mdp.behavior_policy(0.5), world.mdp.behavior_policy(0.8)
    arrays = world.dataset(behavior, 40, horizon=30)
    episodes = load(arrays)
    found = kl_divergence(episodes, Tabular(target), Tabular(behavior), states=10**6)
    each = (target * np.log2(target / behavior)).sum(-1)[arrays["infos/state"]]
    assert found.numbers["kl_bits_step"] == pytest.approx(each.mean(), rel=1e-6)
    assert found.value == pytest.approx(each.sum() / 40, rel=1e-6)
    best = kl_divergence(episodes, Tabular(world.mdp.behavior_policy(1.0)), Tabular(behavior), states=10**6)
    assert best.numbers["kl_bits_step"] == pytest.approx(
        -math.log2(0.5 + 0.5 / 4), rel=1e-6
    )  # deterministic: -log2 pi_b
    never = behavior.copy()
    never[:, 0], never[:, 1] = 0.0, never[:, 1] + never[:, 0]
    impossible = kl_divergence(episodes, Tabular(target), Tabular(never))
    assert impossible.value == math.inf and impossible.level == "alarm" and "never takes" in impossible.reading


def test_a_deterministic_policy_has_no_divergence() -> None:
    episodes = log_of(2, 1, 200)
    fixed = Deterministic(lambda o: torch.zeros(len(o), 1))
    with pytest.raises(InputError, match="two densities.*excess_surprisal"):
        kl_divergence(episodes, fixed, policy(0.0, 1))
    with pytest.raises(InputError, match="stochastic policies of continuous actions"):
        knn_divergence(episodes, fixed)


# -- distances -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("states", "actions", "bits"), [(2, 1, 0.25), (11, 3, 1.0), (17, 6, 1.0), (2, 1, 5.0)])
def test_total_variation_and_auc_by_classifier(states: int, actions: int, bits: float) -> None:
    z = z_of(bits)
    found = distinguish(log_of(states, actions), policy(z, actions))
    assert found.numbers["tv"] == pytest.approx(2.0 * PHI(z / 2.0) - 1.0, abs=0.05)
    assert found.value == pytest.approx(PHI(z / math.sqrt(2.0)), abs=0.035)
    low = 0.6 * bits if bits < 1.0 else 0.8 * bits
    assert low < found.numbers["kl_bits_classifier"] < 1.1 * bits + 0.02  # a lower bound, and not an empty one
    if bits <= 1.0:
        assert found.numbers["learnt_ess_share_step"] == pytest.approx(2.0 ** (-2.0 * bits), abs=0.12)
    else:  # its true value is 0.001: no classifier finds that
        assert not any("learnt" in name for name in found.numbers)


def test_equal_policies_are_not_told_apart() -> None:
    found = distinguish(log_of(5, 2, 3_000), policy(0.0, 2))
    assert found.value == pytest.approx(0.5, abs=0.03) and found.numbers["tv"] < 0.04
    assert found.numbers["kl_bits_classifier"] < 0.02 and found.level == "ok"


def test_discrepancy_says_whether_there_is_one() -> None:
    episodes = log_of(3, 1, 1_000)
    same, other = (discrepancy(episodes, policy(z, 1), states=600) for z in (0.0, 2.0))
    assert same.level == "ok" and same.numbers["mmd_p"] > 0.01 and "may act like" in same.reading
    assert other.level == "caution" and other.numbers["mmd_p"] < 0.01 and other.value > same.value


# -- surprise and weights --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z", [0.0, 1.0, 3.0])
def test_surprisal_of_a_deterministic_policy(z: float) -> None:
    """Of a point z standard deviations away in A dimensions: (z^2 - A) / (2 ln 2) bits more than the log's own."""
    size = 2
    target = policy(z, size)
    fixed = Deterministic(lambda o: target.parameters(o)[0])
    found = excess_surprisal(log_of(3, size), fixed, policy(0.0, size))
    error = math.sqrt(size / 2.0 / 5_000) / math.log(2.0)  # the variance of chi^2_A / 2 is A / 2
    assert found.value == pytest.approx((z**2 - size) / (2.0 * math.log(2.0)), abs=4 * error)
    assert found.numbers["surprisal_beyond"] == (0.0 if z**2 < 9.0 else pytest.approx(0.0, abs=1.0))
    entropy = size * 0.5 * math.log2(2.0 * math.pi * math.e * STD**2)
    assert found.numbers["surprisal_log_bits"] == pytest.approx(entropy, abs=4 * error)


def test_surprisal_beyond_the_log() -> None:
    """The log's 99 % quantile of chi^2_1 is 2.576^2: the share of N(3, 1) beyond it."""
    found = excess_surprisal(log_of(2, 1, 20_000), policy(3.0, 1), policy(0.0, 1), states=20_000)
    exact = 1.0 - PHI(2.5758 - 3.0) + PHI(-2.5758 - 3.0)
    assert found.numbers["surprisal_beyond"] == pytest.approx(exact, abs=0.03) and found.level == "alarm"
    assert excess_surprisal(log_of(2, 1), policy(0.0, 1), policy(0.0, 1)).level == "ok"


def test_weights_of_gaussian_shifts() -> None:
    """1 / E[w^2] = exp(-z^2) for one decision, to the power of the steps for several; ratios are lognormal."""
    z, length = 0.5, 3
    episodes = log_of(2, 1, 30_000, length=length)
    found = density_ratio(episodes, policy(z, 1))
    assert found.numbers["ess_share_step"] == pytest.approx(math.exp(-(z**2)), rel=0.03)
    for t, share in enumerate(found.curves["ess_share"]):
        assert share == pytest.approx(math.exp(-(z**2) * (t + 1)), rel=0.1)
    assert all(share == pytest.approx(math.exp(-(z**2)), rel=0.05) for share in found.curves["ess_share_step"])
    assert found.value == found.curves["ess_share"][-1] and found.level == "ok"
    assert found.numbers["ratio_q999"] == pytest.approx(math.exp(z * 3.0902 - z**2 / 2.0), rel=0.1)
    assert found.numbers["ratio_max"] > found.numbers["ratio_q999"]
    true = density_ratio(episodes, policy(z, 1), policy(0.0, 1))
    assert true.value == pytest.approx(found.value, rel=1e-3)
    assert density_ratio(log_of(2, 1, 1_000), policy(3.0, 1)).level == "alarm"
    first = density_ratio(episodes, policy(z, 1), horizon=1)
    assert len(first.curves["ess_share"]) == 1 and first.value == pytest.approx(math.exp(-(z**2)), rel=0.05)
    with pytest.raises(InputError, match="deterministic"):
        density_ratio(episodes, Deterministic(lambda o: torch.zeros(len(o), 1)))


# -- samples and text ------------------------------------------------------------------------------------------------
