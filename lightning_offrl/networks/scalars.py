"""One learned positive number: a temperature or a multiplier."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_offrl.errors import InputError


class PositiveScalar(nn.Module):
    """``exp(log_value)``, a parameter of the module so that it is moved, saved and averaged over ranks.

    Args:
        value: The initial value, which is positive.
    """

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        if value <= 0.0:
            raise InputError(f"a learned positive number must start above 0, got {value}")
        self.log_value = nn.Parameter(torch.tensor(math.log(value)))

    def forward(self) -> Tensor:
        """The number, ``[*lead]``."""
        return self.log_value.exp()
