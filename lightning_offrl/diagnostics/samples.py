"""States of a log, each with the action that was taken there and one that the policy would take.

Where the log has masks of legal actions, policies receive them, and a policy that takes illegal actions is refused: see
`lightning_offrl.ope.policies.masked`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_offrl.data.episodes import Episodes, leaves
from lightning_offrl.errors import InputError
from lightning_offrl.ope.policies import masked as legal
from lightning_offrl.ope.policies.target import TargetPolicy
from lightning_offrl.rng import mix

Features = Callable[[Any], Tensor]
"""Raw observations ``[B, ...]`` to numbers ``[B, D]``."""

_STILL = 1e-3
"""Least spread of an action's number, of a half range of 1: below it the data are taken to hold it still."""


@dataclass(frozen=True)
class Steps:
    """N logged steps.

    Attributes:
        rows: ``[N]`` int64, their rows in the log's table.
        observation: raw, ``[N, ...]``.
        action: of the log, ``[N, A]``, or ``[N]`` int64.
        state: ``[N, D]`` float64, standardized over these steps; constant numbers left out.
        episode: ``[N]`` int64, where each comes from.
        actions: number of actions if they are discrete, else None.
        spread: ``[A]`` standard deviation of the logged actions; empty if discrete.
        mask: ``[N, n]`` bool, which of the n discrete actions were legal; None where the log does not say.
    """

    rows: Tensor
    observation: Any
    action: Tensor
    state: Tensor
    episode: Tensor
    actions: int | None
    spread: Tensor
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.state)

    def encode(self, action: Tensor) -> Tensor:
        """Actions ``[N, A]`` in standard deviations of the log, or ``[N]`` one-hot; float64."""
        return action.double() / self.spread if self.actions is None else F.one_hot(action, self.actions).double()

    def with_actions(self, policy: TargetPolicy, seed: int = 0) -> Pairs:
        """The same steps with one action of a policy each, a legal one.

        Raises:
            InputError: the policy puts probability on illegal actions.
        """
        generator = torch.Generator().manual_seed(mix(seed, 0xAC7))
        return Pairs(self, legal.sample(policy, self.observation, 1, generator, self.mask)[0])


@dataclass(frozen=True)
class Pairs:
    """Logged steps, and the action ``chosen`` (as ``steps.action``) that a policy would take at each."""

    steps: Steps
    chosen: Tensor

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def data(self) -> Tensor:
        """``[N, D + A]``, state and logged action."""
        return torch.cat([self.steps.state, self.steps.encode(self.steps.action)], -1)

    @property
    def policy(self) -> Tensor:
        """``[N, D + A]``, state and the policy's action."""
        return torch.cat([self.steps.state, self.steps.encode(self.chosen)], -1)


def sample_steps(
    episodes: Episodes,
    *,
    horizon: int | None = None,
    states: int = 5000,
    features: Features | None = None,
    seed: int = 0,
) -> Steps:
    """Draw logged steps without replacement.

    Args:
        episodes: The log.
        horizon: The number of first steps of each episode that count; None: all.
        states: The most logged steps that are used.
        features: A function to vectors, for pictures; None: all numbers of the observation.
        seed: The seed of the draws.

    Raises:
        InputError: observations that need ``features``.
    """
    rows = sample_rows(episodes, horizon, states, torch.Generator().manual_seed(seed))
    data = episodes.data[rows]
    discrete = episodes.spec["action_kind"] == "discrete"
    action = data["action"]
    return Steps(
        rows,
        data["observation"],
        action,
        standardized(episodes, rows, features),
        episodes.episode_index()[rows],
        int(episodes.spec["action_size"]) if discrete else None,
        torch.empty(0) if discrete else action.double().std(0).clamp(min=_STILL),
        legal.legal_actions(episodes, rows),
    )


def sample_pairs(
    episodes: Episodes,
    policy: TargetPolicy,
    *,
    horizon: int | None = None,
    states: int = 5000,
    features: Features | None = None,
    seed: int = 0,
) -> Pairs:
    """`sample_steps` with an action of the policy each.

    Raises:
        InputError: the policy's actions are of another kind than the log's, or it puts probability on illegal ones.
    """
    discrete = episodes.spec["action_kind"] == "discrete"
    if policy.discrete != discrete:
        kinds = {True: "discrete", False: "continuous"}
        raise InputError(
            f"{episodes.name} has {kinds[discrete]} actions, the policy {kinds[policy.discrete]} ones; give a policy "
            "that was trained on such data"
        )
    steps = sample_steps(episodes, horizon=horizon, states=states, features=features, seed=seed)
    return steps.with_actions(policy, seed)


def sample_rows(episodes: Episodes, horizon: int | None, count: int, generator: torch.Generator) -> Tensor:
    """Rows of at most ``count`` different steps, in random order, ``[N]`` int64."""
    if horizon is not None and horizon < 1:
        raise InputError(f"the horizon must be at least one step, got {horizon}")
    order = torch.randperm(len(episodes), generator=generator)
    if horizon is not None:
        begin = torch.repeat_interleave(episodes.start, episodes.length)
        order = order[order - begin[order] < horizon]
    return order[:count]


def mean_length(episodes: Episodes, horizon: int | None) -> float:
    """Decisions per episode."""
    length = episodes.length if horizon is None else episodes.length.clamp(max=horizon)
    return float(length.double().mean())


def standardized(episodes: Episodes, rows: Tensor, features: Features | None) -> Tensor:
    """Numbers of the observations at some rows, ``[N, D]`` float64: mean 0, standard deviation 1, none constant."""
    table = episodes.data.select("observation")[rows]
    if features is not None:
        x = features(table["observation"]).detach().double()
    else:
        columns = []
        for path, leaf in leaves(table):
            if leaf.ndim > 2:
                raise InputError(
                    f"{'.'.join(path)} has shape {list(leaf.shape[1:])}; distances between pictures mean nothing: give "
                    "`features`, a function to [B, D] such as a trained encoder"
                )
            columns.append(leaf.reshape(len(rows), -1).double())
        x = torch.cat(columns, -1)
    spread = x.std(0, correction=0)
    moving = spread > 1e-6 * x.abs().amax(0).clamp(min=1e-12)
    return (x[:, moving] - x[:, moving].mean(0)) / spread[moving]


def clustered_error(values: Tensor, episode: Tensor) -> float:
    """Standard error of the mean of ``[N]`` values, those of one episode not being independent.

    ``sqrt(sum_e (sum_{i in e} (x_i - mean))^2) / N`` with the factor E / (E - 1) (Liang and Zeger, 1986).
    """
    _, group = episode.unique(return_inverse=True)
    groups = int(group.max()) + 1
    if groups < 2:
        return float("nan")
    total = torch.zeros(groups, dtype=torch.float64).index_add_(0, group, values.double() - values.double().mean())
    return float((total.square().sum() * groups / (groups - 1)).sqrt() / len(values))
