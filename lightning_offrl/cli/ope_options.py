"""The options of ``offrl ope`` and ``offrl select``, read once into classes that are passed on whole."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_offrl.errors import InputError

if TYPE_CHECKING:
    from lightning_offrl.ope.settings import OPESettings

DIRECT = ("fqe", "lstd", "mb", "dice", "drl")
KINDS = ("greedy", "stochastic", "truncated")
INTERVALS = ("auto", "percentile", "percentile-t", "bca", "delta")
BUDGETS = ("smoke", "pilot", "paper")


@dataclass(frozen=True)
class LogOptions:
    """Which episodes are used, and which of them belong together.

    Attributes:
        data: A Minari id, or the path of a file.
        validation_fraction: The share of the episodes that `fit` held out, and that are used; None: all are used.
        split_seed: The seed of that split.
        cluster: The column that says which episodes belong to one person or machine.
        labels: A table of labels of the episodes.
    """

    data: str
    validation_fraction: float | None = None
    split_seed: int = 0
    cluster: str | None = None
    labels: str | None = None


@dataclass(frozen=True)
class DirectOptions:
    """Which direct estimates are fitted.

    Attributes:
        methods: Names out of `DIRECT`.
        budget: The number of updates of fitted Q evaluation, by name.
        updates: The number of updates of all methods that have them; None: the budget, and each method's default.
        refits: The number of refits to resampled episodes.
    """

    methods: tuple[str, ...] = ("fqe",)
    budget: str = "pilot"
    updates: int | None = None
    refits: int = 10

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in DIRECT:
                raise InputError(f"--direct has no {name!r}; there are {', '.join(DIRECT)} and none")
        for name, least in (("updates", 1), ("refits", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name} must be at least {least}, got {value}")

    @property
    def given_updates(self) -> dict[str, Any]:
        """``updates`` as a keyword, where it was given."""
        return {} if self.updates is None else {"updates": self.updates}


@dataclass(frozen=True)
class OPEOptions:
    """The options that hold for every policy of one command.

    Attributes:
        settings: What is estimated, and how; a bandwidth of 0 stands for the rule.
        log: Which episodes are used.
        direct: Which direct estimates are fitted.
        kind: How a trained policy is evaluated, one of `KINDS`.
        behavior: "auto", "logged", "fit" or a policy file.
        time: The column of times to discount by.
        time_unit: The unit of time of the discount.
        by: The column whose groups are evaluated, too.
    """

    settings: OPESettings
    log: LogOptions
    direct: DirectOptions
    kind: str = "greedy"
    behavior: str = "auto"
    time: str | None = None
    time_unit: str | None = None
    by: str | None = None


def read_options(parsed: dict[str, Any]) -> OPEOptions:
    """The options out of parsed words; other options are left in ``parsed``.

    Raises:
        InputError: a number or a combination that has no meaning, or an output that cannot be written.
    """
    from lightning_offrl.ope.settings import OPESettings

    def take(*names: str) -> dict[str, Any]:
        return {name: parsed.pop(name) for name in names}

    check_outputs(parsed)
    by = "--by COLUMN or " if "by" in parsed else ""
    log = LogOptions(**take("data", "validation_fraction", "split_seed", "cluster", "labels"))
    direct = DirectOptions(_names(parsed.pop("direct")), **take("budget", "updates", "refits"))
    numbers = take("discount", "horizon", "reward_range", "max_weight", "bandwidth", "tail", "level", "n_boot", "seed")
    settings = OPESettings(estimators=_names(parsed.pop("estimators")), interval=parsed.pop("interval"), **numbers)
    words = take("kind", "behavior", "time", "time_unit")
    options = OPEOptions(settings, log, direct, by=parsed.pop("by", None), **words)
    if log.labels is not None and options.by is None and log.cluster is None:
        raise InputError(f"--labels is a table of labels; say which of its columns with {by}--cluster COLUMN")
    if options.time_unit is not None and options.time is None:
        raise InputError("--time_unit says what the times of --time COLUMN are counted in; give --time too")
    return options


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name and name != "none")


def check_outputs(parsed: dict[str, Any]) -> None:
    """Raise an InputError if ``--json`` or ``--report`` cannot be written, before any work is done."""
    for name in ("json", "report"):
        if parsed.get(name) is None:
            continue
        target = Path(parsed[name])
        parent = next(one for one in target.absolute().parents if one.exists())
        if not parent.is_dir() or (name == "json" and target.is_dir()):
            where = f"{target} is no file" if parent.is_dir() else f"{parent} is no folder"
            raise InputError(f"--{name} {target} cannot be written: {where}; name another place")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that both verbs have."""
    add = parser.add_argument
    add("--data", required=True, metavar="SOURCE", help="The log: a Minari id, or the path of a D4RL .hdf5 or an .npz.")
    add("--discount", type=float, default=0.99, help="The discount factor per step, or per unit of time with --time.")
    add("--horizon", type=int, metavar="STEPS", help="The number of first steps that count; all if not given.")
    add(
        "--kind",
        choices=KINDS,
        default="greedy",
        help="What of a trained policy is evaluated: its greedy action, the density that it was trained with, or that "
        "density truncated to the box where it would be clipped.",
    )
    add(
        "--behavior",
        default="auto",
        metavar="logged|fit|FILE",
        help="The probabilities that the weights divide by: the log's own, a fit to the log (ris), or a policy file; "
        "auto takes those of the log where it has them, and else a fit, for policies that have weights.",
    )
    add(
        "--estimators",
        default="auto",
        metavar="LIST",
        help="The estimators from weights, with commas: auto, is, wis, pdis, cwpdis, dr, wdr, magic.",
    )
    add(
        "--direct",
        default="fqe",
        metavar="LIST",
        help=f"The direct estimates, with commas: {', '.join(DIRECT)}, or none.",
    )
    add("--budget", choices=BUDGETS, default="pilot", help="Gradient updates of fqe: 5,000, 100,000 or 1,000,000.")
    add("--updates", type=int, metavar="N", help="Gradient updates of fqe (in place of --budget), mb, dice and drl.")
    add(
        "--refits",
        type=int,
        default=10,
        metavar="N",
        help="The number of refits to resampled episodes, for the intervals of --direct.",
    )
    add(
        "--bandwidth",
        type=float,
        metavar="WIDTH",
        help="The width by which a deterministic continuous policy is blurred, so that it has weights (kis); 0 takes a "
        "width by rule.",
    )
    add(
        "--validation_fraction",
        type=float,
        metavar="SHARE",
        help="The --data.validation_fraction of a `fit`: only the episodes that it held out are used. All episodes if "
        "not given.",
    )
    add("--split_seed", type=int, default=0, metavar="SEED", help="The --seed_everything of that `fit`.")
    add(
        "--cluster",
        metavar="COLUMN",
        help="The column with the person, user or machine that an episode belongs to: intervals resample these, and "
        "splits keep them together (fit with --data.cluster). It is a column of --labels, of the data or of its log.",
    )
    add(
        "--labels",
        metavar="CSV",
        help="A table of labels of the episodes, one line each, with a header; for --cluster it has a line for every "
        "episode of the data.",
    )
    add("--time", metavar="COLUMN", help="The column of the data with the times to discount by; without --direct.")
    add("--time_unit", choices=("s", "min", "h", "d"), help="The unit of --discount, where the log has real times.")
    add(
        "--reward_range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="The range of the reward of one step, for guaranteed intervals.",
    )
    add(
        "--max_weight",
        type=float,
        metavar="WEIGHT",
        help="The largest possible weight of an episode, for guaranteed intervals of is and pdis.",
    )
    add("--level", type=float, default=0.95, help="The probability that an interval covers the value.")
    add(
        "--interval",
        choices=INTERVALS,
        default="auto",
        help="The method of the intervals of estimates from weights; auto takes percentile-t below 100 episodes.",
    )
    add(
        "--tail",
        type=float,
        metavar="SHARE",
        help="The share of worst episodes whose mean return is estimated, too, such as 0.1.",
    )
    add("--n_boot", type=int, default=1000, help="The number of resamples of the episodes.")
    add("--seed", type=int, default=0, help="The seed of all random numbers.")
    add("--json", metavar="FILE", help="The file to write all numbers to.")
    add("--report", metavar="FILE.html", help="The file to write a report to.")
