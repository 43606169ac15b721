"""Where offline learners end on a finite process: the fixed points of their updates in a table, without sampling error.

A log is what a dataset shows of a process: the behavior pi_b (shares of the actions taken in each state) and the
transitions that were seen. Values are learned for seen pairs only; the learners differ in what they do about the rest.

    naive Q-learning   Q = r + gamma P max over all b of Q      an unseen pair keeps its initial value for ever
    in-sample          the same maximum over seen b             Fujimoto et al., 2019, https://arxiv.org/abs/1812.02900
    implicit (IQL)     Q = r + gamma P V, V the expectile of Q under pi_b        https://arxiv.org/abs/2110.06169
    conservative       Q = r + gamma P E_pi Q - weight (pi / pi_b - 1)           https://arxiv.org/abs/2006.04779, eq. 2
    CQL(H)             Q = r + gamma P max Q - weight (softmax Q / pi_b - 1)     eq. 4, with the maximum in the target

The last two are the stationary points of CQL's losses with half squared errors (`losses.discrete`, the page
DiscreteCQL with ``huber_threshold: null``) when every seen pair has its own number.

Theorem 3.2 of CQL is about eq. 2: where pi takes seen actions only and the log's model is exact,

    E_pi Q = V_pi - weight (I - gamma P_pi)^-1 (sum_a pi(a|s)^2 / pi_b(a|s) - 1),

at or below V_pi in every state for any weight > 0, as the bracket is a chi-squared distance. Q of a single action is
raised wherever pi takes it less often than pi_b does. Finite data with random transitions add a term that the weight
has to exceed. CQL(H) with the maximum in its target is another update. For its greedy policy the bracket becomes
softmax(Q)(b) / pi_b(b|s) - 1 at the greedy b, which is >= 0 for certain only where pi_b is uniform over the seen
actions: where the data prefers b more than softmax(Q) does, max Q lies above the policy's value, and a larger weight,
which draws softmax(Q) to pi_b, does not help.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lightning_offrl.envs.tabular import Array, TabularMDP
from lightning_offrl.errors import InputError

_ROUNDING = 1e-11
"""Relative change at which an iteration counts as finished."""


@dataclass(frozen=True, eq=False)
class Log:
    """What a dataset shows of a process.

    Args:
        process: transitions as they were seen; unseen pairs stay where they are, and no learner reads them.
        behavior: ``[S, A]``, the share of each action in each state; 0 in rows of states that were never left.
        count: ``[S, A]``, how often each pair was seen.
    """

    process: TabularMDP
    behavior: Array
    count: Array

    @property
    def seen(self) -> Array:
        """``[S, A]`` bool, the pairs in the data."""
        return self.count > 0

    @property
    def states(self) -> Array:
        """``[S]`` bool, the states from which a step was seen."""
        return np.asarray(self.seen.any(-1))

    def keeps_to(self, policy: Array) -> bool:
        """Whether a policy ``[S, A]`` takes seen actions only, in all states of the data."""
        return not (policy[self.states] > 0.0)[~self.seen[self.states]].any()


def log_of(mdp: TabularMDP, state: Array, action: Array, next_state: Array) -> Log:
    """Count a dataset.

    Args:
        mdp: the process it came from, for rewards and terminal states.
        state: ``[T]`` int.
        action: ``[T]`` int.
        next_state: ``[T]`` int.

    Raises:
        InputError: a state that is entered at the end of an episode cut there, and never left: no learner has a value
            for it.
    """
    seen = np.zeros(mdp.transition.shape)
    np.add.at(seen, (state, action, next_state), 1.0)
    count = seen.sum(-1)
    lost = (seen.sum((0, 1)) > 0.0) & (count.sum(-1) == 0.0) & ~mdp.terminal
    if lost.any():
        raise InputError(
            f"the data enters state {int(lost.argmax())} and never leaves it, so it has no value: collect more or "
            "longer episodes"
        )
    stays = np.broadcast_to(np.eye(mdp.n_states)[:, None], seen.shape)
    transition = np.where(count[..., None] > 0.0, seen / np.maximum(count, 1.0)[..., None], stays)
    process = TabularMDP(transition, mdp.step_reward, mdp.terminal, mdp.start)
    return Log(process, count / np.maximum(count.sum(-1, keepdims=True), 1.0), count)


def q_learning(log: Log, discount: float, *, initial: float = 0.0, in_sample: bool = False) -> Array:
    """Q-learning on the log until nothing changes, ``[S, A]``.

    Args:
        log: the data.
        discount: in [0, 1).
        initial: the value of pairs that were never seen.
        in_sample: the maximum is over seen actions, as if a behavior filter were perfect; unseen pairs are -inf.
    """
    rest = -np.inf if in_sample else initial

    def improve(q: Array) -> Array:
        return np.where(log.seen, _target(log, q.max(-1), discount), rest)

    return _until_still(improve, np.where(log.seen, initial, rest))


def implicit_q_learning(log: Log, discount: float, expectile: float) -> tuple[Array, Array]:
    """IQL's V ``[S]`` and Q ``[S, A]`` (-inf where unseen): V is the expectile of Q over the behavior's actions.

    Args:
        log: the data.
        discount: in [0, 1).
        expectile: tau in (0, 1); 0.5 evaluates the behavior, 1 would be in-sample Q-learning.

    Raises:
        InputError: an expectile outside (0, 1).
    """
    if not 0.0 < expectile < 1.0:
        raise InputError(f"the expectile must lie in (0, 1), got {expectile}")

    def value(q: Array) -> Array:
        known = np.where(log.seen, q, 0.0)
        v = (log.behavior * known).sum(-1)
        for _ in range(log.process.n_actions + 1):  # each round finds which actions lie above, or is the last
            weight = log.behavior * np.where(known > v[:, None], expectile, 1.0 - expectile)
            v = (weight * known).sum(-1) / np.where(log.states, weight.sum(-1), 1.0)
        return v

    def improve(q: Array) -> Array:
        return np.where(log.seen, _target(log, value(q), discount), -np.inf)

    q = _until_still(improve, np.where(log.seen, 0.0, -np.inf))
    return value(q), q


def conservative_evaluation(log: Log, policy: Array, discount: float, weight: float) -> tuple[Array, Array]:
    """CQL's evaluation of a fixed policy: the fixed point of eq. 2 with mu = pi.

    Args:
        log: the data.
        policy: ``[S, A]``.
        discount: in [0, 1).
        weight: alpha.

    Returns:
        E_pi Q ``[S]``, 0 where there are no data, and Q ``[S, A]``, -inf where unseen.

    Raises:
        InputError: a policy that takes an unseen action, whose Q has no minimum.
    """
    if not log.keeps_to(policy):
        raise InputError("eq. 2 has no minimum for a policy that takes actions the data does not have")
    ratio = np.where(log.seen, policy / np.where(log.seen, log.behavior, 1.0), 1.0)
    reward = log.process.reward - weight * (ratio - 1.0)
    live = log.states
    step = np.einsum("sa,sat->st", policy, log.process.transition)[np.ix_(live, live)]
    value = np.zeros(log.process.n_states)
    value[live] = np.linalg.solve(np.eye(int(live.sum())) - discount * step, (policy * reward).sum(-1)[live])
    return value, np.where(log.seen, reward + discount * log.process.transition @ value, -np.inf)


def conservative_q_learning(log: Log, discount: float, weight: float) -> Array:
    """CQL(H) with the maximum in the target, ``[S, A]``; -inf where unseen, as nothing there resists the weight.

    The minimum of eq. 4 for given targets is monotone in them and moves with a shift of all of them, so that the whole
    update is a contraction by ``discount``: it has one fixed point, whatever the weight.

    Args:
        log: the data.
        discount: in [0, 1).
        weight: alpha.
    """
    rows = log.states

    def improve(q: Array) -> Array:
        out = q.copy()
        target = _target(log, q.max(-1), discount)
        out[rows] = _minimize(target[rows], log.behavior[rows], weight, q[rows])
        return out

    return _until_still(improve, np.where(log.seen, 0.0, -np.inf))


def softmax(q: Array) -> Array:
    """``exp Q / sum exp Q`` over the last dimension; -inf has probability 0."""
    grown = np.exp(q - q.max(-1, keepdims=True))
    return grown / grown.sum(-1, keepdims=True)


def _target(log: Log, value: Array, discount: float) -> Array:
    """``r + discount P V`` with V = 0 where nothing is known (the terminal states among these)."""
    return log.process.reward + discount * log.process.transition @ np.where(log.states, value, 0.0)


def _minimize(target: Array, behavior: Array, weight: float, q: Array) -> Array:
    """Per state the minimum over Q of ``sum_a pi_b (Q - y)^2 / 2 + weight (log-sum-exp Q - sum_a pi_b Q)``.

    Newton's method, started at ``q``; halved steps keep it from overshooting where the log-sum-exp is nearly flat.

    Args:
        target: y, ``[n, A]``.
        behavior: ``[n, A]``, 0 for unseen actions.
        weight: of the conservative term.
        q: ``[n, A]``, -inf for unseen actions.
    """
    seen = behavior > 0.0

    def loss(q: Array) -> Array:
        top = q.max(-1, keepdims=True)
        known = np.where(seen, q, 0.0)
        log_sum = top[:, 0] + np.log(np.exp(q - top).sum(-1))
        return (behavior * ((known - target) ** 2 / 2.0 - weight * known)).sum(-1) + weight * log_sum

    scale = 1.0 + np.abs(target).max()
    for _ in range(200):
        share = softmax(q)
        slope = behavior * (np.where(seen, q, 0.0) - target) + weight * (share - behavior)
        curvature = weight * (share[..., None] * np.eye(q.shape[-1]) - share[:, :, None] * share[:, None, :])
        curvature += np.where(seen, behavior, 1.0)[..., None] * np.eye(q.shape[-1])
        step = np.where(seen, np.linalg.solve(curvature, slope[..., None])[..., 0], 0.0)
        if np.abs(step).max() <= _ROUNDING * scale:
            break
        before, length = loss(q), np.ones((len(q), 1))
        while length.min() > 1e-6:
            worse = loss(q - length * step) > before - 1e-4 * length[:, 0] * (slope * step).sum(-1) + 1e-12 * scale**2
            if not worse.any():
                break
            length[worse] /= 2.0
        q = q - length * step
    return q


def _until_still(improve: Callable[[Array], Array], q: Array) -> Array:
    while True:
        following = improve(q)
        known = np.isfinite(following)
        change = np.abs(following[known] - q[known]).max(initial=0.0)
        q = following
        if change <= _ROUNDING * (1.0 + np.abs(q[known]).max(initial=0.0)):
            return q
