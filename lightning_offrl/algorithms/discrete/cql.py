"""Conservative Q-Learning of discrete actions: CQL(H) on double DQN (Kumar, Zhou, Tucker and Levine, 2020).

https://arxiv.org/abs/2006.04779

    Q   min  sum_i E[ huber(y - Q_i(s, a)) + weight (log sum_b exp Q_i(s, b) - Q_i(s, a)) ]        eq. 4
        y = r + gamma (1 - terminated) Q'(s', b),  b = argmax_b Q(s', b)

One update runs Q, then the target moves. The log-sum-exp is exact, there are no sampled actions and no densities; it
and both maxima respect ``action_mask``. With weight 0 this is the page DQN.

Where it ends, if Q is a table and pi_b the data's shares (`envs.tabular_learning`; `benchmarks/results/gridworld`):

    Q = r + gamma P max Q - weight (softmax Q / pi_b - 1)

- Huber's loss pulls with at most its threshold, so where the last term asks for more, nothing stops Q from falling.
  With n actions equally likely in the data it asks for up to weight (n - 1): keep that below the threshold, or take
  ``huber_threshold: null``.
- max Q is below the greedy policy's true value where softmax Q takes its action at least as often as the data do.
  Theorem 3.2 of the paper, a bound for any weight, is about the evaluation of a fixed policy (eq. 2) and not this.

Differences from aviralkumar2907/CQL (atari/batch_rl), known from the paper's section 5 and not from its source: critics
of expected values where theirs are quantile networks; Huber's loss at threshold 1 on the expected value
(``huber_threshold: null`` is eq. 4's half square); Polyak targets; several critics as in DQN.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.batch import Spec
from lightning_offrl.losses.discrete import double_q, legal, log_sum_exp_gap, of_action
from lightning_offrl.losses.values import huber, td_target
from lightning_offrl.networks.discrete import DiscreteCritics
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.target_update import SoftTargetUpdate


class DiscreteCQL(OfflineAlgorithm):
    """CQL(H) on double DQN.

    Args:
        spec: the spaces, linked from the data; discrete actions.
        weight: The weight of the conservative term (paper, Atari: 1 with 10 % of the data, 4 with 1 %).
        critics: Q networks.
        huber_threshold: error at which the square becomes a line; null: half the squared error, as in eq. 4.
        learning_rate: The learning rate of Adam.
        hidden: widths of the hidden layers.
        **common: see `OfflineAlgorithm`.
    """

    action_kind = "discrete"
    acting = ("normalizer", "q")

    counterpart = "CQL"
    remedy = "raise model.weight"

    def __init__(
        self,
        spec: Spec,
        *,
        weight: float = 1.0,
        critics: int = 1,
        huber_threshold: float | None = 1.0,
        learning_rate: float = 3e-4,
        hidden: tuple[int, ...] = (256, 256),
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        self.q = self.network(lambda: DiscreteCritics(self.encoder(), spec["action_size"], hidden, critics))
        self.q_target = self.target_of("q")

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """One step on temporal difference and conservative term."""
        hp = self.hparams
        next_obs = batch["next", "observation"]
        with torch.no_grad():
            next_q = double_q(self.q(next_obs), self.q_target(next_obs), batch.get(("next", "action_mask"), None))
        target = td_target(batch["next", "reward"], batch["next", "terminated"], next_q, batch["discount"])
        all_q = self.q(batch["observation"])
        q = of_action(all_q, batch["action"])
        td_loss = huber(target.unsqueeze(-2) - q, hp["huber_threshold"]).mean(-1).sum(-1)
        gap = log_sum_exp_gap(all_q, batch["action"], batch.get("action_mask", None)).mean(-1).sum(-1)
        q_loss = td_loss + hp["weight"] * gap
        self.minimize(q=q_loss.sum())
        return {"q_loss": q_loss, "td_loss": td_loss, "conservative": gap, "q": q.mean((-2, -1))}

    def act(self, observation: Any, action_mask: Tensor | None = None) -> Tensor:
        """The legal action with the largest Q (the critics' mean)."""
        return legal(self.q(self.normalizer(observation)).mean(-3), action_mask).argmax(-1)

    def configure_optimizers(self) -> Any:
        """One Adam."""
        return self.named_optimizers(q=self.adam(self.q, self.hparams["learning_rate"]))

    def configure_callbacks(self) -> Any:
        """Polyak averaging after every update."""
        return self.default_callbacks(SoftTargetUpdate(tau=0.005))
