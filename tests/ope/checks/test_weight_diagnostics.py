"""When estimates abstain: the weights' own tests, and support that the log lacks although the weights look healthy."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.errors import InputError
from lightning_offrl.ope.checks.support import far_share, unseen_share
from lightning_offrl.ope.checks.weight_diagnostics import (
    Limits,
    check_weights,
    effective_sample_size,
    weights_by_step,
)
from lightning_offrl.ope.policies.target import Deterministic, SquashedNormal, Tabular, UniformMixture
from lightning_offrl.ope.weighting.trajectories import Trajectories, trajectories


def weights(log_weight) -> Trajectories:
    values = torch.as_tensor(log_weight, dtype=torch.float64).unsqueeze(-1)
    return Trajectories(
        reward=torch.ones_like(values), mask=torch.ones_like(values, dtype=torch.bool), log_ratio=values
    )


def normal(mean=0.0, std=1.0):
    """tanh of a normal around ``mean`` plus the observation's first number."""

    def parameters(observation):
        center = observation[:, :1].double() + mean
        return center, torch.full_like(center, std)

    return SquashedNormal(parameters)


def logged(behavior, n=300, steps=4, seed=0) -> Episodes:
    """Episodes whose observations are small noise and whose actions are the behavior's."""
    generator = torch.Generator().manual_seed(seed)
    observation = 0.3 * torch.randn(n * steps, 2, generator=generator)
    action = behavior.sample(observation, 1, generator)[0]
    end = torch.zeros(n * steps, dtype=torch.bool)
    end[steps - 1 :: steps] = True
    return from_arrays(
        {
            "observations": observation.numpy(),
            "actions": action.float().numpy() if action.is_floating_point() else action.numpy(),
            "rewards": torch.ones(n * steps).numpy(),
            "terminated": end.numpy(),
            "truncated": torch.zeros_like(end).numpy(),
            "behavior_log_prob": behavior.log_prob(
                observation, action.float() if action.is_floating_point() else action
            ).numpy(),
        }
    )


def test_effective_sample_size_by_hand():
    assert effective_sample_size(torch.tensor([1.0, 2.0, 3.0]).log().double()) == pytest.approx(36 / 14)
    assert effective_sample_size(torch.tensor([1000.0, 1000.0]).double()) == pytest.approx(2.0)
    assert effective_sample_size(torch.tensor([-torch.inf, -torch.inf])) == 0.0


def test_equal_weights_are_eligible_with_float32_rounding():
    rounding = 1e-5 * torch.randn(500, generator=torch.Generator().manual_seed(0)).double()
    found = check_weights(weights(rounding + 3e-5))
    assert found.eligible and found.ess == pytest.approx(500.0, rel=1e-6)


@pytest.mark.parametrize(
    ("log_weight", "sentence"),
    [
        (torch.tensor([1.0] + [0.01] * 99).log(), "effective sample size 3"),
        (torch.tensor([40.0] + [0.61] * 99).log(), "one episode holds 40% of the weight"),
        (torch.full((100,), 0.8).log() + 0.01 * torch.randn(100), "is on actions that the log does not show"),
        (torch.full((100,), 1.3).log() + 0.01 * torch.randn(100), "log-probabilities are wrong"),
        (torch.full((100,), -torch.inf), "never takes the logged actions"),
    ],
)
def test_reasons_to_abstain(log_weight, sentence):
    found = check_weights(weights(log_weight))
    assert not found.eligible
    assert any(sentence in reason for reason in found.reasons), found.reasons


def test_small_share_of_many_episodes_abstains_and_a_moderate_one_advises():
    generator = torch.Generator().manual_seed(0)
    log_weight = 1.3 * torch.randn(2000, generator=generator).double() - 0.845  # log-normal with mean 1
    found = check_weights(weights(log_weight), Limits(advised_ess_share=0.5))
    assert found.eligible and "expect wide intervals" in found.advice[0]
    assert "of 2,000 episodes" in check_weights(weights(log_weight), Limits(ess_share=0.5)).reasons[0]


def test_wrong_logged_probabilities_are_named():
    """The tanh correction left out of the logged log-probabilities."""
    behavior = normal()
    episodes = logged(behavior)
    action = episodes.data["action"].double()
    forgot = episodes.data["behavior_log_prob"].double() + torch.log1p(-action.square()).sum(-1)
    data = trajectories(episodes, behavior, discount=1.0)
    assert check_weights(data).eligible
    wrong = Trajectories(
        reward=data.reward,
        mask=data.mask,
        behavior_log_prob=forgot.view(data.mask.shape),
        target_log_prob=data.target_log_prob,
    )
    assert any("log-probabilities are wrong" in reason for reason in check_weights(wrong).reasons)


@pytest.mark.parametrize(("shift", "steps"), [(0.5, 4), (1.0, 4), (1.5, 6)])
def test_unseen_share_against_the_closed_form(shift, steps):
    """Equal-variance Gaussians: log w of the policy's episodes is normal, mean H d^2 / 2, variance H d^2."""
    behavior, policy = normal(), normal(shift)
    episodes = logged(behavior, steps=steps)
    found = unseen_share(episodes, policy, behavior, draws=32)
    variance = steps * shift**2
    z = (math.log(300) - variance / 2) / math.sqrt(variance)
    truth = 0.5 * math.erfc(z / math.sqrt(2))
    assert found.share == pytest.approx(truth, abs=4 * found.error + 1e-3)
    assert len(found.per_step) == steps


def test_support_that_the_log_lacks_is_found_although_the_weights_look_healthy():
    """One action in ten is uniform over the box, the behavior stays in a corner of it: both detectors say so."""
    behavior = normal(std=0.15)
    episodes = logged(behavior, n=700, steps=5)
    policy = UniformMixture(behavior, 0.1, 1)
    data = trajectories(episodes, policy, discount=1.0)
    check = check_weights(data)
    assert check.ess > 0.5 * data.n and check.top_share < 0.1  # nothing to see here
    assert any("does not show" in reason for reason in check.reasons)
    by_density = unseen_share(episodes, policy, behavior)
    # a uniform action is within 4 standard deviations, 0.6 of u, with probability tanh(0.6) = 0.54 at most
    assert 0.1 * 0.3 < by_density.per_step[0] < 0.1
    assert by_density.share == pytest.approx(1 - (1 - sum(by_density.per_step) / 5) ** 5, abs=0.03)
    assert "would not be seen" in by_density.reason(Limits().unseen_share)
    by_distance = far_share(episodes, policy)
    assert 0.03 < by_distance.share < 0.1
    assert "farther from the log" in by_distance.reason(0.02)


def test_small_missing_share_that_the_mean_weight_cannot_see():
    """Spread weights hide a missing share of 3 % per step from their mean; the policy's own actions do not."""
    behavior = normal(std=0.1)
    policy = UniformMixture(normal(mean=0.06, std=0.09), 0.04, 1)
    episodes = logged(behavior, n=200, steps=5)
    check = check_weights(trajectories(episodes, policy, discount=1.0))
    assert not any("does not show" in reason for reason in check.reasons)
    assert unseen_share(episodes, policy, behavior).reason(Limits().unseen_share) is not None


def test_supported_policies_are_not_accused():
    behavior = normal(std=0.3)
    episodes = logged(behavior, n=700, steps=5)
    for policy in (behavior, normal(std=0.25), Deterministic(lambda obs: torch.tanh(obs[:, :1]))):
        assert far_share(episodes, policy).reason(0.02) is None
    assert unseen_share(episodes, normal(std=0.25), behavior).share == 0.0
    # a few logged actions, at states far to the right, are that extreme
    assert far_share(episodes, normal(mean=3.0, std=0.01)).share > 0.95


def test_support_of_discrete_actions():
    class Feature(Tabular):
        def _rows(self, observation):
            return self.policy[(observation[:, 0] > 0).long()]

    behavior = Feature([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]])
    policy = Feature([[0.4, 0.4, 0.2], [0.4, 0.4, 0.2]])
    episodes = logged(behavior)
    assert unseen_share(episodes, policy, behavior).share == pytest.approx(1 - 0.8**4, abs=0.03)
    assert far_share(episodes, policy).share == pytest.approx(0.2, abs=0.03)
    assert far_share(episodes, behavior).share == 0.0


def test_support_by_distance_needs_other_episodes():
    with pytest.raises(InputError, match="two episodes"):
        far_share(logged(normal(), n=1), normal())


def test_weights_by_step_by_hand():
    # two episodes, the second ends after one step: its weight stays 2
    data = Trajectories(
        reward=torch.zeros(2, 2),
        mask=torch.tensor([[True, True], [True, False]]),
        log_ratio=torch.tensor([[1.0, 6.0], [2.0, 1.0]]).log(),
    )
    steps = weights_by_step(data)
    assert steps.ess == pytest.approx((9 / 5, 64 / 40))  # weights 1, 2 and then 6, 2
    assert steps.top_share == pytest.approx((2 / 3, 3 / 4)) and steps.mean == pytest.approx((1.5, 4.0))
    assert steps.mean_error == pytest.approx((0.5, 2.0)) and steps.going == (1.0, 0.5)
    never = Trajectories(torch.zeros(2, 1), torch.ones(2, 1).bool(), log_ratio=torch.full((2, 1), -math.inf))
    assert weights_by_step(never).ess == (0.0,) and weights_by_step(never).top_share == (1.0,)
