"""Fitted Q evaluation of one policy on one log: scales, refits to resampled episodes, and signs of a bad fit.

`FQE` is the algorithm; `fqe` trains it without a trainer and returns a `DirectEstimate`.

An error that is the same in all states falls by the factor ``1 - tau (1 - gamma)`` in each update, so 200 updates with
tau .005 make one sweep of fitted Q iteration. 100,000 updates at gamma .99 leave e^-5 of such an error. For fewer
updates `fqe` raises tau so that no more than that is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from tensordict import TensorDictBase

from lightning_offrl.batch import TRANSITION
from lightning_offrl.data.bootstrap import EpisodeBootstrap, mean_of_picked, times_picked
from lightning_offrl.data.clusters import ClusterLabels, numbered
from lightning_offrl.data.datamodule import OfflineDataModule, fit_normalizer
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.rewards import RewardTransform
from lightning_offrl.data.split import split_by_episode
from lightning_offrl.errors import InputError
from lightning_offrl.ope.checks.sample_check import sample_reasons
from lightning_offrl.ope.direct.estimate import DirectEstimate, check_estimand
from lightning_offrl.ope.direct.fqe_algorithm import FQE
from lightning_offrl.ope.direct.fqe_monitor import FQEMonitor
from lightning_offrl.ope.policies.expectation import is_exact
from lightning_offrl.rng import mix
from lightning_offrl.training.fit import fit_without_trainer
from lightning_offrl.training.old_code import takes_old_settings
from lightning_offrl.training.target_update import SoftTargetUpdate

if TYPE_CHECKING:
    from lightning_offrl.ope.policies.target import TargetPolicy

BUDGETS = {"smoke": 5_000, "pilot": 100_000, "paper": 1_000_000}
"""Numbers of gradient updates by name."""

DRAWS = 8
"""Actions per transition of a stochastic continuous policy that are drawn once, in fits that would ask for more."""


@dataclass(frozen=True)
class FQESettings:
    """The networks of `fqe` and how they are trained. Most defaults are those of DOPE.

    Attributes:
        hidden: The widths of the hidden layers.
        layer_norm: Whether hidden layers are normalized.
        critics: The number of critics in each fit.
        reduction: "mean" of the critics in the target, or the pessimistic variant "min".
        quantiles: The number of quantiles per action; more than 1 also gives ``return_quantiles``.
        samples: The number of next actions per observation of a stochastic continuous policy.
        learning_rate: The learning rate of AdamW for the first 70 % of the updates. Then it falls to 0, so that the
            estimate does not carry the noise of the last batches.
        batch_size: The number of rows for each fit and update.
        tau: The Polyak rate of the target network; None: 0.005, or more where the updates are too few for it.
        held_out: The share of the episodes that no fit sees, on which the Bellman error is measured; 0 for none.
    """

    hidden: tuple[int, ...] = (256, 256)
    layer_norm: bool = False
    critics: int = 1
    reduction: Literal["mean", "min"] = "mean"
    quantiles: int = 1
    samples: int = 1
    learning_rate: float = 3e-4
    batch_size: int = 256
    tau: float | None = None
    held_out: float = 0.1


@torch.inference_mode(False)
@takes_old_settings(FQESettings)
def fqe(
    policy: TargetPolicy,
    episodes: Episodes,
    *,
    discount: float,
    updates: int = BUDGETS["pilot"],
    seeds: int = 1,
    replicates: int = 0,
    settings: FQESettings | None = None,
    horizon: int | None = None,
    clusters: ClusterLabels | None = None,
    seed: int = 0,
) -> DirectEstimate:
    """The value of a policy by fitted Q evaluation, with refits to bootstrap resamples of episodes in the same pass.

        fqe(policy, episodes, discount=0.99, updates=5_000, settings=FQESettings(hidden=(64, 64)))

    Args:
        policy: The policy to evaluate.
        episodes: The data, with raw rewards; best not those that the policy was trained on.
        discount: gamma, below 1.
        updates: The number of gradient updates, see `BUDGETS`.
        seeds: The number of fits to the data itself; the estimate is their mean, and they should agree.
        replicates: The number of further fits, each to its own resample of the episodes; 10 or more make an interval.
            All fits are heads of one stacked network, so the pass costs ``seeds + replicates`` times one.
        settings: The networks and their training; None: the defaults of `FQESettings`.
        horizon: Not supported: a number of steps is refused with a message that names the methods which take one.
        clusters: ``[E]`` labels of the cluster of each episode: whole clusters are resampled and held out.
        seed: The seed of all random numbers.

    Raises:
        InputError: a discount of 1 or a horizon, or actions of another kind than the policy's.
    """
    if horizon is not None:
        raise InputError(
            "fitted Q evaluation estimates the discounted return over an unlimited horizon; for a horizon of "
            f"{horizon} steps use model_rollouts (mb) or an importance-sampling estimator"
        )
    if discount >= 1.0:
        raise InputError(f"fitted Q evaluation needs a discount below 1, got {discount}; 0.99 is usual")
    check_estimand(policy, episodes, discount, largest=1.0)
    chosen = settings or FQESettings()
    heads = seeds + replicates
    scale, shift, low, high = _reward_scale(episodes)
    data = OfflineDataModule(episodes, discount=discount, reward=RewardTransform(scale, shift))
    columns = data.columns(TRANSITION)
    tau = min(1.0, max(0.005, 5.0 / (updates * (1.0 - discount)))) if chosen.tau is None else chosen.tau
    module = FQE(
        episodes.spec,
        discount=discount,
        reward_range=(low, high),
        critics=chosen.critics,
        reduction=chosen.reduction,
        quantiles=chosen.quantiles,
        learning_rate=chosen.learning_rate,
        tau=tau,
        decay=(round(0.7 * updates), updates),
        hidden=chosen.hidden,
        layer_norm=chosen.layer_norm,
        samples=chosen.samples,
        seeds=heads,
        seed=seed,
    ).of(policy)
    fit_normalizer(module, episodes)
    together = numbered(clusters, episodes.n_episodes)
    length, probe = episodes.length.clone(), torch.arange(len(episodes))
    if chosen.held_out > 0.0:
        _, test = split_by_episode(episodes, chosen.held_out, seed, together)
        length[test] = 0
        probe = probe[length[episodes.episode_index()] == 0]
    if is_exact(policy):
        columns = _with_actions(module, columns)
    elif updates * chosen.batch_size * heads * chosen.samples > DRAWS * len(episodes):
        columns = _with_draws(policy, columns, seed)
    sampler = EpisodeBootstrap(episodes.start, length, chosen.batch_size, seed, seeds, replicates, together)
    monitor = FQEMonitor(module, episodes, columns, probe, seeds, (scale, shift), seed)
    fit_without_trainer(module, columns, sampler, updates, targets=SoftTargetUpdate(tau), looks=20, look=monitor.record)
    per_head = monitor.first_values()
    per_state = per_head[:seeds].mean(0)
    picked = sampler.episodes[seeds:]
    diagnostics, flags = monitor.diagnose(per_head, updates * tau * (1.0 - discount), discount)
    flags += sample_reasons(policy, episodes)
    if chosen.reduction == "min" and chosen.critics > 1:
        flags.append(f"pessimistic variant: the smallest of {chosen.critics} critics, not an estimate of the value")
    return DirectEstimate(
        method="fqe",
        value=float(per_state.mean()),
        per_initial_state=per_state,
        q=monitor.q,
        v=monitor.v,
        replicates=mean_of_picked(per_head[seeds:], picked) if replicates else None,
        per_seed=per_head[:seeds].mean(-1),
        diagnostics={"updates": float(updates), "tau": tau, **diagnostics},
        flags=flags,
        return_quantiles=monitor.return_quantiles() if chosen.quantiles > 1 else None,
        counts=times_picked(picked, episodes.n_episodes) if replicates else None,
        clusters=None if together is None else together.index,
    )


def _reward_scale(episodes: Episodes) -> tuple[float, float, float, float]:
    """Scale and shift of rewards, and the smallest and largest transformed one, that of 0 after an end included."""
    reward = episodes.data["next", "reward"].double()
    std = float(reward.std(correction=0))
    scale = 1.0 / std if std > 1e-8 * max(1.0, float(reward.abs().max())) else 1.0
    ends = bool(episodes.data["next", "terminated"].any())
    shift = 0.0 if ends else -scale * float(reward.mean())
    low, high = scale * float(reward.min()) + shift, scale * float(reward.max()) + shift
    return scale, shift, min(low, 0.0) if ends else low, max(high, 0.0) if ends else high


def _with_actions(module: FQE, columns: TensorDictBase, chunk: int = 65_536) -> TensorDictBase:
    """The table with the actions of a policy that draws nothing, computed once."""
    unused, out = torch.Generator(), columns.clone(recurse=False)
    mask, parts = columns.get(("next", "action_mask"), None), []
    for i in range(0, columns.batch_size[0], chunk):
        legal = None if mask is None else mask[i : i + chunk]
        parts.append(module.actions_at(columns["next", "observation"][i : i + chunk], unused, legal))
    following = columns["next"].clone(recurse=False)
    for name, values in zip(("policy_action", "policy_weight"), zip(*parts, strict=True), strict=True):
        following.set(name, torch.cat(values))
    return out.set("next", following)


def _with_draws(policy: TargetPolicy, columns: TensorDictBase, seed: int, chunk: int = 16_384) -> TensorDictBase:
    """The table with `DRAWS` actions of a policy that draws: its network runs once per row, not once per visit."""
    generator, out = torch.Generator().manual_seed(mix(seed, 0xD4A)), columns.clone(recurse=False)
    observation = columns["next", "observation"]
    with torch.no_grad():
        parts = [
            policy.sample(observation[i : i + chunk], DRAWS, generator).movedim(0, 1).float()
            for i in range(0, columns.batch_size[0], chunk)
        ]
    return out.set("next", columns["next"].clone(recurse=False).set("policy_draws", torch.cat(parts)))
