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
need one Q per number of steps left.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.batch import Spec
from lightning_offrl.errors import InputError
from lightning_offrl.losses.quantiles import quantile_regression
from lightning_offrl.losses.values import td_target
from lightning_offrl.networks.action_values import action_value
from lightning_offrl.ope.direct.base import PolicyEvaluationAlgorithm
from lightning_offrl.training.fit import linear_decay
from lightning_offrl.training.target_update import SoftTargetUpdate


class FQE(PolicyEvaluationAlgorithm):
    """Fitted Q evaluation of the policy given to `of`.

    It trains like every algorithm, under a ``Trainer`` with an `OfflineDataModule`, or with the function `fqe`, which
    also chooses scales, refits and flags. Stacked seeds are independent fits with their own targets.

    Args:
        spec: The spaces, with either kind of action.
        discount: gamma, the same as the data module's, and below 1.
        reward_range: The smallest and largest reward as the algorithm sees them (transformed), with 0 where episodes
            end. Targets are clipped to this range over 1 - gamma. None: no clipping.
        critics: The number N of critics.
        reduction: How the critics are joined in the target; "min" is pessimistic.
        quantiles: The number m of quantiles per action; 1 is the mean.
        learning_rate: The learning rate of AdamW (DOPE: 3e-4).
        weight_decay: The weight decay of AdamW (DOPE: 1e-5).
        tau: The Polyak rate of the target network (DOPE: 0.005).
        decay: The first and last update of a linear decay of the learning rate to 0; None: constant (DOPE).
        hidden: The widths of the hidden layers (DOPE: 256, 256).
        layer_norm: Whether hidden layers are normalized.
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
        """Check that the data module has the same discount."""
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
