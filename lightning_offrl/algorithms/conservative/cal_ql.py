"""Cal-QL (Nakamoto et al., 2023): CQL that does not fall below a reference value.

https://arxiv.org/abs/2303.05479

    CQL's push-down term with max(Q(s, a_k), V_mu(s)) in place of Q(s, a_k) for the policy's actions           eq. 5

V_mu(s) is the Monte-Carlo return of the data from s, of the transformed rewards. The bound comes before the log
densities are subtracted, and does not hold for the uniform actions. Everything else is CQL. Episodes of sparse tasks
that end without success count as if they went on for ever with ``data.infinite_horizon_return``.

Compared with nakamotoo/Cal-QL. Difference: none known in the loss.
"""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.algorithms.conservative.cql import CQL
from lightning_offrl.batch import TRANSITION


class CalQL(CQL):
    """CQL with calibrated values, made for fine-tuning online; its arguments are those of `CQL`."""

    needs = (*TRANSITION, "mc_return")

    def values_of(self, batch: TensorDictBase, actions: Tensor, calibrated: int) -> Tensor:
        """Values of the policy's own actions are at least the data's return."""
        values = super().values_of(batch, actions, calibrated)
        floor = batch["mc_return"].unsqueeze(-1).unsqueeze(-3)  # [*lead, B] -> [*lead, 1, B, 1]
        own, uniform = values[..., :calibrated], values[..., calibrated:]
        return torch.cat([torch.maximum(own, floor), uniform], dim=-1)
