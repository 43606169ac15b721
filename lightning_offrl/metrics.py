"""Metrics between two logs: kept on the device, averaged there, moved to the host once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed
from torch import Tensor


class MetricWindow:
    """Collects metrics of single updates, which need not all have the same names."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Metrics of one update, ``[*lead]`` each."""
        for name, value in metrics.items():
            self._values.setdefault(name, []).append(value)

    def means(self) -> dict[str, Tensor]:
        """Mean of each over the updates that had it, and begin a new window."""
        means = {name: torch.stack(values).mean(0) for name, values in self._values.items()}
        self._values = {}
        return means

    def state_dict(self) -> dict[str, Tensor]:
        """What was collected, ``[n, *lead]`` each."""
        return {name: torch.stack(values) for name, values in self._values.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on with what was collected before."""
        self._values = {name: list(values.to(device).unbind(0)) for name, values in state.items()}


def plain_numbers(prefix: str, metrics: Mapping[str, Tensor], lead: tuple[int, ...], world: int) -> dict[str, float]:
    """Metrics as ``prefix/name``, averaged over ranks, with one transfer from the device.

    Args:
        prefix: "train" or "val".
        metrics: ``[*lead]`` each.
        lead: ``(S,)`` where seeds are stacked: the mean over them, and each one as ``prefix/name_seed0`` and so on.
        world: number of processes.
    """
    flat = torch.stack([m.float().expand(lead) for m in metrics.values()])
    if world > 1:
        torch.distributed.all_reduce(flat)
        flat = flat / world
    named: dict[str, float] = {}
    for name, value in zip(metrics, flat.tolist(), strict=True):
        if lead:
            named[f"{prefix}/{name}"] = sum(value) / len(value)
            named.update({f"{prefix}/{name}_seed{i}": v for i, v in enumerate(value)})
        else:
            named[f"{prefix}/{name}"] = value
    return named
