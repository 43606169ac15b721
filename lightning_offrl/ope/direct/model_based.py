"""Rollouts in a learned model of the environment."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_offrl.data.bootstrap import mean_of_picked, times_picked
from lightning_offrl.data.clusters import ClusterLabels, Clusters, numbered
from lightning_offrl.data.episodes import Episodes, is_tabular
from lightning_offrl.dynamics.ensemble import DynamicsEnsemble, Step, fit_dynamics
from lightning_offrl.errors import InputError
from lightning_offrl.ope.checks.sample_check import sample_reasons
from lightning_offrl.ope.direct.estimate import (
    DirectEstimate,
    check_estimand,
    chunks,
    first_observations,
    largest_return,
    multiplicities,
)
from lightning_offrl.ope.direct.tabular import EmpiricalMDP
from lightning_offrl.ope.policies.masked import probabilities
from lightning_offrl.rng import mix

if TYPE_CHECKING:
    from lightning_offrl.ope.policies.target import TargetPolicy


class Model(Protocol):
    """What `model_rollouts` needs of a model: `DynamicsEnsemble`, or one of your own.

    With an attribute ``members`` it is M models in one; without, it is one.
    """

    def step_each(self, observation: Tensor, action: Tensor, generator: torch.Generator) -> Step:
        """One step of every member's own rows, ``[M, B, D]`` and ``[M, B, A]`` (discrete ``[M, B]``)."""


@torch.inference_mode(False)
@torch.no_grad()
def model_rollouts(
    policy: TargetPolicy,
    episodes: Episodes,
    *,
    discount: float,
    model: Model | None = None,
    horizon: int | None = None,
    rollouts: int = 1,
    starts: int | None = None,
    replicates: int = 10,
    clusters: ClusterLabels | None = None,
    seed: int = 0,
) -> DirectEstimate:
    """The mean return of imagined episodes from the data's first states.

    Each rollout follows one member all the way, so the members' means are the values of as many models; where each
    member was fitted to its own resample of the episodes, they are refits (``replicates``). Tabular data need no
    network: the empirical process is propagated without sampling, and refits are exact.

    Args:
        policy: The policy to evaluate.
        episodes: The data; their first states begin the rollouts.
        discount: gamma in [0, 1]; 1 only with a horizon, or where tabular episodes end.
        model: A model that several policies share; None fits a `DynamicsEnsemble` to these episodes.
        horizon: The number of steps of an episode; None: until the discount has left 1/1000 of the weight.
        rollouts: The number of rollouts per first state and member.
        starts: The number of first states, drawn without replacement; None: all.
        replicates: The number of refits of tabular data; a model has as many refits as members.
        clusters: ``[E]`` labels of the cluster of each episode: refits are to resamples of whole clusters. A ``model``
            whose members saw resamples of episodes has no such refits, so no interval: give ``clusters`` to
            `fit_dynamics`, too.
        seed: The seed of all random numbers.

    Raises:
        InputError: an undiscounted value without a horizon, or actions of another kind than the policy's.
    """
    check_estimand(policy, episodes, discount)
    together = numbered(clusters, episodes.n_episodes)
    if model is None and is_tabular(episodes):
        return _tabular(policy, episodes, discount, horizon, replicates, together, seed)
    if "action_mask" in episodes.data.keys():
        raise InputError(
            f"{episodes.name} says which actions are legal, but a model of the environment does not know that of the "
            "states it imagines; use fqe, lstd or weights (tabular data may be rolled out)"
        )
    if horizon is None and discount == 1.0:
        raise InputError("an undiscounted value by rollouts needs a horizon: the number of steps of an episode")
    steps = horizon if horizon is not None else max(1, math.ceil(math.log(1e-3) / math.log(max(discount, 1e-3))))
    if model is None:
        with torch.enable_grad():
            model = fit_dynamics(episodes, clusters=together, seed=seed)
    members = int(getattr(model, "members", 1))
    imagined = _Rollouts(policy, model, members, discount, steps)
    index = torch.arange(episodes.n_episodes)
    if starts is not None and starts < len(index):
        order = torch.randperm(len(index), generator=torch.Generator().manual_seed(mix(seed, 0x3B0)))
        index = order[:starts].sort().values
    first = first_observations(episodes, index)
    per_member = imagined(first.repeat_interleave(rollouts, 0), seed).view(members, len(index), rollouts).mean(-1)
    per_state = per_member.mean(0)
    diagnostics, flags = _diagnose(imagined, model, episodes, per_member, discount)
    flags += sample_reasons(policy, episodes)
    picked = _resampled(model, index, members, together, seed)
    return DirectEstimate(
        method="mb",
        value=float(per_state.mean()),
        per_initial_state=per_state,
        q=lambda of: imagined.checked(of.data["observation"], seed, of.data["action"]),
        v=lambda observation: imagined.checked(observation, seed),
        replicates=None if picked is None else mean_of_picked(per_member, picked),
        counts=times_picked(picked, len(index)) if picked is not None and starts is None else None,
        per_seed=per_member.mean(-1),
        diagnostics=diagnostics,
        flags=flags,
        episodes=None if len(index) == episodes.n_episodes else index,
        horizon=horizon,
        clusters=None if together is None or picked is None else together.index,
    )


@dataclass
class _Rollouts:
    """Discounted returns of imagined episodes, with a record of how many were clipped or still alive."""

    policy: TargetPolicy
    model: Model
    members: int
    discount: float
    steps: int
    clipped: float = 0.0
    alive: float = 0.0
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __call__(self, first: Tensor, seed: int, action: Tensor | None = None, chunk: int = 4096) -> Tensor:
        """``[M, B]`` float64 from raw first observations ``[B, D]``, the first action given or the policy's."""
        generator = torch.Generator().manual_seed(mix(seed, 0x3B1))
        parts, outside, made, left = [], 0.0, 0.0, 0.0
        for rows in chunks(len(first), 1, chunk):
            observation = first[rows].float().expand(self.members, *first[rows].shape)
            total = torch.zeros(observation.shape[:2], dtype=torch.float64)
            alive = torch.ones(observation.shape[:2], dtype=torch.bool)
            for t in range(self.steps):
                chosen = self._act(observation, generator)
                if t == 0 and action is not None:
                    chosen = action[rows].expand(self.members, *action[rows].shape)
                if action is None and t % max(1, self.steps // 10) == 0 and len(self.seen) < 20:
                    self.seen.append((observation[0][alive[0]][:256], chosen[0][alive[0]][:256]))
                out = self.model.step_each(observation, chosen, generator)
                # the reward of a step that ends counts; what is imagined after it does not
                total += self.discount**t * torch.where(alive, out.reward.double(), 0.0)
                outside += float((out.clipped & alive).sum())
                made += float(alive.sum())
                alive = alive & ~out.terminated
                observation = out.next_observation
                if not bool(alive.any()):
                    break
            left += float(alive.sum())
            parts.append(total)
        if action is None:
            self.clipped, self.alive = outside / max(made, 1.0), left / (self.members * len(first))
        return torch.cat(parts, -1)

    def checked(self, observation: Tensor, seed: int, action: Tensor | None = None, limit: float = 5e7) -> Tensor:
        """Mean over members, ``[B]``; refused for so many rows that the rollouts would take hours."""
        made = len(observation) * self.members * self.steps
        if made > limit:
            raise InputError(
                f"values by model rollouts at {len(observation)} observations would take {made:.1e} imagined steps; "
                "take q and v from fqe or lstd"
            )
        with torch.no_grad():
            return self(observation, seed, action).mean(0)

    def _act(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        action = self.policy.sample(observation.flatten(0, 1), 1, generator)[0]
        action = action if self.policy.discrete else action.float()
        return action.unflatten(0, observation.shape[:2])


def _diagnose(
    imagined: _Rollouts, model: Model, episodes: Episodes, per_member: Tensor, discount: float
) -> tuple[dict[str, float], list[str]]:
    """Numbers that describe the rollouts, and a sentence for each sign that they are not to be relied on."""
    means = per_member.mean(-1)
    apart, value = float(means.max() - means.min()), float(means.mean())
    returns, best = largest_return(episodes, discount)
    span = float(returns.max() - returns.min())
    numbers = {
        "steps": float(imagined.steps),
        "clipped": imagined.clipped,
        "alive_at_end": imagined.alive,
        "members_apart": apart,
        "largest_return": best,
    }
    flags = []
    if isinstance(model, DynamicsEnsemble):
        numbers |= {f"model_{name}": number for name, number in model.measured.items()}
        seen = [model.predict(*pair).disagreement() for pair in imagined.seen if len(pair[0])]
        usual = model.measured.get("disagreement", 0.0)
        if seen and usual > 0.0:
            ratio = numbers["disagreement_ratio"] = float(torch.cat(seen).mean()) / usual
            if ratio > 3.0:
                flags.append(f"along the rollouts the members disagree {ratio:.1f} times as much as on held-out data")
    if imagined.clipped > 0.05:
        flags.append(f"{imagined.clipped:.0%} of the imagined steps left the range of the data and were clipped")
    if apart > 0.2 * span and imagined.members > 1:
        flags.append(f"members differ by {apart:.4g}, over 20 % of the range of returns, {span:.4g}")
    if value > best + 1e-6 * max(1.0, abs(best)):
        flags.append(f"the value {value:.4g} is above the largest discounted return in the data, {best:.4g}")
    if not bool(per_member.isfinite().all()):
        flags.append("values are not finite: the rollouts have diverged")
    return numbers, flags


def _resampled(model: Model, index: Tensor, members: int, together: Clusters | None, seed: int) -> Tensor | None:
    """The first states that each member's refit averages, ``[M, W]`` (-1: none).

    None if the members saw the same data, or resamples of other clusters than ``together``.
    """
    own, whole = getattr(model, "resampled", None), getattr(model, "clusters", None)
    if own is None or members < 2:
        return None
    if together is None and (own.shape[-1] if whole is None else len(whole)) == len(index):
        return own
    generator = torch.Generator().manual_seed(mix(seed, 0x3B2))
    if together is None:
        return torch.randint(len(index), (members, len(index)), generator=generator)
    if whole is None or (len(whole) == len(together.index) and not whole.equal(together.index)):
        return None
    if len(whole) == len(index):
        return own
    some = together.select(index)
    drawn = torch.randint(some.n, (members, some.n), generator=generator)
    return pad_sequence([some.episodes(row) for row in drawn], batch_first=True, padding_value=-1)


def _masks_of_states(episodes: Episodes, states: int) -> Tensor | None:
    """Legal actions ``[S, n]`` of every state; all where the log never was; None where it has no masks."""
    if "action_mask" not in episodes.data.keys():
        return None
    data, goes_on = episodes.data, ~episodes.data["next", "terminated"]
    state = torch.cat([data["observation"], data["next", "observation"][goes_on]]).argmax(-1)
    mask = torch.cat([data["action_mask"], data["next", "action_mask"][goes_on]])
    some = torch.zeros(states, mask.shape[-1]).index_add_(0, state, mask.float())
    seen = torch.bincount(state, minlength=states).unsqueeze(-1)
    if bool(((some > 0) & (some < seen)).any()):
        raise InputError(
            f"which actions are legal differs within states of {episodes.name}, so its observation is no state; use "
            "fqe, lstd or weights"
        )
    return (some > 0) | (seen == 0)


def _tabular(
    policy: TargetPolicy,
    episodes: Episodes,
    discount: float,
    horizon: int | None,
    replicates: int,
    together: Clusters | None,
    seed: int,
) -> DirectEstimate:
    states = episodes.data["observation"].shape[-1]
    table = probabilities(policy, torch.eye(states), _masks_of_states(episodes, states))
    times = multiplicities(episodes.n_episodes, replicates, seed, together)
    mdps = [EmpiricalMDP.from_episodes(episodes, row) for row in times]
    q = mdps[0].fitted_q(table, discount, horizon=horizon)
    v = (table * q).sum(-1)
    refits = [mdp.rollout_value(table, discount, horizon) for mdp in mdps[1:]]

    def q_of(of: Episodes) -> Tensor:
        return q[of.data["observation"].argmax(-1), of.data["action"]]

    return DirectEstimate(
        method="mb",
        value=mdps[0].rollout_value(table, discount, horizon),
        per_initial_state=v[first_observations(episodes).argmax(-1)],
        q=q_of,
        v=lambda observation: v[observation.argmax(-1)],
        replicates=torch.tensor(refits, dtype=torch.float64) if replicates else None,
        counts=times[1:] if replicates else None,
        diagnostics={"states": float(states), "steps": float("inf") if horizon is None else float(horizon)},
        horizon=horizon,
        clusters=None if together is None else together.index,
    )
