"""Names of version 0.1 that files and scripts may still hold, and what each is called today.

This is the only module that knows an old name. Everything that reads names from outside asks here: imports and
attributes (`OldModules`, `attributes_of`), keyword arguments (`takes_old_keywords`, `TakesOldNames`), the words of a
command line and configurations (`command_line`, `configuration`), checkpoints and exported policies (`checkpoint`).
Each old name is understood with one warning per process. In version 0.3 this module can be deleted, with the lines
that name it; nothing here may import anything heavy, because ``import lightning_offrl`` imports it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import sys
import warnings
from abc import ABCMeta
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from inspect import Signature

PACKAGE = "lightning_offrl"
UNTIL = "0.3"

_MOVED_TO = {
    "": "export=policy export.policy report=reports draws=rng periods=data.block_size quickstart=cli.quickstart",
    "training": "algorithm checkpoints=checkpoint checkpoint_io=files descent=optimizers fitting=fit memory=cpu "
    "metrics products=cpu export.saved=saved callbacks.target_update",
    "training.compile": "capture=cuda_graph compiled=graph graph_products=decompositions tracing=trace "
    "update_path=choose",
    "cli": "envs.evaluate_checkpoint=evaluate",
    "callbacks": "callbacks.diagnose=policy_shift callbacks.pace=throughput callbacks.safe_stop=graceful_stop",
    "networks": "networks.normaliser=normalizer",
    "data": "data.nstep=returns data.show=describe data.sampling=strata data.sources=readers data.sources.logs=logs",
    "data.logs": "data.sources.logs.tally=notes data.import_logs",
    "data.readers": "data.cache data.references=reference_returns",
    "data.writers": "data.convert data.minari_writer=minari envs.collect",
    "envs": "envs.behaviour=controllers envs.evaluation=rollout",
    "envs.gridworld": "envs.gridworld=environment envs.grid_layouts=layouts envs.grid_picture=picture",
    "envs.sepsis": "envs.sepsis=environment envs.patient",
    "algorithms.conservative": "algorithms.behavior_weighted_cql algorithms.cal_ql algorithms.cql "
    "algorithms.return_weighted_cql",
    "algorithms.discrete": "algorithms.discrete_bc=bc algorithms.discrete_bcq=bcq algorithms.discrete_bcq_iql=bcq_iql "
    "algorithms.discrete_cql=cql algorithms.discrete_iql=iql algorithms.dqn",
    "algorithms.ensembles": "algorithms.edac algorithms.sac_n",
    "algorithms.generative": "algorithms.bcq algorithms.bear algorithms.iql_bcq",
    "ope": "ope.evaluation=result ope.table=text",
    "ope.checks": "ope.eligibility=weight_diagnostics ope.support",
    "ope.direct": "ope.direct=estimate ope.direct_estimate=estimate ope.evaluation_page=base ope.fqe "
    "ope.fqe_watch=fqe_monitor ope.lstd ope.model_based ope.tabular ope.features ope.dice ope.double_reinforcement",
    "ope.policies": "ope.policies=target ope.behaviour=behavior ope.policy_files=files ope.trained ope.legal=masked "
    "ope.policy_actions=expectation",
    "ope.selection": "ope.selection=ranking ope.top_set=confidence_set ope.plan=online_plan",
    "ope.weighting": "ope.trajectories ope.importance ope.doubly_robust ope.bandits ope.bounds ope.intervals "
    "ope.return_distribution ope.sensitivity ope.groups ope.estimators=registry",
    "diagnostics": "diagnostics.reading=diagnosis diagnostics.classifier=two_sample",
    "reports": "report.quickstart_page=quickstart report.verdict=compare_returns",
    "reports.dataset": "report.dataset=measure report.dataset_advice=advice report.dataset_copies=copies "
    "report.dataset_evidence=evidence report.dataset_facts=statistics report.dataset_figures=figures "
    "report.dataset_findings=findings report.dataset_page=document "
    "report.dataset_policies=mixture report.dataset_states=states report.dataset_stitching=stitching "
    "report.dataset_verdict=verdict",
    "reports.ope": "report.ope_figures=figures report.ope_page=evaluation report.select_page=selection",
}
"""Modules by the package that holds them today: ``old.path=name`` there; without ``=``, under the last part."""

IDENTIFIERS = {
    "Behaviour": "Behavior",
    "BehaviourDensity": "BehaviorDensity",
    "BehaviourModel": "BehaviorModel",
    "Contestant": "EvaluatedPolicy",
    "Descent": "OptimizerSet",
    "Draws": "RandomStreams",
    "Examination": "DatasetMeasures",
    "Gaps": "PairedDifferences",
    "MetricWindow": "RunningMean",
    "Normaliser": "Normalizer",
    "Opinion": "Assessment",
    "Pace": "ThroughputMonitor",
    "Place": "DataSource",
    "PolicyEvaluation": "PolicyEvaluationAlgorithm",
    "SafeStop": "GracefulStop",
    "ShiftCallback": "PolicyShiftMonitor",
    "Tally": "ImportNotes",
    "Terms": "PerEpisodeTerms",
    "Told": "TwoSampleResult",
    "Watch": "FQEMonitor",
    "behaviours": "behaviors",
    "consult": "assess",
    "fit_alone": "fit_without_trainer",
    "fit_behaviour": "fit_behavior",
    "fit_normaliser": "fit_normalizer",
    "neighbour_support": "neighbor_support",
    "normalised_score": "normalized_score",
    "speaker": "representative_estimate",
    "tell_apart": "two_sample_test",
}
"""Classes and functions; what kept its name in a module that moved needs no line."""

ELSEWHERE = {
    **{f"data.samplers.{name}": f"data.strata.{name}" for name in ("WeightedSampler", "StratifiedSampler")},
    **{f"envs.collect.{name}": f"envs.play.{name}" for name in ("Episode", "play", "reference_scores")},
    "envs.collect.dataset_path": "data.writers.minari.dataset_path",
    "envs.sepsis.sepsis_id": "envs.sepsis.registration.sepsis_id",
    "ope.direct.lstd": "ope.direct.lstd.lstd",
    "ope.evaluation.Evaluation": "ope.result.OPEResult",
    "ope.evaluation.Row": "ope.estimate.Row",
    "ope.evaluation.Status": "ope.estimate.Status",
    "ope.return_distribution.Tail": "ope.tails.Tail",
    "ope.return_distribution.tail": "ope.tails.tail",
    "ope.table.aligned": "data.text_table.aligned",
    "ope.verdict.Verdict": "ope.verdict.OPEVerdict",
    "ope.verdict.judge": "ope.verdict.conclude",
    "ope.verdict.SPEAKERS": "ope.verdict.REPRESENTATIVES",
    "ope.direct.model_rollouts": "ope.direct.model_based.model_rollouts",
    "export.policy.Saved": "training.saved.Saved",
    "fitting.fit_normaliser": "data.datamodule.fit_normalizer",
    "products.choose": "training.cpu.precision_to_set",
    "products.largest": "training.cpu.largest_product",
    "descent.adam_": "training.compile.adam.adam_",
    "descent.adam_factors": "training.compile.adam.adam_factors",
    "descent.start_adam": "training.compile.adam.start_adam",
    "export.policy.POLICY_FORMAT": "training.checkpoint.FORMAT",
}
"""Attributes that are not where the rest of their old module is."""

KEYWORDS = {
    "behaviour": "behavior",
    "behaviour_name": "behavior_name",
    "behaviour_value": "behavior_value",
    "dual_regulariser": "dual_regularizer",
    "neighbours": "neighbors",
    "normalise_observations": "normalize_observations",
    "normalised": "normalized",
    "normaliser_epsilon": "normalizer_epsilon",
    "regulariser": "regularizer",
}
"""Keyword arguments, keys of configurations, and options (by their last part)."""

OPTIONS = {"--held_out": "--validation_fraction", "--second_split": "--confirmation_fraction"}
"""Options of the verbs other than ``fit``, written with underscores, where the verb has the new one."""

VALUES = {"reward": {"standardise": "standardize"}}
"""Values by the name of the argument or option that takes them."""

STATE = {"normaliser": "normalizer"}
"""First parts of the keys of an algorithm's state; also the attributes that hold these submodules."""

_PACKAGES = ("data.sources.logs", "data.sources", "report")  # modules in them that are not listed moved along
_NAMING_CLASSES = {"class_path", "callbacks", "logger", "model", "encoder"}
_OF_EVERY_ALGORITHM = {"normalise_observations", "normaliser_epsilon"}
_told: set[str] = set()
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _modules() -> dict[str, str]:
    found = {}
    for target, words in _MOVED_TO.items():
        for word in words.split():
            old, _, name = word.partition("=")
            found[old] = f"{target}.{name or old.rpartition('.')[2]}".lstrip(".")
    return found


MODULES = _modules()
"""Dotted names below the package, old to new."""


def warn(names: Mapping[str, str], *, where: str = "", stacklevel: int = 3) -> None:
    """Say once per process, in one warning, what old names are called today.

    Args:
        names: old to new.
        where: the file that holds them.
        stacklevel: as in ``warnings.warn``.
    """
    new = {old: today for old, today in names.items() if old not in _told}
    if not new:
        return
    _told.update(new)
    listed = ", ".join(f"{old} is now {today}" for old, today in new.items())
    found = f"{where} has names of an earlier version: " if where else ""
    several = "names are" if len(new) > 1 else "name is"
    warnings.warn(
        f"{found}{listed}; the old {several} understood until version {UNTIL}", FutureWarning, stacklevel=stacklevel
    )


# -- imports ---------------------------------------------------------------------------------------------------------


def module_today(name: str) -> str | None:
    """Where a module of this package lies today, by its old full name; None if it did not move.

    >>> module_today("lightning_offrl.data.sources.minari"), module_today("lightning_offrl.batch")
    ('lightning_offrl.data.readers.minari', None)
    """
    package, _, old = name.partition(".")
    if package != PACKAGE:
        return None
    home = next((one for one in _PACKAGES if old.startswith(f"{one}.") and old not in MODULES), None)
    found = MODULES.get(old) if home is None else MODULES[home] + old.removeprefix(home)
    return None if found is None else f"{PACKAGE}.{found}"


def _attribute_today(module: str, name: str) -> tuple[str, str]:
    """Module and name of an attribute of an old module."""
    elsewhere = ELSEWHERE.get(f"{module}.{name}".removeprefix(f"{PACKAGE}."))
    if elsewhere is not None:
        return f"{PACKAGE}.{elsewhere.rpartition('.')[0]}", elsewhere.rpartition(".")[2]
    return module_today(module) or module, IDENTIFIERS.get(name, name)


class _OldModule(ModuleType):
    """Stands for a module that moved, and hands on what is asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        module, attribute = _attribute_today(self.__name__, name)
        value = getattr(importlib.import_module(module), attribute)
        if attribute != name:
            warn({f"{self.__name__}.{name}": f"{module}.{attribute}"})
            _told.add(self.__name__)
        else:
            warn({self.__name__: module})
        setattr(self, name, value)
        return value


class OldModules:
    """A finder for ``sys.meta_path`` that finds modules by where they lay in version 0.1."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The module's new place, if it is an old name of one."""
        today = module_today(name) if name.startswith(f"{PACKAGE}.") else None
        return None if today in (None, name) else ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module that stands for the one that moved."""
        return _OldModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Import the one that moved, so that an import of a name that never was fails at once."""
        importlib.import_module(str(module_today(module.__name__)))


def attributes_of(package: str) -> Callable[[str], Any]:
    """A ``__getattr__`` for a module that has other names today, or was a module and is a package."""

    def __getattr__(name: str) -> Any:
        if name.startswith("__") or _is_module(f"{package}.{name}"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = _attribute_today(package, name)
        if (module, attribute) == (package, name):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            value = getattr(importlib.import_module(module), attribute)
        except AttributeError:
            raise AttributeError(f"module {package!r} has no attribute {name!r}") from None
        warn({f"{package}.{name}": f"{module}.{attribute}"})
        return value

    return __getattr__


def episodes_from_arrays(
    observations: Any, actions: Any, rewards: Any, terminated: Any, *more: Any, **others: Any
) -> Any:
    """`Episodes.from_arrays` of version 0.1: `lightning_offrl.load_dataset` of a dictionary today."""
    warn({"Episodes.from_arrays(...)": "lightning_offrl.load_dataset({...})"})
    steps = {"observations": observations, "actions": actions, "rewards": rewards, "terminated": terminated}
    arrays = {**steps, **dict(zip(("truncated",), more, strict=False)), **others}
    return importlib.import_module(f"{PACKAGE}.data.readers.arrays").from_arrays(arrays)


def _is_module(name: str) -> bool:
    parent = sys.modules.get(name.rpartition(".")[0])
    return hasattr(parent, "__path__") and importlib.util.find_spec(name) is not None


# -- keyword arguments and attributes --------------------------------------------------------------------------------


def keywords(given: dict[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    """Keyword arguments under the names that a function takes today.

    Raises:
        TypeError: an argument was given under both names.
    """
    if KEYWORDS.keys().isdisjoint(given):
        return given
    import inspect

    known = inspect.signature(function).parameters
    old = {name: KEYWORDS[name] for name in given if name in KEYWORDS and name not in known}
    for name, today in old.items():
        if today in given:
            raise TypeError(f"{name} is the old name of {today}, which was given too: leave out {name}")
    warn(old, stacklevel=4)
    return {old.get(name, name): value for name, value in given.items()}


def takes_old_keywords(function: _Function) -> _Function:
    """Decorator of a function or an ``__init__`` that takes arguments whose names are in `KEYWORDS`."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **keywords(kwargs, function))

    return wrapped  # type: ignore[return-value]


def value(name: str, given: Any) -> Any:
    """What a value of an argument is called today."""
    known = VALUES.get(name, {})
    if not isinstance(given, str) or given not in known:
        return given
    warn({given: known[given]})
    return known[given]


class _OldKeywords(ABCMeta):
    """Constructors take their keyword arguments under the old names too.

    A wrapper of ``__init__`` would hide the arguments from Lightning's ``save_hyperparameters``, which reads frames. A
    subclass of `ABCMeta`, so that an algorithm may inherit from an abstract class as well.
    """

    if not TYPE_CHECKING:  # so that editors see the arguments of __init__

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **keywords(kwargs, cls.__init__))

        @property
        def __signature__(cls) -> Signature:
            import inspect

            found = inspect.signature(cls.__init__)
            return found.replace(parameters=list(found.parameters.values())[1:])


class TakesOldNames(metaclass=_OldKeywords):
    """Base of algorithms: old keyword arguments, keys of the state, and names of submodules."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not STATE.keys().isdisjoint(vars(cls).get("acting", ())):
            acting: Sequence[str] = vars(cls)["acting"]
            warn({name: STATE[name] for name in acting if name in STATE}, where=f"{cls.__qualname__}.acting")
            cls.acting = tuple(STATE.get(name, name) for name in acting)  # type: ignore[attr-defined]

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As in `torch.nn.Module`, with keys of today or of before."""
        found: dict[str, str] = {}
        today = _state(state_dict, found)
        warn(found)
        return super().load_state_dict(today, *args, **kwargs)  # type: ignore[misc]

    @property
    def normaliser(self) -> Any:
        """The old name of ``normalizer``, for algorithms written with version 0.1."""
        warn({"normaliser": "normalizer"})
        return self.normalizer  # type: ignore[attr-defined]


# -- files -----------------------------------------------------------------------------------------------------------


def checkpoint(content: dict[str, Any], where: str) -> dict[str, Any]:
    """A training checkpoint or an exported policy, with today's names of arguments, weights and callbacks."""
    found: dict[str, str] = {}
    changed = dict(content)
    for key, table in (("hyper_parameters", KEYWORDS), ("callbacks", IDENTIFIERS)):
        if isinstance(content.get(key), Mapping):
            changed[key] = _renamed(content[key], table, found)
    if isinstance(content.get("state_dict"), Mapping):
        changed["state_dict"] = _state(content["state_dict"], found)
    warn(found, where=where)
    return changed if found else content


def _renamed(entries: Mapping[Any, Any], table: Mapping[str, str], found: dict[str, str]) -> Any:
    old = {key: table[key] for key in entries if isinstance(key, str) and key in table}
    found |= old
    return {old.get(key, key): value for key, value in entries.items()} if old else entries


def _state(state: Mapping[str, Any], found: dict[str, str]) -> Mapping[str, Any]:
    def today(key: Any) -> Any:
        first, dot, rest = str(key).partition(".")
        if first not in STATE:
            return key
        found[first] = STATE[first]
        return f"{STATE[first]}{dot}{rest}"

    changed = {today(key): value for key, value in state.items()}
    return changed if found.keys() & STATE.keys() else state


# -- configurations and the command line -----------------------------------------------------------------------------


def configuration(content: Any, where: str = "") -> Any:
    """A configuration, as YAML gives it, with today's keys, values and class paths."""
    found: dict[str, str] = {}
    changed = _tree(content, "", found)
    warn(found, where=where)
    return changed if found else content


def command_line(words: Sequence[str]) -> list[str]:
    """The words of a command line with today's options and values."""
    found: dict[str, str] = {}
    done, option = [], ""
    for word in words:
        if word.startswith("--"):
            name, equals, text = word.partition("=")
            stem, dot, leaf = name.lstrip("-").rpartition(".")
            plain = leaf.rstrip("+")
            if plain in KEYWORDS:
                found[plain] = KEYWORDS[plain]
                name = f"--{stem}{dot}{KEYWORDS[plain]}{leaf[len(plain) :]}"
            option = plain
            word = f"{name}={_text(text, option, found)}" if equals else name
        elif option:
            word, option = _text(word, option, found), ""
        done.append(word)
    warn(found)
    return done


def _text(text: str, key: str, found: dict[str, str]) -> str:
    """A value of an option; a dictionary or list in JSON or YAML is looked into."""
    if not text.startswith(("{", "[")):
        return str(_tree(text, key, found))
    import yaml

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    before = len(found)
    changed = _tree(content, key, found)
    return text if len(found) == before else json.dumps(changed)


def _tree(content: Any, key: str, found: dict[str, str], theirs: bool = False) -> Any:
    """``content`` under ``key``; arguments of a class of somebody else keep their names."""
    if isinstance(content, Mapping):
        kind = content.get("class_path")
        inside = isinstance(kind, str) and "." in kind and not kind.startswith(f"{PACKAGE}.")
        out = {}
        for name, inner in content.items():
            if name in KEYWORDS and (not theirs or key == "model" and name in _OF_EVERY_ALGORITHM):
                found[name] = KEYWORDS[name]
                name = KEYWORDS[name]
            below = key if name == "init_args" else name
            out[name] = _tree(inner, below, found, inside if name == "init_args" else theirs)
        return out
    if isinstance(content, list):
        return [_tree(inner, key, found, theirs) for inner in content]
    if not isinstance(content, str):
        return content
    today = VALUES.get(key, {}).get(content) or (_class_today(content) if key in _NAMING_CLASSES else None)
    if today is None or today == content:
        return content
    found[content] = today
    return today


def _class_today(path: str) -> str:
    """``ShiftCallback``, or a dotted path in this package, as it is called today."""
    module, _, name = path.rpartition(".")
    if not module:
        return IDENTIFIERS.get(name, name)
    if not f"{module}.".startswith(f"{PACKAGE}."):
        return path
    return ".".join(_attribute_today(module, name))
