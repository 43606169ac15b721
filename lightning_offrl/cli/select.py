"""``offrl select``: choose among policies from a log, check the choice, and plan the first episodes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lightning_offrl.cli import ope_options
from lightning_offrl.cli.ope import FILES, FittedLog, evaluate_file, policy_name, write_json
from lightning_offrl.cli.ope_log import Log, read_log
from lightning_offrl.cli.parser import Parser, add_import, parse
from lightning_offrl.cli.plan import add_plan_options, plan_of, read_numbers
from lightning_offrl.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_offrl.ope.selection.ranking import Choice


RANKINGS = ("less-error", "lower", "conservative", "value", "regret")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``offrl ope`` does not have."""
    add = parser.add_argument
    add(
        "--rank_by",
        choices=RANKINGS,
        default=RANKINGS[0],
        help="How policies are ordered: by the representative estimate less one standard error, by its lower bound, by "
        "the smallest lower bound of all eligible estimates, by the estimate itself, or by how much better another "
        "policy may be at most.",
    )
    add(
        "--confirmation_fraction",
        type=float,
        metavar="SHARE",
        help="The share of the episodes that takes no part in the choice and evaluates the chosen policy again.",
    )
    add("--truth", metavar="JSON", help='The true values, {"name": value}, to measure the ranking against.')
    add(
        "--safe_above",
        type=float,
        metavar="VALUE",
        help="The smallest value that counts as safe; the mean return of the log if not given.",
    )
    add("--plan", type=int, metavar="N", help="The number of next episodes to plan; offrl plan does it later.")
    add_plan_options(parser)


def main(words: Sequence[str]) -> int:
    """Evaluate several policies and rank them; print the ranking.

    Returns:
        0, or 3 if no policy has an eligible estimate.
    """
    parser = Parser(prog="offrl select", description="Choose among policies, from a log alone.")
    parser.add_argument("--policies", nargs="+", required=True, metavar="FILE", help=f"The policies, each {FILES}.")
    ope_options.add_options(parser)
    add_options(parser)
    add_import(parser)
    parsed = parse(parser, words)
    from lightning_offrl.ope.selection.online_plan import Estimates
    from lightning_offrl.ope.selection.ranking import compare

    options = ope_options.read_options(parsed)
    files = _by_name(parsed["policies"])
    truths = _checked_files(parsed, files)
    first, second = _split(read_log(options.log), parsed["confirmation_fraction"], options.log.split_seed)
    fitted = FittedLog(first, options)
    results = {name: evaluate_file(path, fitted, options) for name, path in files.items()}
    choice = compare(results, truths, threshold=parsed["safe_above"], rank_by=parsed["rank_by"])
    if second is not None and choice.chosen is not None:
        choice.again = evaluate_file(files[choice.chosen], FittedLog(second, options), options)
    print(choice.table())
    estimates = Estimates.of(results)
    ahead = None if parsed["plan"] is None else plan_of(estimates, parsed["plan"], parsed)
    if ahead is not None:
        print(f"\n{ahead.table()}")
    if parsed["json"]:
        planned = {} if ahead is None else {"plan": ahead.to_dict()}
        write_json(parsed["json"], _content(choice, estimates.to_dict()) | planned)
    if parsed["report"]:
        from lightning_offrl.reports.ope.selection import write

        print(f"report: {write(choice, parsed['report'], ahead)}")
    return 0 if choice.by_point else 3


def _by_name(paths: list[str]) -> dict[str, str]:
    files: dict[str, str] = {}
    for path in paths:
        name = policy_name(path)
        if name in files:
            raise InputError(f"two of the policies are called {name!r}; rename one of the files")
        files[name] = path
    return files


def _checked_files(parsed: dict[str, Any], files: dict[str, str]) -> dict[str, Any] | None:
    """The true values, where they are given; mistakes in these and in the plan are told before the work."""
    for name in ("played", "plan_unknown"):
        if parsed[name] and parsed["plan"] is None:
            raise InputError(f"--{name} is for a plan: give --plan N as well, the number of episodes to plan")
    read_numbers(parsed["played"], "[return, ...]", several=True)
    truths = read_numbers(parsed["truth"], "value")
    missing = [name for name in files if truths is not None and name not in truths]
    if missing and truths is not None:
        raise InputError(f"{parsed['truth']} has no value for {', '.join(missing)}; it has {', '.join(truths)}")
    return truths


def _split(log: Log, share: float | None, seed: int) -> tuple[Log, Log | None]:
    """The episodes that choose, and those that confirm the choice."""
    from lightning_offrl.data.split import split_by_episode

    if share is None:
        return log, None
    first, rest = split_by_episode(log.episodes, share, seed + 1, log.clusters)
    second = log.select(rest, [f"{len(rest):,} episodes that took no part in the choice"])
    said = f"the choice is made on {len(first):,} of these, without those that confirm it"
    return log.select(first, [*log.notes, said]), second


def _content(choice: Choice, estimates: dict[str, object]) -> dict[str, Any]:
    """Everything but the plan, as plain values for JSON."""
    from lightning_offrl.ope.text import plain_values

    return {
        "chosen": choice.chosen,
        "rank_by": choice.rank_by,
        "ranking": choice.ranking,
        "by_point": choice.by_point,
        "by_lower": choice.by_lower,
        "top": choice.top,
        "regret": plain_values(dict(zip(choice.names, choice.regret.tolist(), strict=True))),
        "estimates": estimates,
        "measures": choice.measures,
        "policies": {name: result.to_dict() for name, result in choice.evaluations.items()},
        "again": None if choice.again is None else choice.again.to_dict(),
    }
