"""DICE, experimental: the ratio of state-action distributions, by the regularized Lagrangian.

Yang, Nachum, Dai, Li and Schuurmans, 2020, https://arxiv.org/abs/2007.03438:

    min over nu, lambda, max over zeta >= 0 of
        (1 - gamma) E_{s0, a ~ pi}[nu] + E_D[zeta (r + gamma nu(s', pi) - nu - lambda)] + lambda - alpha E_D[zeta^2] / 2

nu is the multiplier of the flow equations, lambda that of ``E_D[zeta] = 1``. The solution ``zeta = d_pi / d_D`` gives
``V = E_D[zeta r] / (1 - gamma)`` without a product of weights. This is the combination its authors recommend in their
README (regularized dual, reward and normalization on, zeta a square). nu is not Q: the regularization shifts it.

Where a step ends the episode, all later time is spent in a state outside the data that pays nothing. Its share follows
from zeta: with c = 1 + terminated gamma / (1 - gamma), it is ``E_D[zeta c] = 1`` that is normalized, and ``lambda c``
that stands above; without ends c is 1.

All three take one step at once, on one batch, by Adam without momentum (betas 0 and .99, as DOPE's DualDICE), because
momentum makes play between them circle; zeta is read from a Polyak average. On a process of four states and 3,000
updates, betas of 0.9 and 0.999 ended at a mass of 0.88 and errors of 15 %, these at 1.00 and 0.1 %.
A minimax problem has no loss that shows whether it is solved. The mass, the drift and other seeds do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from lightning_offrl.batch import TRANSITION, Spec
from lightning_offrl.data.bootstrap import EpisodeBootstrap, times_picked
from lightning_offrl.data.clusters import ClusterLabels, numbered
from lightning_offrl.data.datamodule import OfflineDataModule, fit_normalizer
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.rewards import RewardTransform
from lightning_offrl.errors import InputError
from lightning_offrl.networks.action_values import action_value
from lightning_offrl.ope.checks.sample_check import sample_reasons
from lightning_offrl.ope.direct.base import PolicyEvaluationAlgorithm
from lightning_offrl.ope.direct.estimate import DirectEstimate, check_estimand, chunks, first_masks, first_observations
from lightning_offrl.rng import mix
from lightning_offrl.training.fit import fit_without_trainer, linear_decay
from lightning_offrl.training.old_code import takes_old_settings
from lightning_offrl.training.target_update import SoftTargetUpdate

if TYPE_CHECKING:
    from lightning_offrl.ope.policies.target import TargetPolicy


class Multiplier(nn.Module):
    """A parameter that is one number."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.zeros(()))

    def forward(self) -> Tensor:
        """``[*lead]``."""
        return self.number


class DICE(PolicyEvaluationAlgorithm):
    """The regularized Lagrangian for the policy given to `of`, from the first states given to `starting_at`.

    Args:
        spec: The spaces, with either kind of action.
        discount: gamma, the same as the data module's.
        dual_regularizer: alpha.
        nu_learning_rate: The learning rate of nu (authors' scripts: 1e-4 for 100,000 updates of batches of 2048).
        zeta_learning_rate: The learning rate of zeta, which ascends.
        lambda_learning_rate: The learning rate of lambda.
        decay: The first and last update of a linear decay of all learning rates to 0; None: constant.
        tau: The rate of the Polyak average from which zeta is read.
        hidden: The widths of both networks (authors' scripts: 64, 64); none: linear.
        **common: see `PolicyEvaluationAlgorithm` and `OfflineAlgorithm`.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        discount: float = 0.99,
        dual_regularizer: float = 1.0,
        nu_learning_rate: float = 1e-3,
        zeta_learning_rate: float = 1e-3,
        lambda_learning_rate: float = 1e-3,
        decay: tuple[int, int] | None = None,
        tau: float = 0.005,
        hidden: tuple[int, ...] = (64, 64),
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        if not 0.0 <= discount < 1.0:
            raise InputError(f"density ratios need a discount in [0, 1), got {discount}")
        self.nu = self.network(lambda: action_value(spec, self.encoder(), hidden))
        self.zeta = self.network(lambda: action_value(spec, self.encoder(), hidden))
        self.zeta_target = self.target_of("zeta")
        self.multiplier = self.network(Multiplier)
        self._first: tuple[Any, Sequence[Tensor] | None, Tensor | None] | None = None

    def starting_at(self, observations: Any, rows: Sequence[Tensor] | None = None, masks: Tensor | None = None) -> Self:
        """Set the states in which episodes begin.

        Args:
            observations: raw, ``[E, ...]``.
            rows: ``[n]`` for each stacked head: which of these it draws from.
            masks: legal actions ``[E, n]``, where the log has them.
        """
        self._first = (observations, rows, masks)
        return self

    def prepare(self, block: TensorDictBase) -> TensorDictBase:
        """Add the policy's actions, and as many first states with the policy's actions there."""
        if self._first is None:
            raise InputError("DICE needs the first states of episodes: say which with .starting_at(observations)")
        block = super().prepare(block)
        observations, rows, masks = self._first
        size = block.batch_size[-1]
        shape = (block.batch_size[0], *self.lead)
        picked, actions, weights = [], [], []
        for k in range(shape[0]):
            for head in range(self.draws.seeds):
                generator = torch.Generator().manual_seed(mix(self.draws.seed + head, self.updates + k, 0xD1CE))
                count = len(observations) if rows is None else len(rows[head])
                index = torch.randint(count, (size,), generator=generator)
                index = index if rows is None else rows[head][index]
                legal = None if masks is None else masks[index]
                action, weight = self.actions_at(observations[index], generator, legal)
                picked.append(self.normalizer(observations[index]))
                actions.append(action)
                weights.append(weight)
        block["first"] = torch.stack(picked).unflatten(0, shape)
        block["first_action"] = torch.stack(actions).unflatten(0, shape)
        block["first_weight"] = torch.stack(weights).unflatten(0, shape)
        return block

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """One simultaneous step: down in nu and lambda, up in zeta."""
        discount, following = batch["discount"], batch["next"]
        obs, action = batch["observation"], batch["action"].unsqueeze(-2 if self.action_kind == "box" else -1)
        first = (batch["first_weight"] * self._nu(batch["first"], batch["first_action"])).sum(-1)
        after = (following["policy_weight"] * self._nu(following["observation"], following["policy_action"])).sum(-1)
        ended = following["terminated"].to(after.dtype)
        zeta = self.ratio(obs, action, self.zeta)
        share = 1.0 + ended * discount / (1.0 - discount)
        multiplier = self.multiplier().unsqueeze(-1)
        flow = following["reward"] + discount * (1.0 - ended) * after - self._nu(obs, action).squeeze(-1)
        value = (
            (1.0 - discount) * first
            + zeta * (flow - multiplier * share)
            + multiplier
            - 0.5 * self.hparams["dual_regularizer"] * zeta.square()
        ).mean(-1)
        self.minimize(nu=value.sum(), zeta=-value.sum(), multiplier=value.sum())
        return {
            "lagrangian": value,
            "mass": (zeta * share).mean(-1),
            "zeta": zeta.mean(-1),
            "lambda": self.multiplier(),
        }

    def _nu(self, observation: Any, action: Tensor) -> Tensor:
        return self.nu(observation, action)[..., 0, :, :, 0]

    def ratio(self, observation: Any, action: Tensor, network: nn.Module | None = None) -> Tensor:
        """Ratios of normalized observations and one action each, ``[*lead, B]``."""
        network = self.zeta_target if network is None else network
        return network(observation, action)[..., 0, :, 0, 0].square()

    def configure_optimizers(self) -> Any:
        """One Adam each, without momentum."""
        hp, betas = self.hparams, (0.0, 0.99)
        return self.named_optimizers(
            linear_decay(hp["decay"], "nu", "zeta", "multiplier"),
            nu=self.adam(self.nu, hp["nu_learning_rate"], betas=betas),
            zeta=self.adam(self.zeta, hp["zeta_learning_rate"], betas=betas),
            multiplier=self.adam(self.multiplier, hp["lambda_learning_rate"], betas=betas),
        )

    def configure_callbacks(self) -> Any:
        """The average of zeta."""
        return self.default_callbacks(SoftTargetUpdate(tau=self.hparams["tau"]))


@dataclass
class RatioEstimate(DirectEstimate):
    """A `DirectEstimate` whose ``q``, ``v`` and ``per_initial_state`` do not exist: zeta is all that was fitted.

    Attributes:
        ratio: episodes to ``[T]`` float64, zeta of every logged pair, with ``E_D[zeta c] = 1`` enforced.
    """

    has_values: ClassVar[bool] = False
    ratio: Callable[[Episodes], Tensor] = field(default=lambda episodes: torch.empty(0))


@dataclass(frozen=True)
class DICESettings:
    """The networks of `dice` and how they are trained.

    Attributes:
        hidden: The widths of the hidden layers of both networks; none: linear.
        dual_regularizer: alpha.
        samples: The number of actions per observation of a stochastic continuous policy.
        learning_rate: The learning rate of all three Adams for the first half of the updates. Then it falls to 0.
        batch_size: The number of rows for each fit and update.
        tau: The rate of the Polyak average from which zeta is read.
    """

    hidden: tuple[int, ...] = (64, 64)
    dual_regularizer: float = 1.0
    samples: int = 1
    learning_rate: float = 1e-3
    batch_size: int = 1024
    tau: float = 0.005


@torch.inference_mode(False)
@takes_old_settings(DICESettings)
def dice(
    policy: TargetPolicy,
    episodes: Episodes,
    *,
    discount: float,
    updates: int = 20_000,
    seeds: int = 1,
    replicates: int = 0,
    settings: DICESettings | None = None,
    clusters: ClusterLabels | None = None,
    seed: int = 0,
) -> RatioEstimate:
    """The value of a policy by its density ratio. Experimental: judge it by its mass and against other methods.

    Args:
        policy: The policy to evaluate.
        episodes: The data, with raw rewards.
        discount: gamma, below 1.
        updates: The number of gradient updates.
        seeds: The number of fits to the data itself; the estimate is their mean.
        replicates: The number of further fits, each to its own resample of the episodes.
        settings: The networks and their training; None: the defaults of `DICESettings`.
        clusters: ``[E]`` labels of the cluster of each episode: whole clusters are resampled.
        seed: The seed of all random numbers.

    Returns:
        ``V = sum zeta r / (sum zeta c) / (1 - gamma)``, divided by the fitted mass.

    Raises:
        InputError: a discount of 1, or actions of another kind than the policy's.
    """
    if discount >= 1.0:
        raise InputError(f"density ratios need a discount below 1, got {discount}")
    check_estimand(policy, episodes, discount, largest=1.0)
    std = float(episodes.data["next", "reward"].double().std(correction=0))
    scale = 1.0 / std if std > 1e-8 else 1.0
    columns = OfflineDataModule(episodes, discount=discount, reward=RewardTransform(scale)).columns(TRANSITION)
    chosen = settings or DICESettings()
    module = DICE(
        episodes.spec,
        discount=discount,
        dual_regularizer=chosen.dual_regularizer,
        nu_learning_rate=chosen.learning_rate,
        zeta_learning_rate=chosen.learning_rate,
        lambda_learning_rate=chosen.learning_rate,
        decay=(updates // 2, updates),
        tau=chosen.tau,
        hidden=chosen.hidden,
        samples=chosen.samples,
        seeds=seeds + replicates,
        seed=seed,
    ).of(policy)
    fit_normalizer(module, episodes)
    together = numbered(clusters, episodes.n_episodes)
    sampler = EpisodeBootstrap(episodes.start, episodes.length, chosen.batch_size, seed, seeds, replicates, together)
    module.starting_at(first_observations(episodes), [row[row >= 0] for row in sampler.episodes], first_masks(episodes))
    times = times_picked(sampler.episodes, episodes.n_episodes)
    weight = times[:, episodes.episode_index()]
    reward = episodes.data["next", "reward"].double()
    share = 1.0 + episodes.data["next", "terminated"].double() * discount / (1.0 - discount)
    trace: list[Tensor] = []

    def measure() -> tuple[Tensor, Tensor]:
        zeta = _ratios(module, episodes)
        mass = (weight * zeta * share).sum(-1) / weight.sum(-1)
        return (weight * zeta * reward).sum(-1) / weight.sum(-1) / mass / (1.0 - discount), mass

    def record() -> None:
        trace.append(measure()[0])

    fit_without_trainer(module, columns, sampler, updates, targets=SoftTargetUpdate(chosen.tau), looks=10, look=record)
    values, mass = measure()
    value, own = float(values[:seeds].mean()), mass[:seeds]
    zeta = _ratios(module, episodes)[:seeds].mean(0)
    before = float(trace[-3][:seeds].mean())
    diagnostics = {
        "updates": float(updates),
        "mass": float(own.mean()),
        "largest_ratio": float(zeta.max()),
        "effective_share": float(zeta.sum().square() / zeta.square().sum() / len(zeta)),
        "drift": abs(value - before) / max(abs(value), 1e-12),
        "seeds_apart": float(values[:seeds].max() - values[:seeds].min()),
    }
    flags = sample_reasons(policy, episodes)
    if bool((own < 0.95).any() | (own > 1.05).any()):
        flags.append(f"the ratios add up to {diagnostics['mass']:.3g} where 1 is right: not converged, or not covered")
    if diagnostics["drift"] > 0.05:
        flags.append(f"the value still moved by {diagnostics['drift']:.0%} over the last fifth of the updates")
    if not bool(values.isfinite().all()):
        flags.append("values are not finite: the fit has diverged")

    def none(*_: Any) -> Tensor:
        raise InputError("dice fits ratios of densities, not values; take q and v from fqe or lstd")

    return RatioEstimate(
        method="dice",
        value=value,
        per_initial_state=torch.full((episodes.n_episodes,), torch.nan, dtype=torch.float64),
        q=none,
        v=none,
        replicates=values[seeds:] if replicates else None,
        counts=times[seeds:] if replicates else None,
        per_seed=values[:seeds],
        diagnostics=diagnostics,
        flags=flags,
        ratio=lambda of: _ratios(module, of)[:seeds].mean(0) / own.mean(),
        clusters=None if together is None else together.index,
    )


@torch.no_grad()
def _ratios(module: DICE, episodes: Episodes) -> Tensor:
    """Ratios of every logged pair, per head, ``[S, T]`` float64."""
    lead, parts = module.lead, []
    for rows in chunks(len(episodes), (lead or (1,))[0]):
        seen = module.normalizer(episodes.data["observation"][rows])
        action = episodes.data["action"][rows].unsqueeze(1)
        if lead:
            size = len(action)
            seen = seen.expand(*lead, *seen.shape) if isinstance(seen, Tensor) else seen.expand(*lead, size)
            action = action.expand(*lead, *action.shape)
        found = module.ratio(seen, action).double()
        parts.append(found if lead else found.unsqueeze(0))
    return torch.cat(parts, -1)
