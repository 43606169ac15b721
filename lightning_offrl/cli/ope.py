"""``offrl ope``: estimate the value of a policy from a log alone. ``offrl select`` evaluates every policy like this."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_offrl.cli.ope_log import Log, read_log
from lightning_offrl.cli.ope_options import OPEOptions, add_options, read_options
from lightning_offrl.cli.parser import Parser, add_import, parse
from lightning_offrl.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lightning_offrl.data.episodes import Episodes
    from lightning_offrl.dynamics.ensemble import DynamicsEnsemble
    from lightning_offrl.ope.direct.estimate import DirectEstimate
    from lightning_offrl.ope.policies.behavior import BehaviorModel
    from lightning_offrl.ope.policies.target import TargetPolicy
    from lightning_offrl.ope.result import OPEResult
    from lightning_offrl.ope.settings import OPESettings


FILES = "policy.pt, .ckpt, .onnx, .ts, the .json of a Gaussian policy, or file.py:function of observations"


def main(words: Sequence[str]) -> int:
    """Evaluate one policy and print the result.

    Returns:
        0, 3 if nothing is eligible, 4 if eligible estimates disagree.
    """
    description = "Estimate what a policy would earn, from a log alone. Exit status 3: abstains, 4: disagree."
    parser = Parser(prog="offrl ope", description=description)
    parser.add_argument("--policy", required=True, metavar="FILE", help=f"The policy: {FILES}.")
    add_options(parser)
    parser.add_argument(
        "--by", metavar="COLUMN", help="A column of --labels or the data, whose groups are estimated one by one, too."
    )
    add_import(parser)
    parsed = parse(parser, words)
    options = read_options(parsed)
    result = evaluate_file(parsed["policy"], FittedLog(read_log(options.log), options), options)
    print(result.table())
    if parsed["json"]:
        write_json(parsed["json"], result.to_dict())
    if parsed["report"]:
        from lightning_offrl.reports.ope.evaluation import write

        print(f"report: {write(result, parsed['report'])}")
    return result.verdict.exit_code


class FittedLog:
    """A log with the models of it that all policies share, each fitted when the first policy needs it."""

    def __init__(self, log: Log, options: OPEOptions) -> None:
        self.log, self.episodes, self.options = log, log.episodes, options

    @cached_property
    def behavior(self) -> BehaviorModel:
        """The behavior policy, estimated."""
        from lightning_offrl.ope.policies.behavior import fit_behavior

        return fit_behavior(self.episodes, clusters=self.log.clusters, seed=self.options.settings.seed)

    @cached_property
    def dynamics(self) -> DynamicsEnsemble | None:
        """A model of the environment; None for tabular data, which need none."""
        from lightning_offrl.data.episodes import is_tabular
        from lightning_offrl.dynamics.ensemble import fit_dynamics

        if is_tabular(self.episodes):
            return None
        how: dict[str, Any] = {"clusters": self.log.clusters, "seed": self.options.settings.seed}
        return fit_dynamics(self.episodes, **how, **self.options.direct.given_updates)


def evaluate_file(path: str, fitted: FittedLog, options: OPEOptions) -> OPEResult:
    """Read one policy, fit what its estimates need, and evaluate it; the notes on the log come before its own."""
    from lightning_offrl.ope.evaluate import evaluate
    from lightning_offrl.ope.weighting.groups import elapsed_of

    log, episodes = fitted.log, fitted.episodes
    policy, notes = read_policy(path, episodes, options.kind)
    settings = with_bandwidth(options.settings, episodes)
    behavior, behavior_name = find_behavior(policy, fitted, settings)
    result = evaluate(
        policy,
        episodes,
        settings,
        behavior=behavior,
        behavior_name=behavior_name,
        direct=fit_direct(policy, fitted),
        by=None if options.by is None else {options.by: log.labels(options.by, options.log.labels)},
        clusters=log.clusters,
        elapsed=None if options.time is None else elapsed_of(episodes, options.time, options.time_unit),
        name=policy_name(path),
    )
    notes += getattr(behavior, "notes", [])
    if options.time is not None:
        notes.append(
            f"the discount is per {options.time_unit or 'unit'} of {options.time}; --direct discounts by step: left out"
        )
    result.notes = (*log.notes, *notes, *result.notes)
    result.provenance = provenance(path, log, options)
    return result


def read_policy(path: str, episodes: Episodes, kind: str = "greedy") -> tuple[TargetPolicy, list[str]]:
    """A policy from any file that holds one, and notes on it.

    Args:
        path: ``policy.pt``, ``.ckpt``, ``.onnx``, ``.ts`` (TorchScript), the ``.json`` of a Gaussian policy, or Python
            code as ``file.py:function``.
        episodes: The log, whose spaces must be those of the policy.
        kind: How a trained policy is evaluated, see ``offrl ope --help``.

    Raises:
        InputError: no such file, or a policy for other spaces.
    """
    from lightning_offrl.ope.policies.files import load_callable, load_function, load_gaussian
    from lightning_offrl.ope.policies.target import ClippedNormal
    from lightning_offrl.ope.policies.trained import from_algorithm
    from lightning_offrl.policy import load_policy

    file = Path(path)
    if ":" in file.name and not file.is_file():
        return load_callable(path, episodes.spec), []
    if file.suffix == ".json" or Path(f"{file}.json").is_file():
        return load_gaussian(file), []
    if file.suffix in (".onnx", ".ts", ".torchscript"):
        return load_function(file, episodes.spec), []
    trained = load_policy(file)
    for key in ("observation_shape", "action_kind", "action_size"):
        if trained.spec[key] != episodes.spec[key]:
            raise InputError(
                f"{file} was trained on {key} {trained.spec[key]}, but {episodes.name} has {episodes.spec[key]}; give "
                "data of the same environment"
            )
    notes = []
    if (trained.info.get("data") or {}).get("fingerprint") == episodes.fingerprint:
        notes.append("the policy was trained on these very episodes, so estimates are optimistic; hold episodes out")
    policy = from_algorithm(trained, stochastic=kind != "greedy")
    if kind == "truncated" and isinstance(policy, ClippedNormal):
        return policy.truncated(), [
            *notes,
            "the policy's Gaussian is truncated to the box, not clipped as when it acts",
        ]
    return policy, notes


def with_bandwidth(settings: OPESettings, episodes: Episodes) -> OPESettings:
    """The settings with a bandwidth of 0 replaced by that of the rule."""
    from dataclasses import replace

    from lightning_offrl.ope.weighting.importance import kernel_bandwidth

    if settings.bandwidth != 0.0:
        return settings
    return replace(settings, bandwidth=kernel_bandwidth(episodes.data["action"], episodes.n_episodes))


def find_behavior(
    policy: TargetPolicy, fitted: FittedLog, settings: OPESettings
) -> tuple[TargetPolicy | None, str | None]:
    """The behavior policy that the weights divide by, and its name; None: the log's own probabilities, or no weights.

    Raises:
        InputError: the log's own probabilities were asked for, and it has none.
    """
    from lightning_offrl.ope.evaluate import refused

    wanted, episodes = fitted.options.behavior, fitted.episodes
    logged = "behavior_log_prob" in episodes.data.keys()
    weighable = refused(policy) is None or settings.bandwidth is not None
    if wanted == "logged" and weighable and not logged:
        raise InputError(f"{episodes.name} has no logged probabilities; use --behavior fit, or a policy file")
    if wanted == "logged" or (wanted == "auto" and (logged or not weighable)):
        return None, None
    if wanted in ("fit", "auto"):
        return fitted.behavior, "estimated"
    return read_policy(wanted, episodes, "stochastic")[0], policy_name(wanted)


def fit_direct(policy: TargetPolicy, fitted: FittedLog) -> list[DirectEstimate]:
    """The direct estimates that were asked for; none where time is discounted, for they discount by step."""
    from lightning_offrl.ope.direct.dice import dice
    from lightning_offrl.ope.direct.double_reinforcement import drl
    from lightning_offrl.ope.direct.fqe import BUDGETS, fqe
    from lightning_offrl.ope.direct.lstd import lstd
    from lightning_offrl.ope.direct.model_based import model_rollouts

    direct, settings, episodes = fitted.options.direct, fitted.options.settings, fitted.episodes
    horizon = settings.horizon
    if horizon is not None and horizon >= int(episodes.length.max()):
        horizon = None
    how: dict[str, Any] = {"discount": settings.discount, "clusters": fitted.log.clusters, "seed": settings.seed}
    refitted = {**how, "replicates": direct.refits}
    updates = direct.given_updates
    methods: dict[str, Callable[[], DirectEstimate]] = {
        "fqe": lambda: fqe(policy, episodes, **{"updates": BUDGETS[direct.budget]} | updates, **refitted),
        "lstd": lambda: lstd(policy, episodes, **refitted),
        "mb": lambda: model_rollouts(policy, episodes, model=fitted.dynamics, horizon=horizon, **refitted),
        "dice": lambda: dice(policy, episodes, **updates, **refitted),
        "drl": lambda: drl(policy, episodes, **updates, **how),
    }
    return [] if fitted.options.time is not None else [methods[name]() for name in direct.methods]


def provenance(path: str, log: Log, options: OPEOptions) -> dict[str, str]:
    """The policy, the data and the versions of an evaluation; hashes are the first 16 digits of SHA-256."""
    from importlib import metadata

    out, episodes = {"policy file": path}, log.episodes
    file = Path(path.rpartition(":")[0]) if ":" in Path(path).name else Path(path)
    # a Gaussian policy is two files
    parts = [file, *(file.with_suffix(end) for end in (".json", ".pt") if file.suffix != end)]
    for part in parts if file.suffix in (".json", "") else parts[:1]:
        if part.is_file():
            digest = hashlib.sha256(part.read_bytes()).hexdigest()[:16]
            out["policy hash"] = f"{out['policy hash']}, {digest}" if "policy hash" in out else digest
    if file.suffix in (".ckpt", ".pt") and not file.with_suffix(".json").is_file():
        out["policy evaluated as"] = options.kind
    out |= {
        "data": f"{options.log.data} ({episodes.n_episodes:,} episodes, {len(episodes):,} steps)",
        "data fingerprint": episodes.fingerprint,
        **({} if log.clusters is None else {"resampled": log.clusters.words}),
        "behavior": options.behavior,
        "fitted estimates": f"{','.join(options.direct.methods) or 'none'}, {options.direct.refits} refits",
        "seed": str(options.settings.seed),
    }
    for name in ("lightning-offrl", "torch", "lightning"):
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            out[name] = "not installed as a package"
    return out


def policy_name(path: str) -> str:
    """``runs/NAME/policy.pt`` as NAME, other files by their own name."""
    file = Path(path)
    if file.stem in ("policy", "last", "best"):
        parent = file.parent.parent if file.parent.name == "checkpoints" else file.parent
        return parent.name or file.stem
    return (
        file.name.removesuffix(file.suffix) if file.suffix in (".pt", ".ckpt", ".json", ".onnx", ".ts") else file.name
    )


def write_json(path: str, content: dict[str, Any]) -> None:
    """Write plain values, whole or not at all."""
    from lightning_offrl.training.files import write_atomically

    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomically(Path(path), memoryview(text.encode()), what="the evaluation")
