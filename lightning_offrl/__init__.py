"""Offline reinforcement learning on PyTorch Lightning.

>>> import lightning_offrl
>>> sorted(lightning_offrl.__all__)[:3]
['AWAC', 'BC', 'BCQ']

Names are imported when first used, so that ``import lightning_offrl`` (and ``offrl --help``) takes milliseconds. The
imports below are the list of what is public; type checkers and editors read it too. An algorithm that is a new file in
``algorithms/`` is available without a line here.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_offrl.training import old_code, old_names
from lightning_offrl.version import __version__ as __version__

if TYPE_CHECKING:
    from lightning_offrl.algorithms.awac import AWAC as AWAC
    from lightning_offrl.algorithms.bc import BC as BC
    from lightning_offrl.algorithms.conservative.behavior_weighted_cql import BehaviorWeightedCQL as BehaviorWeightedCQL
    from lightning_offrl.algorithms.conservative.cal_ql import CalQL as CalQL
    from lightning_offrl.algorithms.conservative.cql import CQL as CQL
    from lightning_offrl.algorithms.conservative.return_weighted_cql import ReturnWeightedCQL as ReturnWeightedCQL
    from lightning_offrl.algorithms.discrete.bc import DiscreteBC as DiscreteBC
    from lightning_offrl.algorithms.discrete.bcq import DiscreteBCQ as DiscreteBCQ
    from lightning_offrl.algorithms.discrete.bcq_iql import DiscreteBCQIQL as DiscreteBCQIQL
    from lightning_offrl.algorithms.discrete.cql import DiscreteCQL as DiscreteCQL
    from lightning_offrl.algorithms.discrete.dqn import DQN as DQN
    from lightning_offrl.algorithms.discrete.iql import DiscreteIQL as DiscreteIQL
    from lightning_offrl.algorithms.ensembles.edac import EDAC as EDAC
    from lightning_offrl.algorithms.ensembles.sac_n import SACN as SACN
    from lightning_offrl.algorithms.generative.bcq import BCQ as BCQ
    from lightning_offrl.algorithms.generative.bear import BEAR as BEAR
    from lightning_offrl.algorithms.generative.iql_bcq import IQLBCQ as IQLBCQ
    from lightning_offrl.algorithms.iql import IQL as IQL
    from lightning_offrl.algorithms.rebrac import ReBRAC as ReBRAC
    from lightning_offrl.algorithms.td3_bc import TD3BC as TD3BC
    from lightning_offrl.callbacks.checkpoint import Checkpoint as Checkpoint
    from lightning_offrl.callbacks.evaluate_env import EvaluateEnv as EvaluateEnv
    from lightning_offrl.callbacks.evaluate_ope import EvaluateOPE as EvaluateOPE
    from lightning_offrl.callbacks.export import ExportPolicy as ExportPolicy
    from lightning_offrl.callbacks.policy_shift import PolicyShiftMonitor as PolicyShiftMonitor
    from lightning_offrl.data.datamodule import OfflineDataModule as OfflineDataModule
    from lightning_offrl.data.episodes import Episodes as Episodes
    from lightning_offrl.data.readers import load as _load
    from lightning_offrl.data.rewards import RewardTransform as RewardTransform
    from lightning_offrl.data.strata import Sampling as Sampling
    from lightning_offrl.envs.rollout import evaluate as evaluate
    from lightning_offrl.errors import InputError as InputError
    from lightning_offrl.loggers.metrics_csv import MetricsCSV as MetricsCSV
    from lightning_offrl.loggers.wandb import WandbLogger as WandbLogger
    from lightning_offrl.ope.direct.fqe import FQESettings as FQESettings
    from lightning_offrl.ope.direct.fqe import fqe as fqe
    from lightning_offrl.ope.evaluate import evaluate as _evaluate_offline
    from lightning_offrl.policy import Policy as Policy
    from lightning_offrl.policy import export_policy as export_policy
    from lightning_offrl.policy import load_policy as load_policy
    from lightning_offrl.training.algorithm import OfflineAlgorithm as OfflineAlgorithm
    from lightning_offrl.training.target_update import SoftTargetUpdate as SoftTargetUpdate

    evaluate_offline = _evaluate_offline
    load_dataset = _load


@cache
def _listed() -> dict[str, tuple[str, str]]:
    """Module, and name in it, of each public name above, from this file's own source."""
    import ast

    with open(__file__, encoding="utf-8") as file:
        source = ast.parse(file.read())
    names: dict[str, tuple[str, str]] = {}
    for node in next(block for block in source.body if isinstance(block, ast.If)).body:
        if isinstance(node, ast.ImportFrom):
            names |= {str(name.asname): (str(node.module), name.name) for name in node.names}
        elif isinstance(node, ast.Assign):
            names[ast.unparse(node.targets[0])] = names.pop(ast.unparse(node.value))
    return names


def _everything() -> list[str]:
    """The public names, and algorithms in files that have no line above."""
    from lightning_offrl.algorithms import all_algorithms

    return sorted({*_listed(), *all_algorithms()})


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return _everything()
    if name in _listed():
        module, attribute = _listed()[name]
        value = getattr(import_module(module), attribute)
    elif name[0].isupper() and (today := old_names.IDENTIFIERS.get(name)) in _listed():
        old_names.warn({f"{__name__}.{name}": f"{__name__}.{today}"})
        return __getattr__(str(today))
    elif name[0].isupper() and name in _everything():
        from lightning_offrl.algorithms import all_algorithms

        value = all_algorithms()[name]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_everything()})


sys.meta_path.append(old_code.OldModules())
