"""Standardizing the observations of a small fit by the episodes that it is given."""

from __future__ import annotations

import torch

from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.training.algorithm import OfflineAlgorithm


def fit_normalizer(algorithm: OfflineAlgorithm, episodes: Episodes) -> None:
    """Standardize by these episodes; numbers that never change, and one-hot observations, stay as they are.

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
    algorithm.normalizer.fit(statistics)
