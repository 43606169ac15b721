"""Names of version 0.1 that files and scripts may still hold, and what each is called today.

This is the only list of old names. What reads names from outside asks here: checkpoints and exported policies
(`checkpoint`), configurations (`configuration`) and the words of a command line (`command_line`, `OPTIONS`); `old_code`
does the same for imports, attributes and keyword arguments of Python code. Each old name is understood with one warning
per process. In version 0.3 both modules can be deleted, with the lines that name them; they import nothing heavy,
because ``import lightning_offrl`` imports them.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

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


def _pairs(text: str) -> dict[str, str]:
    return dict(word.split("=") for word in text.split())


IDENTIFIERS = _pairs("""
    Behaviour=Behavior BehaviourDensity=BehaviorDensity BehaviourModel=BehaviorModel Contestant=EvaluatedPolicy
    Descent=OptimizerSet Draws=RandomStreams Examination=DatasetMeasures Gaps=PairedDifferences
    MetricWindow=RunningMean Normaliser=Normalizer Opinion=Assessment Pace=ThroughputMonitor Place=DataSource
    PolicyEvaluation=PolicyEvaluationAlgorithm SafeStop=GracefulStop ShiftCallback=PolicyShiftMonitor
    Tally=ImportNotes Terms=PerEpisodeTerms Told=TwoSampleResult Watch=FQEMonitor behaviours=behaviors consult=assess
    fit_alone=fit_without_trainer fit_behaviour=fit_behavior fit_normaliser=fit_normalizer
    neighbour_support=neighbor_support normalised_score=normalized_score speaker=representative_estimate
    tell_apart=two_sample_test
""")
"""Classes and functions; what kept its name in a module that moved needs no line."""

ELSEWHERE = _pairs("""
    data.samplers.StratifiedSampler=data.strata.StratifiedSampler
    data.samplers.WeightedSampler=data.strata.WeightedSampler descent.adam_=training.compile.adam.adam_
    descent.adam_factors=training.compile.adam.adam_factors descent.start_adam=training.compile.adam.start_adam
    envs.collect.Episode=envs.play.Episode envs.collect.dataset_path=data.writers.minari.dataset_path
    envs.collect.play=envs.play.play envs.collect.reference_scores=envs.play.reference_scores
    envs.sepsis.sepsis_id=envs.sepsis.registration.sepsis_id export.policy.POLICY_FORMAT=training.checkpoint.FORMAT
    export.policy.Saved=training.saved.Saved export.policy.read_saved=training.saved.read_saved
    fitting.fit_normaliser=data.datamodule.fit_normalizer
    ope.direct.lstd=ope.direct.lstd.lstd ope.direct.model_rollouts=ope.direct.model_based.model_rollouts
    ope.evaluation.Evaluation=ope.result.OPEResult ope.evaluation.Row=ope.estimate.Row
    ope.evaluation.Status=ope.estimate.Status ope.fqe.FQE=ope.direct.fqe_algorithm.FQE
    ope.fqe_watch.LOOK_SAMPLES=ope.direct.fqe_monitor.RECORD_SAMPLES ope.return_distribution.Tail=ope.tails.Tail
    ope.return_distribution.tail=ope.tails.tail ope.table.aligned=data.text_table.aligned
    ope.verdict.SPEAKERS=ope.verdict.REPRESENTATIVES ope.verdict.Verdict=ope.verdict.OPEVerdict
    ope.verdict.judge=ope.verdict.conclude products.choose=training.cpu.precision_to_set
    products.largest=training.cpu.largest_product report.dataset.as_dict=reports.dataset.write.as_json
    report.dataset.examine=reports.dataset.measure.measure report.dataset.text=reports.dataset.write.summary
    report.dataset.write=reports.dataset.write.write
""")
"""Attributes that are not where the rest of their old module is."""

KEYWORDS = _pairs("""
    behaviour=behavior behaviour_name=behavior_name behaviour_value=behavior_value dual_regulariser=dual_regularizer
    neighbours=neighbors normalise_observations=normalize_observations normalised=normalized
    normaliser_epsilon=normalizer_epsilon regulariser=regularizer
""")
"""Keyword arguments, keys of configurations, and options (by their last part)."""

OPTIONS = {
    "--directory": "--run_dir",
    "--held_out": "--validation_fraction",
    "--output": "--report",
    "--second_split": "--confirmation_fraction",
}
"""Options of the verbs other than ``fit``, written with underscores, where the verb has the new one."""

VALUES = {"reward": {"standardise": "standardize"}}
"""Values by the name of the argument or option that takes them."""

STATE = {"normaliser": "normalizer"}
"""First parts of the keys of an algorithm's state; also the attributes that hold these submodules."""

_PACKAGES = ("data.sources.logs", "data.sources", "report")  # modules in them that are not listed moved along
_NAMING_CLASSES = {"class_path", "callbacks", "logger", "model", "encoder"}
_OF_EVERY_ALGORITHM = {"normalise_observations", "normaliser_epsilon"}
told: set[str] = set()
"""Old names that were warned of in this process."""


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
    new = {old: today for old, today in names.items() if old not in told}
    if not new:
        return
    told.update(new)
    listed = ", ".join(f"{old} is now {today}" for old, today in new.items())
    found = f"{where} has names of an earlier version: " if where else ""
    several = "names are" if len(new) > 1 else "name is"
    warnings.warn(
        f"{found}{listed}; the old {several} understood until version {UNTIL}", FutureWarning, stacklevel=stacklevel
    )


# -- modules ---------------------------------------------------------------------------------------------------------


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


def attribute_today(module: str, name: str) -> tuple[str, str]:
    """Module and name of an attribute of an old module."""
    elsewhere = ELSEWHERE.get(f"{module}.{name}".removeprefix(f"{PACKAGE}."))
    if elsewhere is not None:
        return f"{PACKAGE}.{elsewhere.rpartition('.')[0]}", elsewhere.rpartition(".")[2]
    return module_today(module) or module, IDENTIFIERS.get(name, name)


def value(name: str, given: Any) -> Any:
    """What a value of an argument is called today."""
    known = VALUES.get(name, {})
    if not isinstance(given, str) or given not in known:
        return given
    warn({given: known[given]})
    return known[given]


# -- files -----------------------------------------------------------------------------------------------------------


def checkpoint(content: dict[str, Any], where: str) -> dict[str, Any]:
    """A training checkpoint or an exported policy, with today's names of arguments, weights and callbacks."""
    found: dict[str, str] = {}
    changed = dict(content)
    for key, table in (("hyper_parameters", KEYWORDS), ("callbacks", IDENTIFIERS)):
        if isinstance(content.get(key), Mapping):
            changed[key] = _renamed(content[key], table, found)
    if isinstance(content.get("state_dict"), Mapping):
        changed["state_dict"] = state_today(content["state_dict"], found)
    warn(found, where=where)
    return changed if found else content


def _renamed(entries: Mapping[Any, Any], table: Mapping[str, str], found: dict[str, str]) -> Any:
    old = {key: table[key] for key in entries if isinstance(key, str) and key in table}
    found |= old
    return {old.get(key, key): value for key, value in entries.items()} if old else entries


def state_today(state: Mapping[str, Any], found: dict[str, str]) -> Mapping[str, Any]:
    """The state of an algorithm under the keys of today; old first parts of keys are added to ``found``."""

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


def verb(words: list[str]) -> list[str]:
    """The words after ``offrl``, with the verb of today.

    >>> verb(["select", "--from=found.json", "--plan", "5"])
    ['plan', 'found.json', '--episodes', '5']
    """
    at = next((i for i, word in enumerate(words) if word.partition("=")[0] == "--from"), 0)
    if words[:1] != ["select"] or not at:
        return words
    warn({"offrl select --from FILE --plan N": "offrl plan FILE --episodes N"})
    file = [words[at].partition("=")[2]] if "=" in words[at] else []
    return ["plan", *(re.sub(r"^--plan(?=$|=)", "--episodes", w) for w in [*words[1:at], *file, *words[at + 1 :]])]


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
    return ".".join(attribute_today(module, name))
