"""Fitted Q evaluation (Le, Voloshin and Yue, 2019, https://arxiv.org/abs/1903.08738; as in DOPE, Fu et al., 2021).

    Q  min  E[ (clip(r + gamma (1 - terminated) E_{a' ~ pi} Q'(s', a')) - Q(s, a))^2 ]

Q' follows Q by Polyak averaging, and it is Q' that is read in the end. Networks give ``(1 - gamma) Q``; rewards are
standardized, their mean subtracted only where no episode ever ends (a shift is worth ``shift / (1 - gamma)`` there, and
something else where episodes end); targets are clipped to what such rewards can add up to, and the share that was
clipped is reported. With several critics the target is their mean. "min" is a pessimistic variant, no estimate of V:
on a linear-quadratic system the smaller of two critics was off by -2 %, the smallest of five by -7 %, and falling.

With quantiles m > 1, Q(s, a) is the mean of m quantiles of the return, fitted by quantile regression on all pairs of
them and of the policy's actions (Dabney et al., 2018, https://arxiv.org/abs/1710.10044, for evaluation).

The estimand is the discounted return over an unlimited horizon: a truncated step bootstraps. A finite horizon would
need one Q per number of steps left; `lightning_offrl.ope.direct.model_rollouts` takes one.

An error that is the same in all states falls by ``1 - tau (1 - gamma)`` per update: 200 updates of tau .005 are one
sweep of fitted Q iteration. 100,000 at gamma .99 leave e^-5 of it. For fewer updates `fqe` raises tau to keep that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.batch import TRANSITION, Spec
from lightning_offrl.data.bootstrap import EpisodeBootstrap, mean_of_picked, times_picked
from lightning_offrl.data.clusters import ClusterLabels, numbered
from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.normalization import fit_normalizer
from lightning_offrl.data.rewards import RewardTransform
from lightning_offrl.data.split import split_by_episode
from lightning_offrl.errors import InputError
from lightning_offrl.losses.quantiles import quantile_regression
from lightning_offrl.losses.values import td_target
from lightning_offrl.networks.action_values import action_value
from lightning_offrl.ope.checks.sample_check import sample_reasons
from lightning_offrl.ope.direct.base import PolicyEvaluationAlgorithm
from lightning_offrl.ope.direct.estimate import DirectEstimate, check_estimand
from lightning_offrl.ope.direct.fqe_monitor import FQEMonitor
from lightning_offrl.ope.policies.expectation import is_exact
from lightning_offrl.rng import mix
from lightning_offrl.training.fit import fit_without_trainer, linear_decay
from lightning_offrl.training.target_update import SoftTargetUpdate

if TYPE_CHECKING:
    from lightning_offrl.ope.policies.target import TargetPolicy

BUDGETS = {"smoke": 5_000, "pilot": 100_000, "paper": 1_000_000}
"""Gradient updates by name."""

DRAWS = 8
"""Actions per transition of a stochastic continuous policy that are drawn once, in fits that would ask for more."""


class FQE(PolicyEvaluationAlgorithm):
    """Fitted Q evaluation of the policy given to `of`.

    It trains like every algorithm, under a ``Trainer`` with an `OfflineDataModule`, or with `fqe`, which also chooses
    scales, refits and flags. Stacked seeds are independent fits with their own targets.

    Args:
        spec: the spaces; either kind of action.
        discount: gamma, that of the data module; below 1.
        reward_range: smallest and largest reward as the page sees them (transformed), with 0 where episodes end.
            Targets are clipped to it over 1 - gamma. None: no clipping.
        critics: members N.
        reduction: of the members in the target; "min" is pessimistic.
        quantiles: m per action; 1 is the mean.
        learning_rate: of AdamW (DOPE: 3e-4).
        weight_decay: of AdamW (DOPE: 1e-5).
        tau: Polyak rate of the target (DOPE: 0.005).
        decay: first and last update of a linear decay of the learning rate to 0; None: constant (DOPE).
        hidden: widths of the hidden layers (DOPE: 256, 256).
        layer_norm: normalize hidden layers.
        **common: see `PolicyEvaluationAlgorithm` and `OfflineAlgorithm`.
    """

    acting = ("normalizer", "q_target")

    def __init__(
        self,
        spec: Spec,
        *,
        discount: float = 0.99,
        reward_range: tuple[float, float] | None = None,
        critics: int = 1,
        reduction: Literal["mean", "min"] = "mean",
        quantiles: int = 1,
        learning_rate: float = 3e-4,
        weight_decay: float = 1e-5,
        tau: float = 0.005,
        decay: tuple[int, int] | None = None,
        hidden: tuple[int, ...] = (256, 256),
        layer_norm: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        if not 0.0 <= discount < 1.0:
            raise InputError(f"fitted Q evaluation needs a discount of at least 0 and below 1, got {discount}")
        if critics < 1 or quantiles < 1:
            raise InputError(f"at least one critic and one quantile are needed, got {critics} and {quantiles}")
        self.scale = 1.0 / (1.0 - discount)
        self.q = self.network(
            lambda: action_value(spec, self.encoder(), hidden, count=critics, outputs=quantiles, layer_norm=layer_norm)
        )
        self.q_target = self.target_of("q")

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """One step on the Bellman error; the metrics are in the units of the transformed reward."""
        obs, action = batch["observation"], batch["action"]
        q = self.value(obs, action.unsqueeze(-2 if self.action_kind == "box" else -1), target=False)  # [N, B, 1, m]
        target, weight, clipped = self.targets_of(batch)
        if self.hparams["quantiles"] == 1:
            error = q[..., 0, 0] - target.unsqueeze(-2)
            loss = (error / self.scale).square().mean(-1).sum(-1)
        else:
            error = q.mean((-2, -1)) - (weight * target).sum(-1).unsqueeze(-2)
            each = quantile_regression(q.squeeze(-2), target.unsqueeze(-3), weight.unsqueeze(-3))
            loss = (each / self.scale).mean(-1).sum(-1)
        self.minimize(q=loss.sum())
        return {
            "q_loss": loss,
            "td_error": error.square().mean((-2, -1)).sqrt(),
            "clipped": clipped,
            "q": q.mean((-4, -3, -2, -1)),
        }

    @torch.no_grad()
    def targets_of(self, batch: TensorDictBase) -> tuple[Tensor, Tensor, Tensor]:
        """Targets ``[*lead, B]``, or ``[*lead, B, P m]`` with their weights, and the share clipped ``[*lead]``."""
        following = batch["next"]
        members = self.value(following["observation"], following["policy_action"])  # [N, B, P, m]
        value = members.mean(-4) if self.hparams["reduction"] == "mean" else members.amin(-4)
        weight = following["policy_weight"]
        reward, ended, discount = following["reward"], following["terminated"], batch["discount"]
        if self.hparams["quantiles"] == 1:
            target = td_target(reward, ended, (weight * value.squeeze(-1)).sum(-1), discount)
        else:
            count = value.shape[-1]
            weight = (weight / count).repeat_interleave(count, -1)
            value = value.flatten(-2)
            reward, ended, discount = (x.unsqueeze(-1).expand_as(value) for x in (reward, ended, discount))
            target = td_target(reward, ended, value, discount)
        if self.hparams["reward_range"] is None:
            return target, weight, target.new_zeros(self.lead)
        low, high = (bound * self.scale for bound in self.hparams["reward_range"])
        kept = target.clamp(low, high)
        outside = (kept != target).to(kept.dtype)
        return kept, weight, outside.flatten(len(self.lead)).mean(-1)

    def value(self, observation: Any, action: Tensor, target: bool = True) -> Tensor:
        """Q of normalized observations, ``[*lead, N, B, P, m]``, in transformed rewards."""
        return (self.q_target if target else self.q)(observation, action) * self.scale

    def setup(self, stage: str) -> None:
        """See that the data module discounts alike."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if data is not None and getattr(data, "discount", None) != self.hparams["discount"]:
            raise InputError(
                f"the data module's discount is {data.discount} and that of the evaluation {self.hparams['discount']}; "
                "give both the same"
            )

    def configure_optimizers(self) -> Any:
        """One AdamW."""
        hp = self.hparams
        optimizer = torch.optim.AdamW(
            self.q.parameters(), lr=hp["learning_rate"], weight_decay=hp["weight_decay"], fused=True
        )
        return self.named_optimizers(linear_decay(hp["decay"], "q"), q=optimizer)

    def configure_callbacks(self) -> Any:
        """Polyak averaging."""
        return self.default_callbacks(SoftTargetUpdate(tau=self.hparams["tau"]))


@torch.inference_mode(False)
def fqe(
    policy: TargetPolicy,
    episodes: Episodes,
    *,
    discount: float,
    updates: int = BUDGETS["pilot"],
    seeds: int = 1,
    replicates: int = 0,
    held_out: float = 0.1,
    tau: float | None = None,
    samples: int = 1,
    critics: int = 1,
    reduction: Literal["mean", "min"] = "mean",
    quantiles: int = 1,
    hidden: tuple[int, ...] = (256, 256),
    layer_norm: bool = False,
    learning_rate: float = 3e-4,
    batch_size: int = 256,
    horizon: int | None = None,
    clusters: ClusterLabels | None = None,
    seed: int = 0,
) -> DirectEstimate:
    """The value of a policy by fitted Q evaluation, with refits to bootstrap resamples of episodes in the same pass.

    Args:
        policy: to evaluate.
        episodes: the data, with raw rewards; best not those that the policy was trained on.
        discount: gamma, below 1.
        updates: gradient updates, see `BUDGETS`.
        seeds: fits to the data itself; the estimate is their mean, and they should agree.
        replicates: more fits, each to its own resample of the episodes; 10 or more make an interval. All are heads of
            one stacked network, so the pass costs ``seeds + replicates`` times one.
        held_out: share of the episodes that no head sees, to measure the Bellman error on; 0 for none.
        tau: Polyak rate; None: 0.005, or more where ``updates`` are too few for it (see the module).
        samples: next actions per observation of a stochastic continuous policy (DOPE: 1).
        critics: members per head.
        reduction: "mean", or the pessimistic variant "min".
        quantiles: m per action; more than 1 also gives ``return_quantiles``.
        hidden: widths of the networks.
        layer_norm: normalize hidden layers.
        learning_rate: of AdamW for the first 70 % of the updates; then it falls to 0, so that what is read is not the
            noise of the last batches.
        batch_size: B, rows per head and update.
        horizon: not supported, for the sake of a clear refusal.
        clusters: ``[E]`` labels of what episodes belong to: whole clusters are resampled and held out.
        seed: of everything.

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
    scale, shift, low, high = _reward_scale(episodes)
    data = OfflineDataModule(episodes, discount=discount, reward=RewardTransform(scale, shift))
    columns = data.columns(TRANSITION)
    rate = min(1.0, max(0.005, 5.0 / (updates * (1.0 - discount)))) if tau is None else tau
    module = FQE(
        episodes.spec,
        discount=discount,
        reward_range=(low, high),
        critics=critics,
        reduction=reduction,
        quantiles=quantiles,
        learning_rate=learning_rate,
        tau=rate,
        decay=(round(0.7 * updates), updates),
        hidden=hidden,
        layer_norm=layer_norm,
        samples=samples,
        seeds=seeds + replicates,
        seed=seed,
    ).of(policy)
    fit_normalizer(module, episodes)
    together = numbered(clusters, episodes.n_episodes)
    length, probe = episodes.length.clone(), torch.arange(len(episodes))
    if held_out > 0.0:
        _, test = split_by_episode(episodes, held_out, seed, together)
        length[test] = 0
        probe = probe[length[episodes.episode_index()] == 0]
    if is_exact(policy):
        columns = _with_actions(module, columns)
    elif updates * batch_size * (seeds + replicates) * samples > DRAWS * len(episodes):
        columns = _with_draws(policy, columns, seed)
    sampler = EpisodeBootstrap(episodes.start, length, batch_size, seed, seeds, replicates, together)
    watch = FQEMonitor(module, episodes, columns, probe, seeds, (scale, shift), seed)
    fit_without_trainer(module, columns, sampler, updates, targets=SoftTargetUpdate(rate), looks=20, look=watch.look)
    per_head = watch.first_values()
    per_state = per_head[:seeds].mean(0)
    picked = sampler.episodes[seeds:]
    refits = mean_of_picked(per_head[seeds:], picked) if replicates else None
    diagnostics, flags = watch.verdict(per_head, updates * rate * (1.0 - discount), discount)
    flags += sample_reasons(policy, episodes)
    if reduction == "min" and critics > 1:
        flags.append(f"pessimistic variant: the smallest of {critics} critics, not an estimate of the value")
    return DirectEstimate(
        method="fqe",
        value=float(per_state.mean()),
        per_initial_state=per_state,
        q=watch.q,
        v=watch.v,
        replicates=refits,
        per_seed=per_head[:seeds].mean(-1),
        diagnostics={"updates": float(updates), "tau": rate, **diagnostics},
        flags=flags,
        return_quantiles=watch.return_quantiles() if quantiles > 1 else None,
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
