"""The maximum-likelihood model of a finite process, and the value of a policy in it by two methods.

On one empirical distribution, with ``P`` the counted transitions that go on, ``r`` the mean rewards, ``d`` the shares
of the pairs in the data and ``m`` the first states, these agree to rounding:

    fitted Q          Q = r + discount P_pi Q, the limit of fitted Q evaluation, solved (`envs.tabular.state_values`)
    model rollout     sum_t discount^t E[r_t], the state distribution propagated

and so does LSTD with one-hot features (`lightning_offrl.ope.direct.lstd`). A pair that the data never shows counts as
worth 0 in both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_offrl.data.episodes import Episodes, is_tabular
from lightning_offrl.envs.tabular import must_end, state_values
from lightning_offrl.errors import InputError


@dataclass(frozen=True)
class EmpiricalMDP:
    """The empirical frequencies of a finite process in a dataset, all float64.

    Attributes:
        transition: ``[S, A, S]``, the share of steps that *went on* in each state; a truncated step goes on.
        reward: ``[S, A]``, mean reward of the step, 0 for unseen pairs.
        data: ``[S, A]``, share of each pair in the data; adds up to one.
        terminated: ``[S, A]``, share of steps that ended in a terminal state.
        start: ``[S]``, shares of the episodes' first states.
    """

    transition: Tensor
    reward: Tensor
    data: Tensor
    terminated: Tensor
    start: Tensor

    @staticmethod
    def from_episodes(episodes: Episodes, weights: Tensor | None = None) -> EmpiricalMDP:
        """Count transitions, rewards and ends.

        Args:
            episodes: with one-hot observations and discrete actions.
            weights: ``[E]``, how often each episode counts; None: once.

        Raises:
            InputError: observations that are not one-hot, or continuous actions.
        """
        data = episodes.data
        if not is_tabular(episodes):
            raise InputError(
                f"a tabular model needs discrete actions and one-hot observations (a Discrete space), and "
                f"{episodes.name} has others; use fqe or lstd"
            )
        states, actions = data["observation"].shape[-1], int(episodes.spec["action_size"])
        state, following = data["observation"].argmax(-1), data["next", "observation"].argmax(-1)
        pair = state * actions + data["action"]
        each = torch.ones(episodes.n_episodes, dtype=torch.float64) if weights is None else weights.double()
        row = each[episodes.episode_index()]
        ended = data["next", "terminated"]
        count = torch.zeros(states * actions, dtype=torch.float64).index_add_(0, pair, row)
        reward = torch.zeros_like(count).index_add_(0, pair, row * data["next", "reward"].double())
        over = torch.zeros_like(count).index_add_(0, pair, row * ended)
        on = torch.zeros(states * actions * states, dtype=torch.float64)
        on.index_add_(0, pair * states + following, row * ~ended)
        seen = count.clamp(min=torch.finfo(torch.float64).tiny)
        start = torch.zeros(states, dtype=torch.float64).index_add_(0, state[episodes.start], each)
        return EmpiricalMDP(
            transition=(on.view(-1, states) / seen.unsqueeze(-1)).view(states, actions, states),
            reward=(reward / seen).view(states, actions),
            data=(count / count.sum()).view(states, actions),
            terminated=(over / seen).view(states, actions),
            start=start / start.sum(),
        )

    def fitted_q(self, policy: Tensor, discount: float, horizon: int | None = None) -> Tensor:
        """The fixed point of fitted Q evaluation, solved exactly, or the value of ``horizon`` steps.

        Args:
            policy: ``[S, A]``.
            discount: in [0, 1]; 1 only where the policy's episodes end.
            horizon: number of backups; None: their limit.

        Returns:
            Q ``[S, A]``, 0 for pairs without data.

        Raises:
            InputError: at discount 1 without a horizon, if the episodes of this policy may go on for ever.
        """
        if horizon is None:
            step = torch.einsum("sa,sat->st", policy, self.transition).numpy()
            if discount == 1.0:
                may_end = (self.terminated > 0.0) | (self.data == 0.0)
                must_end(step, (policy * may_end).sum(-1).numpy() > 0.0)
            value = torch.from_numpy(state_values(step, (policy * self.reward).sum(-1).numpy(), discount))
            return self.reward + discount * self.transition @ value
        q = torch.zeros_like(self.reward)
        for _ in range(horizon):
            q = self.reward + discount * self.transition @ (policy * q).sum(-1)
        return q

    def value(self, policy: Tensor, q: Tensor) -> float:
        """``E_{s0, a ~ pi} Q``."""
        return float(self.start @ (policy * q).sum(-1))

    def rollout_value(self, policy: Tensor, discount: float, horizon: int | None = None) -> float:
        """Value of rollouts in the model, the distribution over states propagated instead of sampled.

        Args:
            policy: ``[S, A]``.
            discount: in [0, 1].
            horizon: number of steps; None: until what is left of the distribution cannot change the sum.
        """
        state, total, factor = self.start.clone(), 0.0, 1.0
        largest = float(self.reward.abs().max())
        left = 1.0 / (1.0 - discount) if discount < 1.0 else 1.0
        living = float("inf")
        for t in range(horizon if horizon is not None else 10_000_000):
            pair = state.unsqueeze(-1) * policy
            total += factor * float((pair * self.reward).sum())
            state = torch.einsum("sa,sat->t", pair, self.transition)
            factor *= discount
            if horizon is None and factor * float(state.sum()) * largest * left <= 1e-16 * max(1.0, abs(total)):
                return total
            if horizon is None and discount == 1.0 and t % 1000 == 999:
                before, living = living, float(state.sum())
                if living > 0.99 * before:
                    break
        if horizon is None:
            raise InputError(f"rollouts at discount {discount} do not end; take a discount below 1, or a horizon")
        return total
