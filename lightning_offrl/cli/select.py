"""``offrl select``: choose among policies from a log, check the choice, and plan the first episodes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_offrl.cli.ope import check_options, evaluate_file, policy_name, write_json
from lightning_offrl.cli.ope_log import read_log
from lightning_offrl.errors import InputError

if TYPE_CHECKING:
    from lightning_offrl.ope.result import Evaluation
    from lightning_offrl.ope.selection.online_plan import Estimates, Plan


RANKINGS = ("less-error", "lower", "conservative", "value", "regret")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that ``offrl ope`` does not have."""
    add = parser.add_argument
    add(
        "--rank-by",
        choices=RANKINGS,
        default=RANKINGS[0],
        help="order policies by the estimate that speaks for each, less one standard error; by its lower bound; by the "
        "smallest lower bound of all eligible estimates; by the estimate; or by how much better than it another may "
        "be at most",
    )
    add(
        "--second-split",
        type=float,
        metavar="SHARE",
        help="choose without this share of the episodes, and estimate what was chosen again on them",
    )
    add("--truth", metavar="JSON", help='true values, {"name": value}, to judge the ranking by')
    add("--safe-above", type=float, metavar="VALUE", help="what counts as safe; default: the log's mean")
    add_plan_options(parser)
    add(
        "--from",
        dest="source",
        metavar="FILE",
        help="plan again from what --json wrote: nothing is evaluated, and of the other options only those of the plan "
        "and --json count",
    )


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """Options of the plan."""
    add = parser.add_argument
    add("--plan", type=int, metavar="N", help="plan the next N episodes to play, from the estimates")
    add("--played", metavar="JSON", help='returns of episodes played already, {"name": [return, ...]}, for --plan')
    add("--episode-sd", type=float, metavar="SD", help="of an episode's return, for --plan; default: the log's")
    add("--trust", type=float, metavar="N", help="most episodes that an estimate counts for in --plan; default: 3")
    add(
        "--plan-unknown",
        type=int,
        default=0,
        metavar="N",
        help="give each policy without an eligible estimate N episodes of --plan before all else; 0: leave it out "
        "until it was played",
    )


def plan_again(options: dict[str, Any]) -> int:
    """``offrl select --from FILE``: a plan from the estimates that an earlier choice wrote.

    Raises:
        InputError: a file that is none, or no number of episodes.
    """
    from lightning_offrl.ope.selection.online_plan import Estimates

    if options.get("plan") is None:
        raise InputError("--from is for a plan: give --plan N as well, the number of episodes to plan")
    try:
        content = json.loads(Path(options["source"]).read_text())
    except (OSError, ValueError) as problem:
        raise InputError(f"{options['source']} cannot be read; give what offrl select --json wrote") from problem
    ahead = _plan(Estimates.from_dict(content.get("estimates") if isinstance(content, dict) else None), options)
    print(ahead.table())
    if options.get("json"):
        write_json(options["json"], content | {"plan": ahead.to_dict()})
    return 0


def _plan(estimates: Estimates, options: dict[str, Any]) -> Plan:
    from lightning_offrl.ope.selection.online_plan import TRUST, plan

    return plan(
        estimates,
        options["plan"],
        played=_numbers(options.get("played"), "[return, ...]", several=True),
        noise=options.get("episode_sd"),
        trust=TRUST if options.get("trust") is None else options["trust"],
        unknown=options["plan_unknown"],
    )


def select(options: dict[str, Any]) -> int:
    """Evaluate several policies and rank them; prints the table.

    Returns:
        0, or 3 if no policy has an eligible estimate.
    """
    from lightning_offrl.data.split import split_by_episode
    from lightning_offrl.ope.selection.online_plan import Estimates
    from lightning_offrl.ope.selection.ranking import compare

    check_options(options)
    files: dict[str, str] = {}
    for path in options["policies"]:
        name = policy_name(path)
        if name in files:
            raise InputError(f"two of the policies are called {name!r}; rename one of the files")
        files[name] = path
    for name in ("played", "plan_unknown"):
        if options.get(name) and options.get("plan") is None:
            verb = name.replace("_", "-")
            raise InputError(f"--{verb} is for a plan: give --plan N as well, the number of episodes to plan")
    truths = _numbers(options.get("truth"), "value")
    missing = [name for name in files if truths is not None and name not in truths]
    if missing and truths is not None:
        raise InputError(f"{options['truth']} has no value for {', '.join(missing)}; it has {', '.join(truths)}")
    _numbers(options.get("played"), "[return, ...]", several=True)  # to complain before the work, not after it
    log = read_log(options)
    second, share = None, options.get("second_split")
    if share is not None:
        first, rest = split_by_episode(log.episodes, share, options["split_seed"] + 1, log.clusters)
        second = log.select(rest, [f"{len(rest):,} episodes that took no part in the choice"])
        said = f"the choice is made on {len(first):,} of these, without the second split"
        log = log.select(first, [*log.notes, said])
    evaluations: dict[str, Evaluation] = {}
    for name, path in files.items():
        evaluations[name] = evaluate_file(path, log, options)
    choice = compare(evaluations, truths, threshold=options.get("safe_above"), rank_by=options["rank_by"])
    if second is not None and choice.chosen is not None:
        options.pop("dynamics", None)  # a model of the episodes that chose
        choice.again = evaluate_file(files[choice.chosen], second, options)
    print(choice.table())
    estimates = Estimates.of(evaluations)
    content: dict[str, Any] = {
        "chosen": choice.chosen,
        "rank_by": choice.rank_by,
        "ranking": choice.ranking,
        "by_point": choice.by_point,
        "by_lower": choice.by_lower,
        "top": choice.top,
        "regret": {name: x if x == x else None for name, x in zip(choice.names, choice.regret.tolist(), strict=True)},
        "estimates": estimates.to_dict(),
        "measures": choice.measures,
        "policies": {name: evaluation.to_dict() for name, evaluation in evaluations.items()},
        "again": None if choice.again is None else choice.again.to_dict(),
    }
    ahead = None
    if options.get("plan") is not None:
        ahead = _plan(estimates, options)
        print(f"\n{ahead.table()}")
        content["plan"] = ahead.to_dict()
    if options.get("json"):
        write_json(options["json"], content)
    if options.get("report"):
        from lightning_offrl.reports.ope.selection import write

        print(f"page: {write(choice, options['report'], ahead)}")
    return 0 if choice.by_point else 3


def _numbers(path: str | None, form: str, several: bool = False) -> dict[str, Any] | None:
    """``{"policy": number}`` or ``{"policy": [number, ...]}`` from a JSON file."""
    if path is None:
        return None
    try:
        found = json.loads(Path(path).read_text())
        return {str(name): [float(x) for x in value] if several else float(value) for name, value in found.items()}
    except (OSError, ValueError, AttributeError, TypeError) as problem:
        raise InputError(f'{path} must be JSON of the form {{"policy": {form}, ...}} ({problem})') from problem
