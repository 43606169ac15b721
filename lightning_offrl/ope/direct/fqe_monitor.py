"""Values of a fitted Q in raw rewards, and signs that the fit is not to be relied on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.losses.quantiles import quantile_levels
from lightning_offrl.ope.direct.estimate import chunks, first_masks, first_observations, largest_return
from lightning_offrl.ope.policies.expectation import weighted_actions
from lightning_offrl.rng import mix

if TYPE_CHECKING:
    from lightning_offrl.ope.direct.fqe_algorithm import FQE

SAMPLES = 16
"""Actions per observation of a stochastic continuous policy when the fitted Q is read."""
RECORD_SAMPLES = 4
"""Actions per observation in the records that are made during the fit."""


@dataclass
class FQEMonitor:
    """Reads a fit in raw rewards, records its progress on fixed states and held-out steps, and flags a bad fit.

    Args:
        module: The fit.
        episodes: The episodes whose first states are evaluated.
        columns: All transitions, with transformed rewards.
        probe: The rows on which the Bellman error is measured.
        seeds: The number of heads, counted from the first, whose mean is the estimate.
        transform: The scale and shift of the rewards.
        seed: The seed of the policy's actions.
    """

    module: FQE
    episodes: Episodes
    columns: TensorDictBase
    probe: Tensor
    seeds: int
    transform: tuple[float, float]
    seed: int
    trace: list[Tensor] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    clipped: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(mix(self.seed, 0xFE))
        policy = self.module.policy_evaluated
        self.first = first_observations(self.episodes)
        masks = first_masks(self.episodes)
        self.first_actions = weighted_actions(policy, self.first, SAMPLES, generator, masks)
        picked = torch.randperm(self.episodes.n_episodes, generator=generator)[:256]
        some, allowed = self.first[picked], None if masks is None else masks[picked]
        self.followed = some, *weighted_actions(policy, some, RECORD_SAMPLES, generator, allowed)
        rows = self.probe[torch.randperm(len(self.probe), generator=generator)[:1024]]
        table = self.columns[rows]
        if table.get(("next", "policy_action"), None) is None:
            mask = table.get(("next", "action_mask"), None)
            action, weight = weighted_actions(policy, table["next", "observation"], RECORD_SAMPLES, generator, mask)
            table["next", "policy_action"] = action if policy.discrete else action.float()
            table["next", "policy_weight"] = weight.float()
        self.table = table

    @torch.no_grad()
    def read(self, observation: Any, action: Tensor, weight: Tensor) -> Tensor:
        """Per head, ``[S, B]`` float64 in raw rewards: ``sum_p weight_p Q(s, a_p)`` of the target network."""
        scale, shift = self.transform
        parts = []
        for i in chunks(len(weight), action.shape[1] * len(self.module.lead or (1,))):
            value = self.particles(observation[i], action[i]).mean((1, -1))  # [S, B, P]
            parts.append((weight[i] * value).sum(-1))
        return (torch.cat(parts, -1) - shift * self.module.scale) / scale

    def particles(self, observation: Any, action: Tensor) -> Tensor:
        """``[S, N, B, P, m]`` float64, in transformed rewards."""
        seen = self.module.normalizer(observation)
        lead, batch = self.module.lead, action.shape[0]
        if lead:
            seen = seen.expand(*lead, batch, *seen.shape[1:]) if isinstance(seen, Tensor) else seen.expand(*lead, batch)
            action = action.expand(*lead, *action.shape)
        value = self.module.value(seen, action).double()
        return value if lead else value.unsqueeze(0)

    def first_values(self) -> Tensor:
        """``[S, E]``: V at the first state of every episode."""
        return self.read(self.first, *self.first_actions)

    def record(self) -> None:
        """Record the value, the Bellman error and the share of clipped targets as they are now."""
        self.trace.append(self.read(*self.followed).mean(-1))
        lead = self.module.lead
        table = self.table.expand(*lead, len(self.table))
        block = self.module.prepare(table.unsqueeze(0)).squeeze(0)
        with torch.no_grad():
            target, weight, clipped = self.module.targets_of(block)
            if self.module.hparams["quantiles"] > 1:
                target = (weight * target).sum(-1)
            axis = -2 if self.module.action_kind == "box" else -1
            found = self.module.value(block["observation"], block["action"].unsqueeze(axis)).mean((-4, -1)).squeeze(-1)
        error = (found - target).double().square().mean(-1).sqrt().expand(lead or (1,))
        self.errors.append(float(error[: self.seeds].mean()) / self.transform[0])
        self.clipped.append(float(clipped.expand(lead or (1,))[: self.seeds].mean()))

    def diagnose(self, per_head: Tensor, sweeps: float, discount: float) -> tuple[dict[str, float], list[str]]:
        """Numbers that describe the fit, and a sentence for each sign that it is not to be relied on.

        Args:
            per_head: ``[S, E]``, the values of the first states.
            sweeps: The number of time constants ``1 / (tau (1 - gamma))`` in the fit.
            discount: gamma.
        """
        returns, best = largest_return(self.episodes, discount)
        spread = max(float(returns.max() - returns.min()), 1e-12)
        values = torch.stack(self.trace)[:, : self.seeds].mean(-1)
        value, before = float(values[-1]), float(values[-1 - max(1, len(values) // 5)])
        drift = abs(value - before) / max(abs(value), float(returns.std(correction=0)), 1e-12)
        heads = per_head[: self.seeds].mean(-1)
        value = float(heads.mean())
        apart = float(heads.max() - heads.min())
        fifth = max(1, len(self.errors) // 5)
        middle = self.errors[2 * fifth : 3 * fifth] or self.errors
        rise = (sum(self.errors[-fifth:]) / fifth) / max(sum(middle) / len(middle), 1e-12)
        numbers = {
            "drift": drift,
            "clipped": self.clipped[-1],
            "clipped_most": max(self.clipped),
            "td_error": self.errors[-1],
            "td_error_rise": rise,
            "seeds_apart": apart,
            "largest_return": best,
        }
        flags = []
        if not bool(per_head.isfinite().all()):
            flags.append("values are not finite: the fit has diverged")
        if drift > 0.05:
            flags.append(f"the value still moved by {drift:.0%} over the last fifth of the updates")
        if sweeps < 3.0:
            flags.append(
                f"too few updates for this tau: {sweeps:.1f} time constants 1 / (tau (1 - gamma)), 3 are needed"
            )
        if self.clipped[-1] > 0.01:
            flags.append(
                f"{self.clipped[-1]:.0%} of the targets lie outside what the rewards can add up to, and are cut"
            )
        if value > best + 1e-6 * max(1.0, abs(best)):
            flags.append(f"the value {value:.4g} is above the largest discounted return in the data, {best:.4g}")
        if rise > 1.5:
            flags.append(f"the Bellman error on held-out episodes grew {rise:.1f}-fold in the second half")
        if self.seeds > 1 and apart > 0.2 * spread:
            flags.append(f"seeds differ by {apart:.4g}, over 20 % of the range of returns, {spread:.4g}")
        return numbers, flags

    def q(self, of: Episodes) -> Tensor:
        """Q of every logged pair, ``[T]``."""
        action = of.data["action"].unsqueeze(1)
        weight = torch.ones(len(of), 1, dtype=torch.float64)
        return self.read(of.data["observation"], action, weight)[: self.seeds].mean(0)

    def v(self, observation: Any, action_mask: Tensor | None = None) -> Tensor:
        """V of raw observations, ``[B]``."""
        generator = torch.Generator().manual_seed(mix(self.seed, 0xFF))
        found = weighted_actions(self.module.policy_evaluated, observation, SAMPLES, generator, action_mask)
        return self.read(observation, *found)[: self.seeds].mean(0)

    @torch.no_grad()
    def return_quantiles(self) -> Tensor:
        """Quantiles ``(i + 1/2) / m`` of the return from the first states, ``[m]``, raw rewards."""
        action, weight = self.first_actions
        value = self.particles(self.first, action)[: self.seeds]  # [S, N, E, P, m]
        share = (weight.unsqueeze(-1) / value.shape[-1]).expand(value.shape)
        flat, order = value.flatten().sort()
        reached = share.flatten()[order].cumsum(0)
        level = quantile_levels(value.shape[-1], reached) * reached[-1]
        scale, shift = self.transform
        at = torch.searchsorted(reached, level).clamp(max=len(flat) - 1)
        return (flat[at] - shift * self.module.scale) / scale
