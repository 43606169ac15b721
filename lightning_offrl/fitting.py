"""Training a module without a trainer: the small fits inside an evaluation (values, models, densities).

The same `OfflineAlgorithm` trains under ``lightning.pytorch.Trainer``; here it runs inside other people's loops (a
callback, a script, a notebook), so nothing global may change: no logger, no checkpoint, no signal handler, and the
caller's random state and gradient mode are as before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDictBase

from lightning_offrl.algorithm import OfflineAlgorithm
from lightning_offrl.callbacks.target_update import SoftTargetUpdate
from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.samplers import gather


def fit_alone(
    algorithm: OfflineAlgorithm,
    columns: TensorDictBase,
    sampler: Any,
    updates: int,
    *,
    targets: SoftTargetUpdate | None = None,
    looks: int = 0,
    look: Callable[[], None] | None = None,
    block: int = 50,
) -> None:
    """Make ``updates`` gradient updates from where the module stands.

    Args:
        algorithm: on the CPU; left in eval mode.
        columns: flat table ``[T]`` with the keys that it reads.
        sampler: its ``indices(first, count)`` gives the rows, ``[count, *lead, B]``.
        updates: how many.
        targets: moves the target networks after every update.
        looks: call ``look`` so many times, evenly spread, the last time at the end.
        look: sees the module in eval mode.
        block: updates gathered at a time.
    """
    begin = algorithm.updates
    stops = {begin + round(updates * (i + 1) / looks) for i in range(looks)}
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        algorithm.train()
        while algorithm.updates < begin + updates:
            nearest = min((s for s in stops if s > algorithm.updates), default=begin + updates)
            count = min(block, nearest - algorithm.updates, begin + updates - algorithm.updates)
            rows = gather(columns, sampler.indices(algorithm.updates, count))
            for batch in algorithm.prepare(rows).unbind(0):
                algorithm.gradient_update(batch)
                if targets is not None:
                    targets.on_update_end(algorithm)
            if look is not None and algorithm.updates in stops:
                algorithm.eval()
                look()
                algorithm.train()
        algorithm.eval()


def fit_normaliser(algorithm: OfflineAlgorithm, episodes: Episodes) -> None:
    """Standardise by these episodes; numbers that never change, and one-hot observations, stay as they are.

    A number that is constant in the data but not where a policy leads would otherwise be divided by almost nothing.
    """
    statistics = {}
    for path, (mean, std) in OfflineDataModule(episodes).observation_statistics().items():
        varies = std > 1e-6 * mean.abs().clamp(min=1.0)
        statistics[path] = (torch.where(varies, mean, 0.0), torch.where(varies, std, 1.0))
    observation = episodes.data["observation"]
    tabular = isinstance(observation, torch.Tensor) and observation.ndim == 2 and observation.shape[-1] > 1
    if tabular and bool(((observation == 0) | (observation == 1)).all() & (observation.sum(-1) == 1).all()):
        return
    algorithm.normaliser.fit(statistics)
