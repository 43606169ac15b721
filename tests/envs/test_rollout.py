"""Evaluation: every episode counts to its end, and is the one a plain loop would play."""

from __future__ import annotations

import math
import random

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_offrl.envs import rollout as evaluation
from lightning_offrl.envs.make import environment_spec, make_environment
from lightning_offrl.envs.rollout import Evaluator, evaluate, normalized_score
from lightning_offrl.errors import InputError


class Countdown(gymnasium.Env):
    """Lasts as many steps as its seed says; the reward is the action. Moves global random state on purpose."""

    observation_space = spaces.Dict({"left": spaces.Box(0, 100, (1,)), "kind": spaces.Discrete(3)})
    action_space = spaces.Box(-3.0, 5.0, (2, 1))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        random.random()
        np.random.rand()
        torch.rand(1)
        self.left = int(self.np_random.integers(1, 30))
        self.kind = self.left % 3
        return self._see(), {}

    def _see(self):
        return {"left": np.array([self.left], dtype=np.float32), "kind": self.kind}

    def step(self, action):
        assert action.shape == (2, 1) and action.dtype == np.float32
        self.left -= 1
        return self._see(), float(action.sum()), self.left == 0 and self.kind != 0, self.left == 0, {}


@pytest.fixture(autouse=True)
def countdown():
    gymnasium.register("Countdown-v0", entry_point=Countdown)
    yield
    del gymnasium.registry["Countdown-v0"]


def act(observation):
    """Depends on both entries; elementwise, so it does not depend on who else is in the batch."""
    kind = observation["kind"] @ torch.tensor([0.0, 0.5, 1.0])
    return torch.stack([observation["left"][..., 0] / 60.0, kind], -1)


def by_hand(seed: int) -> tuple[float, int, bool]:
    env = Countdown()
    observation, _ = env.reset(seed=seed)
    total, length = 0.0, 0
    while True:
        scaled = np.array([observation["left"][0] / 60.0, observation["kind"] * 0.5])
        action = (-3.0 + (scaled + 1.0) * 4.0).astype(np.float32).reshape(2, 1)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, length = total + reward, length + 1
        if terminated or truncated:
            return total, length, terminated


def test_equals_a_sequential_loop_with_dict_observations() -> None:
    seen = evaluate(act, "Countdown-v0", episodes=12, seed=50)
    expected = [by_hand(50 + i) for i in range(12)]
    assert len({length for _, length, _ in expected}) > 4  # episodes leave the batch at different times
    assert seen.lengths.tolist() == [length for _, length, _ in expected]
    assert seen.terminated.tolist() == [terminated for _, _, terminated in expected]
    assert True in seen.terminated.tolist() and False in seen.terminated.tolist()
    assert seen.returns == pytest.approx([total for total, _, _ in expected], abs=1e-5)
    values = seen.returns
    assert seen.mean == pytest.approx(values.mean())
    assert seen.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(12))


def test_a_network_sees_the_same_batches_bit_for_bit() -> None:
    """With the batch composition of a plain loop over the environments still running, equality is exact."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1), torch.nn.Tanh())
    seen = evaluate(network, "Pendulum-v1", episodes=4, seed=7)
    envs = [make_environment("Pendulum-v1") for _ in range(4)]
    observations = [env.reset(seed=7 + i)[0] for i, env in enumerate(envs)]
    returns = np.zeros(4)
    for _ in range(200):
        with torch.no_grad():
            actions = 2.0 * network(torch.from_numpy(np.stack(observations))).double().numpy()
        for i, env in enumerate(envs):
            observations[i], reward, *_ = env.step(actions[i].astype(np.float32))
            returns[i] += float(reward)
    assert seen.returns.tolist() == returns.tolist()
    assert seen.lengths.tolist() == [200] * 4 and not seen.terminated.any()  # truncated by the time limit


def test_cartpole_discrete_terminates() -> None:
    seen = evaluate(lambda o: torch.zeros(len(o), dtype=torch.int64), "CartPole-v1", episodes=3)
    assert seen.terminated.all() and (seen.lengths < 15).all() and (seen.returns == seen.lengths).all()


def test_stacked_seeds_equal_single_ones() -> None:
    slopes = torch.tensor([0.2, -0.9])

    def one(slope):
        return lambda o: (slope * o[..., 1:2]).clamp(-1, 1)

    def both(observation):
        assert observation.shape == (2, observation.shape[1], 3)
        return (slopes[:, None, None] * observation[..., 1:2]).clamp(-1, 1)

    seen = evaluate(both, "Pendulum-v1", episodes=3, lead=(2,))
    for i in range(2):
        assert seen.returns[i].tolist() == evaluate(one(slopes[i]), "Pendulum-v1", episodes=3).returns.tolist()
    means = seen.returns.mean(1)
    assert seen.standard_error == pytest.approx(abs(means[0] - means[1]) / 2)


def test_stacked_seeds_that_end_at_different_times() -> None:
    def policy(observation):  # seed 0 balances, seed 1 does not
        balance = (8.0 * observation[..., 2] + 2.0 * observation[..., 3] + 0.6 * observation[..., 1] > 0).long()
        return torch.stack([balance[0], torch.zeros_like(balance[1])])

    seen = evaluate(policy, "CartPole-v1", episodes=2, lead=(2,))
    assert (seen.lengths[0] > 100).all() and (seen.lengths[1] < 15).all()


def test_environments_are_made_once_and_evaluations_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = evaluation.make_environment
    monkeypatch.setattr(evaluation, "make_environment", lambda *a, **k: made.append(a) or real(*a, **k))
    evaluator = Evaluator("Countdown-v0", 5)
    first, second = evaluator.run(act), evaluator.run(act)
    assert len(made) == 5 and first.returns.tolist() == second.returns.tolist()
    assert evaluator.run(act, seed=0).returns.tolist() != first.returns.tolist()
    evaluator.close()


def test_actions_are_unscaled_by_the_policy_and_clipped_by_the_environment() -> None:
    spec = environment_spec(make_environment("Pendulum-v1"))
    wide = {**spec, "action_low": [-8.0], "action_high": [8.0]}
    full = evaluate(lambda o: torch.ones(len(o), 1), "Pendulum-v1", episodes=2)
    clipped = evaluate(lambda o: torch.full((len(o), 1), 0.5), "Pendulum-v1", episodes=2, spec=wide)
    assert full.returns.tolist() == clipped.returns.tolist()


def test_an_action_that_is_not_finite_ends_its_episode_as_nan() -> None:
    def broken(observation):
        action = torch.zeros(len(observation), 1)
        if len(observation) == 3:
            action[1] = math.nan
        return action

    seen = evaluate(broken, "Pendulum-v1", episodes=3)
    assert math.isnan(seen.returns[1]) and np.isfinite(seen.returns[[0, 2]]).all()
    assert seen.lengths.tolist() == [200, 0, 200] and math.isnan(seen.mean)


def test_threads_are_put_back() -> None:
    seen = []

    def policy(observation):
        seen.append(torch.get_num_threads())
        return torch.zeros(len(observation), dtype=torch.int64)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        evaluate(policy, "CartPole-v1", episodes=1)
        assert set(seen) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluate(lambda o: o, "Pendulum-v1", episodes=0), "at least 1 episode"),
        (lambda: evaluate(lambda o: o, "Pendulum-v1", episodes=2), r"actions of shape \[2, 3\], expected \[2, 1\]"),
        (lambda: evaluate(lambda o: o, "Pendlum-v1"), "nearest: Pendulum-v1"),
        (
            lambda: evaluate(act, "CartPole-v1", spec=environment_spec(make_environment("Pendulum-v1"))),
            r"CartPole-v1 has observations of shape \[4\], the policy was trained on \[3\]",
        ),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_normalized_score() -> None:
    assert normalized_score(np.array([-20.0, 80.0]), [-20.0, 180.0]).tolist() == [0.0, 50.0]
    assert normalized_score(3.0, None) is None
