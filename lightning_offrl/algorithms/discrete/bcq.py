"""Batch-Constrained Q-Learning of discrete actions (Fujimoto, Conti, Ghavamzadeh and Pineau, 2019).

https://arxiv.org/abs/1910.01708

    policy  min  E[ -log pi(a|s) + penalty mean_b logit_b(s)^2 ]       imitation of the behavior
    Q       min  E[ huber(y - Q(s, a)) ]
            y = r + gamma (1 - terminated) Q'(s', b)
            b = argmax of Q(s', b) over b with pi(b|s') / max_c pi(c|s') >= threshold     Algorithm 1

The online Q chooses b, the target values it. Both losses are differentiated at the same values and stepped together,
then the target moves. Threshold 0 is double DQN, 1 imitates. ``action_mask`` is respected by imitation and maxima.

Checked against sfujim/BCQ (discrete_BCQ/discrete_BCQ.py). Differences: ``>=`` where theirs has ``>``, which keeps
no action at all at threshold 1; -inf instead of -1e8 for excluded actions; acts greedily (theirs is random 1 time in
1,000 on Atari); with an ``encoder``, Q and imitation train their own copies (theirs share the convolutions). Defaults
are those of their vector environments (batch 64 there).
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.batch import Spec
from lightning_offrl.errors import InputError
from lightning_offrl.losses.discrete import double_q, legal, of_action, supported
from lightning_offrl.losses.values import huber, td_target
from lightning_offrl.networks.discrete import Categorical, CategoricalPolicy, DiscreteCritics
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.target_update import SoftTargetUpdate


class DiscreteBCQ(OfflineAlgorithm):
    """BCQ of discrete actions.

    Args:
        spec: the spaces, linked from the data; discrete actions.
        threshold: least probability relative to the most likely action, in [0, 1] (authors: 0.3).
        logit_penalty: weight of the mean squared logit (authors: 1e-2).
        learning_rate: The learning rate of both Adams (authors: 3e-4; Atari 6.25e-5 with eps 1.5e-4).
        hidden: widths of the hidden layers.
        **common: see `OfflineAlgorithm`.

    Raises:
        InputError: if the threshold is not in [0, 1].
    """

    action_kind = "discrete"
    acting = ("normalizer", "policy", "q")

    counterpart = "BCQ"
    remedy = "raise model.threshold"

    def __init__(
        self,
        spec: Spec,
        *,
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
        self.q = self.network(lambda: DiscreteCritics(self.encoder(), actions, hidden, count=1))
        self.q_target = self.target_of("q")
        self.policy = self.network(lambda: CategoricalPolicy(self.encoder(), actions, hidden))

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Q and imitation, together."""
        hp = self.hparams
        obs, action, next_obs = batch["observation"], batch["action"], batch["next", "observation"]

        with torch.no_grad():
            next_mask = batch.get(("next", "action_mask"), None)
            support = supported(self.policy.logits(next_obs), hp["threshold"], next_mask)
            next_q = double_q(self.q(next_obs), self.q_target(next_obs), support)
        target = td_target(batch["next", "reward"], batch["next", "terminated"], next_q, batch["discount"])
        q = of_action(self.q(obs), action)
        q_loss = huber(target.unsqueeze(-2) - q).mean(-1).sum(-1)

        logits = self.policy.logits(obs)
        log_prob = Categorical(legal(logits, batch.get("action_mask", None))).log_prob(action)
        policy_loss = -log_prob.mean(-1) + hp["logit_penalty"] * logits.square().mean((-2, -1))
        self.minimize(q=q_loss.sum(), policy=policy_loss.sum())
        return {
            "q_loss": q_loss,
            "policy_loss": policy_loss,
            "q": q.mean((-2, -1)),
            "supported_actions": support.to(q.dtype).sum(-1).mean(-1),
        }

    def act(self, observation: Any, action_mask: Tensor | None = None) -> Tensor:
        """The action with the largest Q among the legal and supported ones."""
        obs = self.normalizer(observation)
        support = supported(self.policy.logits(obs), self.hparams["threshold"], action_mask)
        return legal(self.q(obs).mean(-3), support).argmax(-1)

    def configure_optimizers(self) -> Any:
        """One Adam per network."""
        rate = self.hparams["learning_rate"]
        return self.named_optimizers(q=self.adam(self.q, rate), policy=self.adam(self.policy, rate))

    def configure_callbacks(self) -> Any:
        """Polyak averaging after every update."""
        return self.default_callbacks(SoftTargetUpdate(tau=0.005))
