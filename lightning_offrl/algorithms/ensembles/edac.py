"""EDAC (An, Moon, Kim and Song, 2021): SAC-N plus a term that keeps the critics' action gradients apart.

https://arxiv.org/abs/2110.01548

    Q       min  SAC-N's loss + eta E[ 1 / (N - 1) sum_{i != j} <dQ_i/da, dQ_j/da> ],  unit gradients   eq. 4

at the data's actions. Everything else is SAC-N. Checked against snu-mllab/EDAC: as there, the critics' own loss is a
sum over N and a mean over the batch. Difference: theirs compares min(N, A) randomly chosen critics, this page all N, as
the paper's equation does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_offrl.algorithms.ensembles.sac_n import SACN
from lightning_offrl.batch import Spec
from lightning_offrl.losses.ensembles import action_gradients, gradient_diversity


class EDAC(SACN):
    """SAC-N with diversified critics.

    Args:
        spec: the spaces, linked from the data.
        eta: weight of the diversity term (paper: 1; 5 on some medium-expert sets, Adroit up to 1000); 0 is SAC-N.
        **common: see `SACN` and `OfflineAlgorithm`.
    """

    remedy = "raise model.eta, or model.critics"

    def __init__(self, spec: Spec, *, eta: float = 1.0, **common: Any) -> None:
        super().__init__(spec, **common)

    def q_loss(self, obs: Tensor, action: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """SAC-N's loss and the diversity term, which needs gradients of gradients."""
        loss, metrics = super().q_loss(obs, action, target)
        if self.hparams["eta"] == 0.0 or not torch.is_grad_enabled():  # held-out losses are those of SAC-N
            return loss, metrics
        shape = (*self.lead, self.hparams["critics"], *action.shape[-2:])
        members = action.detach().unsqueeze(-3).expand(shape).clone().requires_grad_()
        diversity = gradient_diversity(action_gradients(self.q(obs, members), members)).mean(-1)
        return loss + self.hparams["eta"] * diversity, {**metrics, "diversity": diversity}
