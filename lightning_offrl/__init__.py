"""Offline reinforcement learning on PyTorch Lightning.

>>> import lightning_offrl
>>> lightning_offrl.__all__[:3]
['AWAC', 'BC', 'BCQ']

Names are imported when first used, so that ``import lightning_offrl`` (and ``offrl --help``) takes milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_offrl.algorithms.awac import AWAC
    from lightning_offrl.algorithms.bc import BC
    from lightning_offrl.algorithms.conservative.behavior_weighted_cql import BehaviorWeightedCQL
    from lightning_offrl.algorithms.conservative.cal_ql import CalQL
    from lightning_offrl.algorithms.conservative.cql import CQL
    from lightning_offrl.algorithms.conservative.return_weighted_cql import ReturnWeightedCQL
    from lightning_offrl.algorithms.discrete.bc import DiscreteBC
    from lightning_offrl.algorithms.discrete.bcq import DiscreteBCQ
    from lightning_offrl.algorithms.discrete.bcq_iql import DiscreteBCQIQL
    from lightning_offrl.algorithms.discrete.cql import DiscreteCQL
    from lightning_offrl.algorithms.discrete.dqn import DQN
    from lightning_offrl.algorithms.discrete.iql import DiscreteIQL
    from lightning_offrl.algorithms.ensembles.edac import EDAC
    from lightning_offrl.algorithms.ensembles.sac_n import SACN
    from lightning_offrl.algorithms.generative.bcq import BCQ
    from lightning_offrl.algorithms.generative.bear import BEAR
    from lightning_offrl.algorithms.generative.iql_bcq import IQLBCQ
    from lightning_offrl.algorithms.iql import IQL
    from lightning_offrl.algorithms.rebrac import ReBRAC
    from lightning_offrl.algorithms.td3_bc import TD3BC
    from lightning_offrl.callbacks.evaluate_env import EvaluateEnv
    from lightning_offrl.callbacks.evaluate_ope import EvaluateOPE
    from lightning_offrl.callbacks.policy_shift import PolicyShiftMonitor
    from lightning_offrl.data.datamodule import OfflineDataModule
    from lightning_offrl.data.episodes import Episodes
    from lightning_offrl.data.readers import load as load_dataset
    from lightning_offrl.errors import InputError
    from lightning_offrl.policy import load_policy
    from lightning_offrl.training.algorithm import OfflineAlgorithm
    from lightning_offrl.training.target_update import SoftTargetUpdate

from lightning_offrl.version import __version__ as __version__

# Where each public name lives: (module, attribute).
_PUBLIC = {
    "AWAC": ("algorithms.awac", "AWAC"),
    "BC": ("algorithms.bc", "BC"),
    "BCQ": ("algorithms.generative.bcq", "BCQ"),
    "BEAR": ("algorithms.generative.bear", "BEAR"),
    "BehaviorWeightedCQL": ("algorithms.conservative.behavior_weighted_cql", "BehaviorWeightedCQL"),
    "CQL": ("algorithms.conservative.cql", "CQL"),
    "CalQL": ("algorithms.conservative.cal_ql", "CalQL"),
    "DQN": ("algorithms.discrete.dqn", "DQN"),
    "DiscreteBC": ("algorithms.discrete.bc", "DiscreteBC"),
    "DiscreteBCQ": ("algorithms.discrete.bcq", "DiscreteBCQ"),
    "DiscreteBCQIQL": ("algorithms.discrete.bcq_iql", "DiscreteBCQIQL"),
    "DiscreteCQL": ("algorithms.discrete.cql", "DiscreteCQL"),
    "DiscreteIQL": ("algorithms.discrete.iql", "DiscreteIQL"),
    "EDAC": ("algorithms.ensembles.edac", "EDAC"),
    "IQL": ("algorithms.iql", "IQL"),
    "IQLBCQ": ("algorithms.generative.iql_bcq", "IQLBCQ"),
    "ReBRAC": ("algorithms.rebrac", "ReBRAC"),
    "ReturnWeightedCQL": ("algorithms.conservative.return_weighted_cql", "ReturnWeightedCQL"),
    "SACN": ("algorithms.ensembles.sac_n", "SACN"),
    "TD3BC": ("algorithms.td3_bc", "TD3BC"),
    "EvaluateEnv": ("callbacks.evaluate_env", "EvaluateEnv"),
    "EvaluateOPE": ("callbacks.evaluate_ope", "EvaluateOPE"),
    "PolicyShiftMonitor": ("callbacks.policy_shift", "PolicyShiftMonitor"),
    "Episodes": ("data.episodes", "Episodes"),
    "InputError": ("errors", "InputError"),
    "OfflineAlgorithm": ("training.algorithm", "OfflineAlgorithm"),
    "OfflineDataModule": ("data.datamodule", "OfflineDataModule"),
    "SoftTargetUpdate": ("training.target_update", "SoftTargetUpdate"),
    "load_dataset": ("data.readers", "load"),
    "load_policy": ("policy", "load_policy"),
}

__all__ = [
    "AWAC",
    "BC",
    "BCQ",
    "BEAR",
    "BehaviorWeightedCQL",
    "CQL",
    "CalQL",
    "DQN",
    "DiscreteBC",
    "DiscreteBCQ",
    "DiscreteBCQIQL",
    "DiscreteCQL",
    "DiscreteIQL",
    "EDAC",
    "IQL",
    "IQLBCQ",
    "ReBRAC",
    "ReturnWeightedCQL",
    "SACN",
    "TD3BC",
    "EvaluateEnv",
    "EvaluateOPE",
    "PolicyShiftMonitor",
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
