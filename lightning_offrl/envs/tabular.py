"""Finite Markov decision processes that are known exactly: values, distributions and datasets without sampling error.

Everything is float64 numpy. States are numbered 0 to S - 1, actions 0 to A - 1; a policy is ``[S, A]``, the
probability of each action in each state. Terminal states are states too (a next observation may be one): nothing
happens after them, their value is 0, and their rows of a policy are never used.

    V = r_pi + discount P_pi V                 solved as a linear system         Puterman, 1994, theorem 6.1.1
    V* by policy iteration                                                       Howard, 1960
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from lightning_offrl.errors import InputError

Array = np.ndarray


class Optimal(NamedTuple):
    """The result of `TabularMDP.optimal`: V* ``[S]``, Q* ``[S, A]`` and a deterministic policy ``[S, A]``."""

    value: Array
    action_value: Array
    policy: Array


@dataclass(frozen=True, eq=False)
class TabularMDP:
    """One finite process.

    Args:
        transition: ``[S, A, S]``, the probability of each next state; the rows of terminal states are ignored.
        step_reward: ``[S, A, S]``, or what broadcasts to it: the reward of each step, that into a terminal state
            included.
        terminal: ``[S]`` bool.
        start: ``[S]``, the probability of each first state.

    Attributes:
        reward: ``[S, A]``, the expected reward of a step; 0 in terminal states.

    Raises:
        InputError: shapes that differ, probabilities that do not add up to one, an episode that starts at its end.
    """

    transition: Array
    step_reward: Array
    terminal: Array
    start: Array
    reward: Array = field(init=False)

    def __post_init__(self) -> None:
        terminal = np.asarray(self.terminal, dtype=bool)
        transition = np.array(self.transition, dtype=np.float64)
        start = np.asarray(self.start, dtype=np.float64)
        if transition.ndim != 3 or transition.shape[0] != transition.shape[2]:
            raise InputError(f"transition has shape {list(transition.shape)}, expected [S, A, S]")
        n = len(transition)
        if terminal.shape != (n,) or start.shape != (n,):
            raise InputError(
                f"terminal {list(terminal.shape)} and start {list(start.shape)} must be [{n}]: one number per state"
            )
        transition[terminal] = np.eye(n)[terminal][:, None, :]
        if (transition < 0.0).any() or np.abs(transition.sum(-1) - 1.0).max() > 1e-9:
            raise InputError("the transition probabilities of every state and action must be >= 0 and add up to one")
        if (start < 0.0).any() or abs(start.sum() - 1.0) > 1e-9 or start[terminal].any():
            raise InputError("the start probabilities must be >= 0, add up to one, and be 0 in terminal states")
        reward = np.broadcast_to(np.asarray(self.step_reward, dtype=np.float64), transition.shape)
        if not np.isfinite(reward).all():
            raise InputError("the rewards must be finite numbers")
        expected = np.where(terminal[:, None], 0.0, np.einsum("sat,sat->sa", transition, reward))
        fields = {"transition": transition, "step_reward": reward, "terminal": terminal, "start": start}
        for name, value in {**fields, "reward": expected}.items():
            object.__setattr__(self, name, value)

    @property
    def n_states(self) -> int:
        """S, terminal states included."""
        return self.transition.shape[0]

    @property
    def n_actions(self) -> int:
        """A."""
        return self.transition.shape[1]

    # -- policies ----------------------------------------------------------------------------------------------------

    def uniform(self) -> Array:
        """The policy of uniformly random actions, ``[S, A]``."""
        return np.full((self.n_states, self.n_actions), 1.0 / self.n_actions)

    def deterministic(self, actions: Array) -> Array:
        """``[S]`` action numbers as a policy ``[S, A]``."""
        return np.eye(self.n_actions)[np.asarray(actions, dtype=np.int64)]

    def behavior_policy(self, quality: float, discount: float = 0.99) -> Array:
        """From random to optimal: ``quality * optimal + (1 - quality) * uniform``, ``[S, A]``.

        Args:
            quality: 0 is uniformly random, 1 the optimal policy.
            discount: The discount for which the optimal policy is computed.

        Raises:
            InputError: a quality outside [0, 1].
        """
        if not 0.0 <= quality <= 1.0:
            raise InputError(f"quality must be a number from 0 (random) to 1 (optimal), got {quality}")
        return quality * self.optimal(discount).policy + (1.0 - quality) * self.uniform()

    # -- values ------------------------------------------------------------------------------------------------------

    def policy_value(self, policy: Array, discount: float) -> tuple[Array, Array]:
        """V and Q of a policy over an unlimited horizon.

        Args:
            policy: ``[S, A]``.
            discount: The discount, in [0, 1]; 1 only for a policy that ends with certainty from every state.

        Returns:
            V ``[S]`` and Q ``[S, A]``, both 0 in terminal states.

        Raises:
            InputError: a malformed policy, or discount 1 for one that may go on forever.
        """
        policy = self._checked(policy)
        _check_discount(discount, 1.0)
        step = np.einsum("sa,sat->st", policy, self.transition)
        if discount == 1.0:
            must_end(step, self.terminal)
        live = ~self.terminal
        value = np.zeros(self.n_states)
        value[live] = state_values(step[np.ix_(live, live)], (policy * self.reward).sum(-1)[live], discount)
        return value, self._backup(value, discount)

    def optimal(self, discount: float) -> Optimal:
        """V*, Q* and an optimal policy by policy iteration, exact to rounding.

        Args:
            discount: The discount, in [0, 1).

        Returns:
            V*, Q* and the policy; of several best actions (equal to 1e-10) it takes the one with the smallest number.
        """
        _check_discount(discount, np.nextafter(1.0, 0.0))
        actions = np.zeros(self.n_states, dtype=np.int64)
        value, q = self.policy_value(self.deterministic(actions), discount)
        while True:
            following = np.where(q.max(-1) > q[np.arange(len(q)), actions], q.argmax(-1), actions)
            new_value, new_q = self.policy_value(self.deterministic(following), discount)
            if not new_value.sum() > value.sum():  # improvements are all that can happen, until rounding is all
                break
            actions, value, q = following, new_value, new_q
        near = q >= q.max(-1, keepdims=True) - 1e-10 * max(1.0, float(np.abs(q).max()))
        return Optimal(value, q, self.deterministic(near.argmax(-1)))

    def finite_horizon_value(self, policy: Array, horizon: int, discount: float = 1.0) -> tuple[Array, Array]:
        """V and Q of a policy whose episodes are cut after so many steps, with value 0 after the cut.

        Args:
            policy: ``[S, A]``, the same at every step.
            horizon: H, the number of steps.
            discount: The discount, in [0, 1].

        Returns:
            V ``[H + 1, S]``, where ``V[h]`` has h steps left, and Q ``[H, S, A]``, where ``Q[h]`` has h + 1 left.
        """
        policy = self._checked(policy)
        if horizon < 1:
            raise InputError(f"a horizon is at least 1 step, got {horizon}")
        _check_discount(discount, 1.0)
        value = np.zeros((horizon + 1, self.n_states))
        q = np.empty((horizon, self.n_states, self.n_actions))
        for h in range(horizon):
            q[h] = self._backup(value[h], discount)
            value[h + 1] = (policy * q[h]).sum(-1)
        return value, q

    def expected_return(self, policy: Array, horizon: int) -> float:
        """Mean undiscounted return of episodes cut after ``horizon`` steps."""
        value, _ = self.finite_horizon_value(policy, horizon)
        return float(self.start @ value[horizon])

    # -- distributions -----------------------------------------------------------------------------------------------

    def state_distribution(self, policy: Array, steps: int, start: Array | None = None) -> Array:
        """Where the agent is after 0, 1, ..., ``steps`` steps: ``[steps + 1, S]``; who has ended stays at the end."""
        policy = self._checked(policy)
        step = np.einsum("sa,sat->st", policy, self.transition)
        out = np.empty((steps + 1, self.n_states))
        out[0] = self._first(start)
        for t in range(steps):
            out[t + 1] = out[t] @ step
        return out

    def visits(self, policy: Array, horizon: int, start: Array | None = None) -> Array:
        """The expected visits of each state and action in one episode of at most ``horizon`` steps, ``[S, A]``.

        Its sum is the mean length, its sum with the rewards the mean undiscounted return.
        """
        reached = self.state_distribution(policy, horizon, start)[:horizon].sum(0)
        return np.where(self.terminal, 0.0, reached)[:, None] * policy

    # -- datasets ----------------------------------------------------------------------------------------------------

    def sample_transitions(
        self, policy: Array, episodes: int, horizon: int, seed: int = 0, start: Array | None = None
    ) -> dict[str, Array]:
        """Episodes one after the other, drawn all at once.

        Args:
            policy: ``[S, A]``.
            episodes: The number of episodes.
            horizon: episodes are truncated after so many steps.
            seed: The seed of the draws; other numbers of episodes are other draws.
            start: ``[S]``; None for the process's own.

        Returns:
            ``state``, ``action``, ``next_state``, ``episode`` int64, ``reward``, ``log_prob`` float64, ``terminated``,
            ``truncated`` bool; ``[T]`` each, in order of episode and time.
        """
        policy = self._checked(policy)
        if episodes < 1 or horizon < 1:
            raise InputError(f"a dataset needs at least 1 episode of 1 step, got {episodes} of {horizon}")
        rng = np.random.default_rng(seed)
        running = np.arange(episodes)
        state = _draw(np.broadcast_to(self._first(start), (episodes, self.n_states)), rng)
        columns: dict[str, list[Array]] = {name: [] for name in ("episode", "state", "action", "next_state")}
        cut: list[Array] = []
        for t in range(horizon):
            action = _draw(policy[state], rng)
            following = _draw(self.transition[state, action], rng)
            for column, value in zip(columns.values(), (running, state, action, following), strict=True):
                column.append(value)
            going = ~self.terminal[following]
            cut.append(going & (t == horizon - 1))
            running, state = running[going], following[going]
            if not len(running):
                break
        flat = {name: np.concatenate(values) for name, values in columns.items()}
        order = np.argsort(flat["episode"], kind="stable")
        flat = {name: values[order] for name, values in flat.items()}
        state, action, following = flat["state"], flat["action"], flat["next_state"]
        return {
            **flat,
            "reward": self.step_reward[state, action, following],
            "log_prob": np.log(policy[state, action]),
            "terminated": self.terminal[following],
            "truncated": np.concatenate(cut)[order],
        }

    # -- inside ------------------------------------------------------------------------------------------------------

    def _backup(self, value: Array, discount: float) -> Array:
        return np.where(self.terminal[:, None], 0.0, self.reward + discount * self.transition @ value)

    def _checked(self, policy: Array) -> Array:
        policy = np.asarray(policy, dtype=np.float64)
        if policy.shape != (self.n_states, self.n_actions):
            raise InputError(
                f"a policy here has shape [{self.n_states}, {self.n_actions}] (states, actions), got "
                f"{list(policy.shape)}"
            )
        if not ((policy >= 0.0).all() and np.abs(policy.sum(-1) - 1.0).max() <= 1e-6):
            raise InputError("the action probabilities of a policy must be >= 0 and add up to one in every state")
        return policy

    def _first(self, start: Array | None) -> Array:
        start = self.start if start is None else np.asarray(start, dtype=np.float64)
        if start.shape != (self.n_states,) or (start < 0.0).any() or abs(start.sum() - 1.0) > 1e-9:
            raise InputError(f"start must be {self.n_states} probabilities that add up to one")
        return start


def state_values(step: Array, reward: Array, discount: float) -> Array:
    """The solution V ``[S]`` of ``V = reward + discount * step V``.

    Args:
        step: ``[S, S]``, the probability of each next state under a policy; what a row lacks to one is the chance that
            the episode ends.
        reward: ``[S]``, the expected reward of the step.
        discount: The discount, in [0, 1]; 1 only where `must_end` holds.
    """
    return np.linalg.solve(np.eye(len(step)) - discount * step, reward)


def must_end(step: Array, ends: Array) -> None:
    """Raise `InputError` unless the end can be reached from every state.

    Args:
        step: ``[S, S]`` as in `state_values`.
        ends: ``[S]`` bool, where the episode is over, or where its next step may end it.
    """
    while True:
        more = ends | (step[:, ends] > 0.0).any(-1)
        if (more == ends).all():
            break
        ends = more
    if not ends.all():
        raise InputError(
            f"this policy never ends from state {int(np.argmin(ends))}, so its undiscounted value is not finite; "
            "take a discount below 1, or a horizon"
        )


def without_action(policy: Array, action: int, states: Array | None = None) -> Array:
    """The policy without one action, whose probability goes to the others in proportion.

    Args:
        policy: ``[S, A]``.
        action: the one to leave out.
        states: bool mask ``[S]`` or numbers of the states where it is left out; None for all.

    Returns:
        ``[S, A]``; where the policy took nothing but this action, all others are equally likely.

    Raises:
        InputError: an action that does not exist, or no other to take.
    """
    policy = np.array(policy, dtype=np.float64)
    n = policy.shape[-1]
    if not 0 <= action < n or n < 2:
        raise InputError(f"action {action} cannot be left out of {n} actions, numbered from 0")
    chosen = np.zeros(len(policy), dtype=bool)
    chosen[slice(None) if states is None else states] = True
    left = np.where(np.arange(n) == action, 0.0, policy)
    total = left.sum(-1, keepdims=True)
    others = np.where(np.arange(n) == action, 0.0, 1.0 / (n - 1))
    left = np.where(total > 0.0, left / np.where(total > 0.0, total, 1.0), others)
    return np.where(chosen[:, None], left, policy)


def _draw(probabilities: Array, rng: np.random.Generator) -> Array:
    """One index per row of ``[N, K]`` by inverse CDF; never one of probability zero."""
    cumulative = probabilities.cumsum(-1)
    # The threshold lies below the last sum, so the first sum above it exists and has positive probability.
    last = cumulative[:, -1]
    threshold = np.minimum(rng.random(len(cumulative)) * last, np.nextafter(last, 0.0))
    return (cumulative > threshold[:, None]).argmax(-1)


def _check_discount(discount: float, largest: float) -> None:
    if not 0.0 <= discount <= largest:
        allowed = "from 0 to 1" if largest == 1.0 else "at least 0 and below 1"
        raise InputError(f"the discount must be {allowed}, got {discount}")
