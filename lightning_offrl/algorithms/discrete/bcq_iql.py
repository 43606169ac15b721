"""IQL's values with discrete BCQ's filter: among the actions that the data supports, the one that IQL values most.

Kostrikov, Nair and Levine, 2021, https://arxiv.org/abs/2110.06169;
Fujimoto, Conti, Ghavamzadeh and Pineau, 2019, https://arxiv.org/abs/1910.01708

    V       min  E[ L_tau(Q'(s, a) - V(s)) ]                                              IQL, eq. 5
    policy  min  E[ -log pi(a|s) + penalty mean_b logit_b(s)^2 ]                          imitation of the behavior
    Q       min  sum_i E[ (r + gamma (1 - terminated) V(s') - Q_i(s, a))^2 ]              IQL, eq. 6
    acts by argmax of min_i Q_i(s, b) over b with pi(b|s) / max_c pi(c|s) >= threshold    BCQ, Algorithm 1

Q' is the smaller of two target critics. One update runs V, imitation, Q (with the new V), then the targets move.
Training evaluates actions of the data only; the filter serves to act, and the policy needs no exponential weights.
Threshold 1 acts as behavior cloning. ``action_mask`` is respected by imitation and acting.

A hybrid of this package: there is no authors' code.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.batch import Spec
from lightning_offrl.errors import InputError
from lightning_offrl.losses.discrete import legal, of_action, supported
from lightning_offrl.losses.values import expectile, td_target
from lightning_offrl.networks.critics import Value
from lightning_offrl.networks.discrete import Categorical, CategoricalPolicy, DiscreteCritics
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.target_update import SoftTargetUpdate


class DiscreteBCQIQL(OfflineAlgorithm):
    """IQL's Q over the actions that discrete BCQ would allow.

    Args:
        spec: the spaces, linked from the data; discrete actions.
        expectile: tau of IQL's eq. 5.
        threshold: least probability relative to the most likely action, in [0, 1] (BCQ: 0.3).
        logit_penalty: weight of the mean squared logit (BCQ: 1e-2).
        learning_rate: The learning rate of all three Adams.
        hidden: widths of the hidden layers.
        **common: see `OfflineAlgorithm`.

    Raises:
        InputError: if the threshold is not in [0, 1].
    """

    action_kind = "discrete"
    acting = ("normalizer", "policy", "q")

    counterpart = "IQLBCQ"
    remedy = "raise model.threshold, or lower model.expectile"

    def __init__(
        self,
        spec: Spec,
        *,
        expectile: float = 0.7,
        threshold: float = 0.3,
        logit_penalty: float = 1e-2,
        learning_rate: float = 3e-4,
        hidden: tuple[int, ...] = (256, 256),
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        if not 0.0 <= threshold <= 1.0:
            raise InputError(f"model.threshold is a ratio of probabilities and must lie in [0, 1], got {threshold}")
        actions = spec["action_size"]
        self.q = self.network(lambda: DiscreteCritics(self.encoder(), actions, hidden))
        self.q_target = self.target_of("q")
        self.v = self.network(lambda: Value(self.encoder(), hidden))
        self.policy = self.network(lambda: CategoricalPolicy(self.encoder(), actions, hidden))

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """V, imitation, Q."""
        hp = self.hparams
        obs, action = batch["observation"], batch["action"]

        with torch.no_grad():
            q_min = of_action(self.q_target(obs), action).amin(-2)  # [N, B] -> [B]
        v_loss = expectile(q_min - self.v(obs), hp["expectile"]).mean(-1)
        self.minimize(v=v_loss.sum())

        logits = self.policy.logits(obs)
        log_prob = Categorical(legal(logits, batch.get("action_mask", None))).log_prob(action)
        policy_loss = -log_prob.mean(-1) + hp["logit_penalty"] * logits.square().mean((-2, -1))
        self.minimize(policy=policy_loss.sum())

        with torch.no_grad():
            next_v = self.v(batch["next", "observation"])
        target = td_target(batch["next", "reward"], batch["next", "terminated"], next_v, batch["discount"])
        q_loss = (of_action(self.q(obs), action) - target.unsqueeze(-2)).square().mean(-1).sum(-1)
        self.minimize(q=q_loss.sum())
        return {"v_loss": v_loss, "policy_loss": policy_loss, "q_loss": q_loss, "q": q_min.mean(-1)}

    def act(self, observation: Any, action_mask: Tensor | None = None) -> Tensor:
        """The action with the largest min-Q among the legal and supported ones."""
        obs = self.normalizer(observation)
        support = supported(self.policy.logits(obs), self.hparams["threshold"], action_mask)
        return legal(self.q(obs).amin(-3), support).argmax(-1)

    def configure_optimizers(self) -> Any:
        """One Adam per network."""
        rate = self.hparams["learning_rate"]
        return self.named_optimizers(
            v=self.adam(self.v, rate), policy=self.adam(self.policy, rate), q=self.adam(self.q, rate)
        )

    def configure_callbacks(self) -> Any:
        """Polyak averaging after every update."""
        return self.default_callbacks(SoftTargetUpdate(tau=0.005))
