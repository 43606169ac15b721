"""n-step rewards, next actions, Monte-Carlo returns: against loops, and by hand at the ends of episodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_offrl.data.returns import end_index, monte_carlo_return, n_step, next_action, timestep
from lightning_offrl.errors import InputError


def episodes(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, ...]:
    """start, length, reward, terminated, truncated; every second episode is truncated."""
    length = torch.tensor(lengths)
    start = length.cumsum(0) - length
    rows = int(length.sum())
    reward = torch.randn(rows, generator=torch.Generator().manual_seed(seed))
    terminated, truncated = torch.zeros(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.bool)
    last = start + length - 1
    terminated[last[0::2]] = True
    truncated[last[1::2]] = True
    return start, length, reward, terminated, truncated


def test_two_steps_by_hand() -> None:
    reward = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    terminated = torch.tensor([False, False, True, False, False])
    truncated = torch.tensor([False, False, False, False, True])
    end = torch.tensor([2, 2, 2, 4, 4])
    got = n_step(reward, terminated, truncated, end, 2, 0.5)
    assert got.reward.tolist() == [2.0, 4.0, 4.0, 16.0, 16.0]
    assert got.last.tolist() == [1, 2, 2, 4, 4]
    # Row 1 reaches the terminal state within its two steps; row 3 the cut, from where it bootstraps with gamma^2.
    assert got.terminated.tolist() == [False, True, True, False, False]
    assert got.truncated.tolist() == [False, False, False, True, True]
    assert got.discount.tolist() == [0.25, 0.25, 0.5, 0.25, 0.5]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_n_step_against_a_double_loop(n: int, discount: float) -> None:
    start, length, reward, terminated, truncated = episodes([1, 5, 3, 12, 1, 8])
    end = end_index(start, length)
    got = n_step(reward, terminated, truncated, end, n, discount)
    for t in range(len(reward)):
        total, last = 0.0, t
        for k in range(n):
            if t + k > int(end[t]):
                break
            total += discount**k * float(reward[t + k])
            last = t + k
        assert float(got.reward[t]) == pytest.approx(total, abs=1e-6)
        assert int(got.last[t]) == last
        assert float(got.discount[t]) == pytest.approx(discount ** (last - t + 1))
        assert bool(got.terminated[t]) == bool(terminated[last])
        assert bool(got.truncated[t]) == bool(truncated[last])
    assert got.reward.dtype == torch.float32 and got.discount.dtype == torch.float32


def test_one_step_changes_nothing() -> None:
    start, length, reward, terminated, truncated = episodes([4, 4, 2])
    got = n_step(reward, terminated, truncated, end_index(start, length), 1, 0.99)
    assert torch.equal(got.reward, reward) and torch.equal(got.last, torch.arange(10))
    assert torch.equal(got.terminated, terminated) and torch.equal(got.truncated, truncated)


def test_n_of_zero_is_refused() -> None:
    start, length, reward, terminated, truncated = episodes([4])
    with pytest.raises(InputError, match="at least 1, got 0"):
        n_step(reward, terminated, truncated, end_index(start, length), 0, 0.99)


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.99, 1.0])
def test_monte_carlo_against_a_backward_loop(discount: float) -> None:
    lengths = [1, 2, 3, 64, 65, 7, 1000]
    start, length, reward, _, _ = episodes(lengths)
    expected = np.zeros(len(reward))
    for first, steps in zip(start.tolist(), lengths, strict=True):
        ahead = 0.0
        for t in reversed(range(first, first + steps)):
            ahead = float(reward[t]) + discount * ahead
            expected[t] = ahead
    got = monte_carlo_return(reward.double(), start, length, discount)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12, atol=1e-11)
    assert monte_carlo_return(reward, start, length, discount).dtype == torch.float32


def test_an_infinite_horizon_goes_on_with_the_last_reward() -> None:
    start, length = torch.tensor([0, 3]), torch.tensor([3, 2])
    terminated = torch.tensor([False, False, False, False, True])
    reward = torch.tensor([-1.0, -1.0, -1.0, -1.0, 0.0])
    got = monte_carlo_return(reward, start, length, 0.9, terminated=terminated, infinite_horizon=True)
    # Cut while at -1 per step: -1 / (1 - 0.9) at every step. Ended at the goal: the plain sum.
    torch.testing.assert_close(got, torch.tensor([-10.0, -10.0, -10.0, -1.0, 0.0]))
    with pytest.raises(InputError, match="discount below 1"):
        monte_carlo_return(reward, start, length, 1.0, terminated=terminated, infinite_horizon=True)


def test_next_action_stays_in_the_episode() -> None:
    """The authors' ReBRAC takes the first action of the next episode in the file."""
    start, length, *_ = episodes([3, 1, 2])
    action = torch.arange(6)
    assert next_action(action, end_index(start, length)).tolist() == [1, 2, 2, 3, 5, 5]
    assert next_action(action[:, None].float(), end_index(start, length)).shape == (6, 1)


def test_timestep() -> None:
    start, length, *_ = episodes([3, 1, 2])
    assert timestep(start, length).tolist() == [0, 1, 2, 0, 0, 1]
