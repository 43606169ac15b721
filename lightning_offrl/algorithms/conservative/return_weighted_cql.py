"""CQL that raises good episodes more: CQL with a weight on the data's actions.

    push-up  E[ u Q(s, a) ],   u = low + (high - low) quantile, divided by its mean over the data

The quantile is that of the episode's return among all transitions (``return_quantile``), whose mean is one half, so the
weights have mean one. ``low = high`` is CQL. Not from a paper; everything else is CQL.
"""

from __future__ import annotations

from typing import Any

from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.algorithms.conservative.cql import CQL
from lightning_offrl.batch import TRANSITION, Spec
from lightning_offrl.errors import InputError


class ReturnWeightedCQL(CQL):
    """CQL whose push-up term favors episodes of high return.

    Args:
        spec: the spaces, linked from the data.
        low: weight of the worst transition before division by the mean; not negative.
        high: weight of the best.
        **common: see `CQL` and `OfflineAlgorithm`.

    Raises:
        InputError: unless ``0 <= low <= high`` and ``high > 0``.
    """

    needs = (*TRANSITION, "return_quantile")

    def __init__(self, spec: Spec, *, low: float = 0.5, high: float = 1.5, **common: Any) -> None:
        if not 0.0 <= low <= high or high == 0.0:
            raise InputError(f"ReturnWeightedCQL needs 0 <= low <= high and high > 0, got low={low}, high={high}")
        super().__init__(spec, **common)

    def push_up(self, batch: TensorDictBase, q: Tensor) -> Tensor:
        """Weighted Q of the data's actions, ``[*lead, N, B]``."""
        low, high = self.hparams["low"], self.hparams["high"]
        weight = (low + (high - low) * batch["return_quantile"]) / (0.5 * (low + high))
        return weight.unsqueeze(-2) * q
