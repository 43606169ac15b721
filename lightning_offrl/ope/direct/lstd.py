"""Least-squares temporal differences for Q: linear fitted Q evaluation, solved exactly instead of by gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_offrl.data.clusters import ClusterLabels, numbered
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.ope.checks.sample_check import sample_reasons
from lightning_offrl.ope.direct.estimate import (
    DirectEstimate,
    check_estimand,
    chunks,
    first_masks,
    first_observations,
    multiplicities,
)
from lightning_offrl.ope.direct.features import Features, default_features
from lightning_offrl.ope.policies.expectation import weighted_actions
from lightning_offrl.ope.policies.masked import legal_actions
from lightning_offrl.rng import mix

if TYPE_CHECKING:
    from lightning_offrl.ope.policies.target import TargetPolicy


def lstd(
    policy: TargetPolicy,
    episodes: Episodes,
    *,
    discount: float,
    features: Features | None = None,
    samples: int = 16,
    ridge: float = 0.0,
    replicates: int = 0,
    clusters: ClusterLabels | None = None,
    seed: int = 0,
) -> DirectEstimate:
    """Least-squares temporal differences for Q (Lagoudakis and Parr, 2003, LSTDQ): linear FQE without a step size.

    ``theta = A^-1 b``, ``A = sum phi (phi - discount (1 - terminated) phi_pi')^T + ridge I``, ``b = sum phi r``, where
    ``phi_pi'`` is the mean feature of the policy's actions at the next observation. A truncated step bootstraps.
    Features that the data never shows keep the weight 0; where A is singular, the smallest solution is taken.

    Args:
        policy: The policy to evaluate.
        episodes: The data, with raw rewards.
        discount: gamma in [0, 1]; 1 only where episodes end.
        features: A function of observation and action; None: one-hot for tabular data, else quadratic.
        samples: The number of actions per next observation of a stochastic continuous policy.
        ridge: A number added to the diagonal of A, in the units of the mean of phi^2.
        replicates: The number of refits to bootstrap resamples of the episodes.
        clusters: ``[E]`` labels of the cluster of each episode: whole clusters are resampled.
        seed: The seed of sampled actions and resamples.

    Raises:
        InputError: a discount outside [0, 1], or actions of another kind than the policy's.
    """
    check_estimand(policy, episodes, discount)
    features = default_features(episodes) if features is None else features
    together = numbered(clusters, episodes.n_episodes)
    times = multiplicities(episodes.n_episodes, replicates, seed, together)
    of_row = times[:, episodes.episode_index()]
    generator = torch.Generator().manual_seed(mix(seed, 0x1577))
    data, gram, cross, moment = episodes.data, torch.zeros(()), torch.zeros(()), torch.zeros(())
    reached = torch.zeros(())
    for rows in chunks(len(episodes), samples):
        phi = features(data["observation"][rows], data["action"][rows]).double()
        mask = legal_actions(episodes, rows, following=True)
        following = _expected(features, policy, data["next", "observation"][rows], samples, generator, mask)
        following = following * ~data["next", "terminated"][rows].unsqueeze(-1)
        reward, weight = data["next", "reward"][rows].double(), of_row[:, rows].unsqueeze(-1)
        gram = gram + phi.T @ (weight * phi)  # [1 + R, F, F]
        cross = cross + phi.T @ (weight * following)
        moment = moment + (weight * phi).mT @ reward
        reached = reached + following.abs().sum(0)
    seen = gram[0].diagonal() > 0.0
    solutions = [_solve(g, discount * c, b, seen, ridge) for g, c, b in zip(gram, cross, moment, strict=True)]
    theta, rank = solutions[0]
    first = _expected(features, policy, first_observations(episodes), samples, generator, first_masks(episodes))
    per_state = first @ theta
    spread = torch.linalg.lstsq(gram[0][seen][:, seen], discount * cross[0][seen][:, seen], driver="gelsd").solution
    growth = float(torch.linalg.eigvals(spread).abs().max())
    total = reached + first.abs().sum(0)
    unseen = float(total[~seen].sum() / total.sum())
    diagnostics = {"features": float(len(seen)), "rank": float(rank), "growth": growth, "unsupported": unseen}
    flags = sample_reasons(policy, episodes)
    if unseen > 0.01:
        flags.append(f"{unseen:.0%} of what the policy reaches was never seen in the data and counts as worth 0")
    if growth > 1.0 + 1e-9:
        flags.append(f"fitted Q iteration with these features grows by {growth:.3g} a sweep: the data do not cover pi")

    def q(of: Episodes) -> Tensor:
        table = of.data
        parts = [features(table["observation"][i], table["action"][i]).double() @ theta for i in chunks(len(of), 1)]
        return torch.cat(parts)

    def v(observation: Any, action_mask: Tensor | None = None) -> Tensor:
        draws, parts = torch.Generator().manual_seed(mix(seed, 0x1578)), []
        for i in chunks(len(observation), samples):
            mask = None if action_mask is None else action_mask[i]
            parts.append(_expected(features, policy, observation[i], samples, draws, mask) @ theta)
        return torch.cat(parts)

    starts = times[1:] / times[1:].sum(-1, keepdim=True)
    refits = [float(share @ (first @ solution)) for share, (solution, _) in zip(starts, solutions[1:], strict=True)]
    return DirectEstimate(
        method="lstd",
        value=float(per_state.mean()),
        per_initial_state=per_state,
        q=q,
        v=v,
        replicates=torch.tensor(refits, dtype=torch.float64) if replicates else None,
        counts=times[1:] if replicates else None,
        diagnostics=diagnostics,
        flags=flags,
        clusters=None if together is None else together.index,
    )


def _expected(
    features: Features,
    policy: TargetPolicy,
    observation: Any,
    samples: int,
    generator: torch.Generator,
    mask: Tensor | None,
) -> Tensor:
    """``sum_p w_p phi(s, a_p)``, ``[B, F]``."""
    action, weight = weighted_actions(policy, observation, samples, generator, mask)
    batch, count = weight.shape
    row = torch.arange(batch).repeat_interleave(count)
    phi = features(observation[row], action.flatten(0, 1)).double().view(batch, count, -1)
    return (weight.unsqueeze(-1) * phi).sum(1)


def _solve(gram: Tensor, cross: Tensor, moment: Tensor, seen: Tensor, ridge: float) -> tuple[Tensor, int]:
    system = (gram - cross)[seen][:, seen]
    if ridge > 0.0:
        system = system + ridge * gram.diagonal()[seen].mean() * torch.eye(len(system), dtype=system.dtype)
    found = torch.linalg.lstsq(system, moment[seen].unsqueeze(-1), driver="gelsd")
    theta = torch.zeros_like(moment)
    theta[seen] = found.solution.squeeze(-1)
    return theta, int(found.rank)
