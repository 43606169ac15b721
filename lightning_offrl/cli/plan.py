"""``offrl plan``: which policy to play in the next episodes, from the estimates that ``offrl select --json`` wrote."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_offrl.cli.ope import write_json
from lightning_offrl.cli.ope_options import check_outputs
from lightning_offrl.cli.parser import Parser
from lightning_offrl.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_offrl.ope.selection.online_plan import Estimates, Plan


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a plan that ``offrl select`` has, too."""
    add = parser.add_argument
    add("--played", metavar="JSON", help='The returns of episodes played already, {"name": [return, ...]}.')
    add(
        "--episode_sd",
        type=float,
        metavar="SD",
        help="The standard deviation of the return of an episode; that of the log if not given.",
    )
    add(
        "--trust",
        type=float,
        metavar="N",
        help="The largest number of episodes that an estimate counts for in a plan; 3 if not given.",
    )
    add(
        "--plan_unknown",
        type=int,
        default=0,
        metavar="N",
        help="The number of episodes of each policy without an eligible estimate, planned before all others; with 0 "
        "such a policy is left out until it was played.",
    )


def main(words: Sequence[str]) -> int:
    """Plan episodes from the estimates in a file, and print the plan.

    Raises:
        InputError: the file has no estimates.
    """
    description = "Plan which policy to play in the next episodes, from the estimates of offrl select."
    parser = Parser(prog="offrl plan", description=description)
    parser.add_argument("file", metavar="FILE", help="The file that offrl select --json wrote.")
    parser.add_argument("--episodes", type=int, default=20, metavar="N", help="The number of episodes to plan.")
    add_plan_options(parser)
    parser.add_argument("--json", metavar="FILE", help="The file to write FILE with this plan to.")
    parsed = vars(parser.parse_args(words))
    from lightning_offrl.ope.selection.online_plan import Estimates

    check_outputs(parsed)
    try:
        content = json.loads(Path(parsed["file"]).read_text())
    except (OSError, ValueError) as problem:
        raise InputError(f"{parsed['file']} cannot be read; give what offrl select --json wrote") from problem
    estimates = Estimates.from_dict(content.get("estimates") if isinstance(content, dict) else None)
    ahead = plan_of(estimates, parsed["episodes"], parsed)
    print(ahead.table())
    if parsed["json"]:
        write_json(parsed["json"], content | {"plan": ahead.to_dict()})
    return 0


def plan_of(estimates: Estimates, episodes: int, parsed: dict[str, Any]) -> Plan:
    """The plan of so many episodes, with the options of `add_plan_options`."""
    from lightning_offrl.ope.selection.online_plan import TRUST, plan

    return plan(
        estimates,
        episodes,
        played=read_numbers(parsed["played"], "[return, ...]", several=True),
        noise=parsed["episode_sd"],
        trust=TRUST if parsed["trust"] is None else parsed["trust"],
        unknown=parsed["plan_unknown"],
    )


def read_numbers(path: str | None, form: str, several: bool = False) -> dict[str, Any] | None:
    """``{"policy": number}`` or ``{"policy": [number, ...]}`` from a JSON file."""
    if path is None:
        return None
    try:
        found = json.loads(Path(path).read_text())
        return {str(name): [float(x) for x in value] if several else float(value) for name, value in found.items()}
    except (OSError, ValueError, AttributeError, TypeError) as problem:
        raise InputError(f'{path} must be JSON of the form {{"policy": {form}, ...}} ({problem})') from problem
