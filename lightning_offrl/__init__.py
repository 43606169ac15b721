"""Offline reinforcement learning on PyTorch Lightning.

>>> import lightning_offrl
>>> lightning_offrl.__all__[:3]
['BC', 'EvaluateEnv', 'IQL']

Names are imported when first used, so that ``import lightning_offrl`` (and ``offrl --help``) takes milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_offrl.algorithm import OfflineAlgorithm
    from lightning_offrl.algorithms.bc import BC
    from lightning_offrl.algorithms.iql import IQL
    from lightning_offrl.algorithms.td3_bc import TD3BC
    from lightning_offrl.callbacks.evaluate_env import EvaluateEnv
    from lightning_offrl.callbacks.target_update import SoftTargetUpdate
    from lightning_offrl.data.datamodule import OfflineDataModule
    from lightning_offrl.data.episodes import Episodes
    from lightning_offrl.data.sources import load as load_dataset
    from lightning_offrl.errors import InputError
    from lightning_offrl.export.policy import load_policy

__version__ = "0.1.0"

# Where each public name lives: (module, attribute).
_PUBLIC = {
    "BC": ("algorithms.bc", "BC"),
    "EvaluateEnv": ("callbacks.evaluate_env", "EvaluateEnv"),
    "IQL": ("algorithms.iql", "IQL"),
    "TD3BC": ("algorithms.td3_bc", "TD3BC"),
    "Episodes": ("data.episodes", "Episodes"),
    "InputError": ("errors", "InputError"),
    "OfflineAlgorithm": ("algorithm", "OfflineAlgorithm"),
    "OfflineDataModule": ("data.datamodule", "OfflineDataModule"),
    "SoftTargetUpdate": ("callbacks.target_update", "SoftTargetUpdate"),
    "load_dataset": ("data.sources", "load"),
    "load_policy": ("export.policy", "load_policy"),
}

__all__ = [
    "BC",
    "EvaluateEnv",
    "IQL",
    "TD3BC",
    "Episodes",
    "InputError",
    "OfflineAlgorithm",
    "OfflineDataModule",
    "SoftTargetUpdate",
    "load_dataset",
    "load_policy",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    value = getattr(import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
