"""``offrl ope``: what a policy would earn, from a log alone; and what it shares with ``offrl select``."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_offrl.cli.ope_log import Log, read_log
from lightning_offrl.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_offrl.data.episodes import Episodes
    from lightning_offrl.dynamics.ensemble import DynamicsEnsemble
    from lightning_offrl.ope.direct.estimate import DirectEstimate
    from lightning_offrl.ope.policies.target import TargetPolicy
    from lightning_offrl.ope.result import Evaluation

DIRECT = ("fqe", "lstd", "mb", "dice", "drl")
KINDS = ("greedy", "stochastic", "truncated")
INTERVALS = ("auto", "percentile", "percentile-t", "bca", "delta")
BUDGETS = ("smoke", "pilot", "paper")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that both verbs have."""
    add = parser.add_argument
    add("--data", required=True, metavar="SOURCE", help="a Minari id, or the path of a D4RL .hdf5 or .npz file")
    add("--discount", type=float, default=0.99, help="gamma, per step (or per unit of time with --time)")
    add("--horizon", type=int, metavar="STEPS", help="count only the first steps; default: whole episodes")
    add(
        "--kind",
        choices=KINDS,
        default="greedy",
        help="of a trained policy: its greedy action, the density it was trained with, or that density truncated to "
        "the box where it would be clipped",
    )
    add(
        "--behavior",
        default="auto",
        metavar="logged|fit|FILE",
        help="whose probabilities the weights divide by: the log's own, a fit to the log (ris), or a policy file; "
        "auto: logged where the log has them, else fit, for policies that have weights",
    )
    add(
        "--estimators",
        default="auto",
        metavar="LIST",
        help="comma-separated: auto, is, wis, pdis, cwpdis, dr, wdr, magic",
    )
    add("--direct", default="fqe", metavar="LIST", help=f"fitted estimates: {', '.join(DIRECT)}, or none")
    add("--budget", choices=BUDGETS, default="pilot", help="gradient updates of fqe: 5,000, 100,000 or 1,000,000")
    add("--updates", type=int, metavar="N", help="gradient updates of fqe (in place of --budget), mb, dice and drl")
    add(
        "--refits",
        type=int,
        default=10,
        metavar="N",
        help="refits to resampled episodes, for the intervals of --direct",
    )
    add(
        "--bandwidth", type=float, help="blur a deterministic continuous policy so that weights exist (kis); 0: by rule"
    )
    add("--held-out", type=float, metavar="SHARE", help="use only the episodes that `fit` held out with this share")
    add("--split-seed", type=int, default=0, help="seed of that split")
    add(
        "--cluster",
        metavar="COLUMN",
        help="whom an episode belongs to, if several belong to one patient, user or machine: intervals resample these, "
        "and splits keep them together (fit with --data.cluster); a column of --labels, of the data or of its log",
    )
    add(
        "--labels",
        metavar="CSV",
        help="labels of the episodes, one line each, with a header; for --cluster a line for every episode of the data",
    )
    add("--time", metavar="COLUMN", help="discount by the times in this column of the data; without --direct")
    add("--time-unit", choices=("s", "min", "h", "d"), help="what --discount counts in, where the log has real times")
    add("--reward-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="of one step; gives guaranteed intervals")
    add("--max-weight", type=float, help="largest possible weight of an episode, for guaranteed intervals of is, pdis")
    add("--level", type=float, default=0.95, help="of the intervals")
    add("--interval", choices=INTERVALS, default="auto", help="of estimates from weights; auto: percentile-t for few")
    add("--tail", type=float, metavar="SHARE", help="also the mean return of the worst share of episodes, such as 0.1")
    add("--n-boot", type=int, default=1000, help="resamples of episodes")
    add("--seed", type=int, default=0, help="of fits, draws and resampling")
    add("--json", metavar="FILE", help="also write everything there")
    add("--report", metavar="FILE", help="also write a page about it, one .html file")


def ope(options: dict[str, Any]) -> int:
    """Evaluate one policy; prints the page.

    Returns:
        0, 3 if nothing is eligible, 4 if eligible estimates disagree.
    """
    check_options(options)
    result = evaluate_file(options["policy"], read_log(options), options)
    print(result.table())
    if options.get("json"):
        write_json(options["json"], result.to_dict())
    if options.get("report"):
        from lightning_offrl.reports.ope.page import write

        print(f"page: {write(result, options['report'])}")
    return result.verdict.exit_code


def read_policy(path: str, episodes: Episodes, kind: str = "greedy") -> tuple[TargetPolicy, list[str]]:
    """A policy from any file that holds one, and what there is to say about it.

    Args:
        path: ``policy.pt``, ``.ckpt``, ``.onnx``, ``.ts`` (TorchScript), the ``.json`` of a Gaussian policy, or Python
            code as ``file.py:function``.
        episodes: the log, whose spaces must be those of the policy.
        kind: of a trained policy, see ``offrl ope --help``.

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


def check_options(options: dict[str, Any]) -> None:
    """Numbers and combinations that mean nothing, before any work is done."""
    for name, low, high in (
        ("discount", 0.0, 1.0),
        ("n_boot", 1, None),
        ("updates", 1, None),
        ("refits", 0, None),
        ("bandwidth", 0.0, None),
        ("max_weight", 0.0, None),
    ):
        value = options.get(name)
        if value is not None and not (low <= value and (high is None or value <= high)):
            wanted = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
            raise InputError(f"--{name.replace('_', '-')} must be {wanted}, got {value:g}")
    if options.get("reward_range") is not None and not options["reward_range"][0] < options["reward_range"][1]:
        low, high = options["reward_range"]
        raise InputError(f"--reward-range must be the lowest and the highest reward, got {low:g} and {high:g}")
    if options.get("labels") is not None and options.get("by") is None and options.get("cluster") is None:
        by = "--by COLUMN or " if "by" in options else ""
        raise InputError(f"--labels is a table of labels; say which of its columns with {by}--cluster COLUMN")
    if options.get("time_unit") is not None and options.get("time") is None:
        raise InputError("--time-unit says what the times of --time COLUMN are counted in; give --time too")
    for name in ("json", "report"):
        if options.get(name) is None:
            continue
        target = Path(options[name])
        parent = next(one for one in target.absolute().parents if one.exists())
        if not parent.is_dir() or (name == "json" and target.is_dir()):
            where = f"{target} is no file" if parent.is_dir() else f"{parent} is no folder"
            raise InputError(f"--{name} {target} cannot be written: {where}; name another place")


def evaluate_file(path: str, log: Log, options: dict[str, Any]) -> Evaluation:
    """Everything that the options ask of one policy; the log's notes are put before its own."""
    from lightning_offrl.ope.evaluate import evaluate, refused
    from lightning_offrl.ope.weighting.importance import kernel_bandwidth

    episodes = log.episodes
    policy, said = read_policy(path, episodes, options["kind"])
    bandwidth = options.get("bandwidth")
    if bandwidth == 0.0:
        bandwidth = kernel_bandwidth(episodes.data["action"], episodes.n_episodes)
    weighable = refused(policy) is None or bandwidth is not None
    behavior, name = _behavior(options["behavior"], log, options, weighable)
    column = options.get("by")
    result = evaluate(
        policy,
        episodes,
        discount=options["discount"],
        horizon=options.get("horizon"),
        estimators=[part for part in options["estimators"].split(",") if part],
        behavior=behavior,
        behavior_name=name,
        direct=_direct(policy, log, options),
        by=None if column is None else {column: log.labels(column, options.get("labels"))},
        clusters=log.clusters,
        elapsed=_elapsed(episodes, options),
        reward_range=options.get("reward_range"),
        max_weight=options.get("max_weight"),
        bandwidth=bandwidth,
        level=options["level"],
        interval=options["interval"],
        tail=options.get("tail"),
        n_boot=options["n_boot"],
        seed=options["seed"],
        name=policy_name(path),
    )
    fitted = list(getattr(behavior, "notes", []))
    if options.get("time") is not None:
        unit = options.get("time_unit")
        fitted.append(
            f"the discount is per {unit or 'unit'} of {options['time']}; --direct discounts by step: left out"
        )
    result.notes = (*log.notes, *said, *fitted, *result.notes)
    result.provenance = provenance(path, log, options)
    return result


def provenance(path: str, log: Log, options: dict[str, Any]) -> dict[str, str]:
    """What was evaluated on what, by which versions; hashes are SHA-256, the first 16 digits."""
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
        out["policy evaluated as"] = options["kind"]
    out |= {
        "data": f"{options['data']} ({episodes.n_episodes:,} episodes, {len(episodes):,} steps)",
        "data fingerprint": episodes.fingerprint,
        **({} if log.clusters is None else {"resampled": log.clusters.words}),
        "behavior": options["behavior"],
        "fitted estimates": f"{options['direct']}, {options['refits']} refits",
        "seed": str(options["seed"]),
    }
    for name in ("lightning-offrl", "torch", "lightning"):
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            out[name] = "not installed as a package"
    return out


def _elapsed(episodes: Episodes, options: dict[str, Any]) -> Tensor | None:
    from lightning_offrl.ope.weighting.groups import elapsed_of

    column = options.get("time")
    return None if column is None else elapsed_of(episodes, column, options.get("time_unit"))


def _behavior(how: str, log: Log, options: dict[str, Any], weighable: bool) -> tuple[TargetPolicy | None, str | None]:
    episodes = log.episodes
    logged = "behavior_log_prob" in episodes.data.keys()
    if how == "auto":
        how = "logged" if logged or not weighable else "fit"
    if how == "logged":
        if not logged and weighable and options["behavior"] == "logged":
            raise InputError(f"{episodes.name} has no logged probabilities; use --behavior fit, or a policy file")
        return None, None
    if how == "fit":
        from lightning_offrl.ope.policies.behavior import fit_behavior

        return fit_behavior(episodes, clusters=log.clusters, seed=options["seed"]), "estimated"
    return read_policy(how, episodes, "stochastic")[0], policy_name(how)


def _direct(policy: TargetPolicy, log: Log, options: dict[str, Any]) -> list[DirectEstimate]:
    from lightning_offrl.ope.direct.lstd import lstd
    from lightning_offrl.ope.direct.model_based import model_rollouts

    names = [name for name in options["direct"].split(",") if name and name != "none"]
    if options.get("time") is not None:
        return []
    episodes, refits = log.episodes, options["refits"]
    how: dict[str, Any] = {"discount": options["discount"], "clusters": log.clusters, "seed": options["seed"]}
    found = []
    for name in names:
        if name == "fqe":
            from lightning_offrl.ope.direct.fqe import BUDGETS as UPDATES
            from lightning_offrl.ope.direct.fqe import fqe

            updates = UPDATES[options["budget"]] if options.get("updates") is None else options["updates"]
            found.append(fqe(policy, episodes, updates=updates, replicates=refits, **how))
        elif name == "lstd":
            found.append(lstd(policy, episodes, replicates=refits, **how))
        elif name == "mb":
            horizon = options.get("horizon")
            if horizon is not None and horizon >= int(episodes.length.max()):
                horizon = None
            model = _dynamics(log, options)
            found.append(model_rollouts(policy, episodes, model=model, horizon=horizon, replicates=refits, **how))
        elif name == "dice":
            from lightning_offrl.ope.direct.dice import dice

            length = {} if options.get("updates") is None else {"updates": options["updates"]}
            found.append(dice(policy, episodes, replicates=refits, **how, **length))
        elif name == "drl":
            from lightning_offrl.ope.direct.double_reinforcement import drl

            length = {} if options.get("updates") is None else {"updates": options["updates"]}
            found.append(drl(policy, episodes, **how, **length))
        else:
            raise InputError(f"--direct has no {name!r}; there are {', '.join(DIRECT)} and none")
    return found


def _dynamics(log: Log, options: dict[str, Any]) -> DynamicsEnsemble | None:
    """One model for all policies of this command; None for tabular data, which need none."""
    from lightning_offrl.data.episodes import is_tabular
    from lightning_offrl.dynamics.ensemble import fit_dynamics

    episodes = log.episodes
    if is_tabular(episodes):
        return None
    if "dynamics" not in options:
        updates = {} if options.get("updates") is None else {"updates": options["updates"]}
        options["dynamics"] = fit_dynamics(episodes, clusters=log.clusters, seed=options["seed"], **updates)
    fitted: DynamicsEnsemble = options["dynamics"]
    return fitted


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
