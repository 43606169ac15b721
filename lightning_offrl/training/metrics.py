"""Metrics between two logs: kept on the device, averaged there, moved to the host once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
import torch.distributed
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

TOGETHER = 50
"""Updates after which vectors of metrics are put together."""


class MetricVector(Mapping[str, Tensor]):
    """Metrics of one update that came as one tensor; they are taken apart when somebody asks for one.

    Args:
        names: M of them.
        values: ``[M, *lead]``.
    """

    def __init__(self, names: tuple[str, ...], values: Tensor) -> None:
        self.names, self.values_together = names, values

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.values_together[self.names.index(name)]
        except ValueError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class RunningMean:
    """Collects metrics of single updates, which need not all have the same names.

    Vectors are put together every `TOGETHER` updates, while they are still in the processor's cache: hundreds of small
    tensors scattered over memory take milliseconds to gather.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}
        self._vectors: list[MetricVector] = []

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Metrics of one update, ``[*lead]`` each."""
        vectors = self._vectors
        if vectors and not (isinstance(metrics, MetricVector) and metrics.names == vectors[0].names):
            self._put_together()
        if isinstance(metrics, MetricVector):
            vectors.append(metrics)
            if len(vectors) == TOGETHER:
                self._put_together()
            return
        for name, value in metrics.items():
            self._values.setdefault(name, []).append(value.unsqueeze(0))

    def means(self) -> dict[str, Tensor]:
        """Mean of each over the updates that had it, and begin a new window."""
        means = {name: values.mean(0) for name, values in self.state_dict().items()}
        self._values = {}
        return means

    def state_dict(self) -> dict[str, Tensor]:
        """What was collected, ``[n, *lead]`` each."""
        self._put_together()
        return {name: torch.cat(values) for name, values in self._values.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on with what was collected before."""
        self._values, self._vectors = {name: [values.to(device)] for name, values in state.items()}, []

    def _put_together(self) -> None:
        if self._vectors:
            rows = torch.stack([metrics.values_together for metrics in self._vectors], 1)  # [M, n, *lead]
            for name, row in zip(self._vectors[0].names, rows, strict=True):
                self._values.setdefault(name, []).append(row)
            self._vectors.clear()


def warn_if_diverged(values: Mapping[str, float], updates: int) -> None:
    """Say which metrics are not finite, if any, and what to do about it."""
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken:
        rank_zero_warn(
            f"{', '.join(broken)} is not finite at update {updates}: the run has diverged; lower the learning rates, "
            "clip gradients (model.clip_grad_norm) or look at the rewards' scale"
        )


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
