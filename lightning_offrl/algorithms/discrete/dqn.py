"""Double DQN on logged data: naive offline Q-learning, the baseline that the others must beat.

Mnih et al., 2015, https://doi.org/10.1038/nature14236; van Hasselt, Guez and Silver, 2016,
https://arxiv.org/abs/1509.06461

    Q   min  sum_i E[ huber(y - Q_i(s, a)) ]
        y = r + gamma (1 - terminated) Q'(s', b),  b = argmax_b Q(s', b)          van Hasselt et al., eq. 4

One update runs Q, then the target moves. Nothing keeps b within the data: where the log misses an action, its value is
whatever the network makes up, and the maximum prefers what is made up too high. The maximum respects ``action_mask``.

Differences from the papers: no exploration, as there is no environment; the loss is Huber's (smooth-L1 at
``huber_threshold`` 1) on the error itself; the target follows by Polyak averaging (for copies every 8,000 updates, as
on Atari, give the trainer ``SoftTargetUpdate(tau=1, period=8000)``); with several critics their mean chooses the next
action and the smallest target values it.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.batch import Spec
from lightning_offrl.losses.discrete import double_q, legal, of_action
from lightning_offrl.losses.values import huber, td_target
from lightning_offrl.networks.discrete import DiscreteCritics
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.target_update import SoftTargetUpdate


class DQN(OfflineAlgorithm):
    """Double DQN without anything against unseen actions.

    Args:
        spec: the spaces, linked from the data; discrete actions.
        critics: Q networks; 1 is DQN.
        huber_threshold: error at which the square becomes a line; null: half the squared error.
        learning_rate: The learning rate of Adam.
        hidden: widths of the hidden layers.
        **common: see `OfflineAlgorithm`.
    """

    action_kind = "discrete"
    acting = ("normalizer", "q")
    remedy = "nothing holds it to the data: take DiscreteCQL or DiscreteBCQ"

    def __init__(
        self,
        spec: Spec,
        *,
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
        """One step on the temporal-difference error."""
        next_obs = batch["next", "observation"]
        with torch.no_grad():
            next_q = double_q(self.q(next_obs), self.q_target(next_obs), batch.get(("next", "action_mask"), None))
        target = td_target(batch["next", "reward"], batch["next", "terminated"], next_q, batch["discount"])
        q = of_action(self.q(batch["observation"]), batch["action"])
        q_loss = huber(target.unsqueeze(-2) - q, self.hparams["huber_threshold"]).mean(-1).sum(-1)
        self.minimize(q=q_loss.sum())
        return {"q_loss": q_loss, "q": q.mean((-2, -1)), "target": target.mean(-1)}

    def act(self, observation: Any, action_mask: Tensor | None = None) -> Tensor:
        """The legal action with the largest Q (the critics' mean)."""
        return legal(self.q(self.normalizer(observation)).mean(-3), action_mask).argmax(-1)

    def configure_optimizers(self) -> Any:
        """One Adam."""
        return self.named_optimizers(q=self.adam(self.q, self.hparams["learning_rate"]))

    def configure_callbacks(self) -> Any:
        """Polyak averaging after every update."""
        return self.default_callbacks(SoftTargetUpdate(tau=0.005))
