"""``offrl data``: look at a dataset, report on it, convert it, or import logs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lightning_offrl.cli.parser import Parser, nearest
from lightning_offrl.errors import InputError

_DATA = "The dataset: a Minari id, or the path of a D4RL .hdf5 or an .npz file."
_OVERWRITE = "Replace the dataset of this name if there is one."


def main(words: Sequence[str]) -> None:
    """Run ``show``, ``report``, ``convert`` or ``import``."""
    parser = Parser(prog="offrl data", description="Look at a dataset, report on it, convert it, or import logs.")
    verbs = parser.add_subparsers(dest="verb", metavar="{show,report,convert,import}")
    runs = {"show": _add_show, "report": _add_report, "convert": _add_convert, "import": _add_import_of_logs}
    for add in runs.values():
        add(verbs)
    if words and not words[0].startswith("-") and words[0] not in runs:
        raise InputError(f"offrl data has no verb {words[0]!r}{nearest(words[0], list(runs), all_if_few=9)}")
    options, unknown = parser.parse_known_args(words)
    if unknown:
        chosen = verbs.choices[options.verb] if options.verb else parser
        chosen.error(f"unrecognized arguments: {' '.join(unknown)}")
    if options.verb is None:
        parser.print_help()
    else:
        options.run(options)


def _add_show(verbs: argparse._SubParsersAction[Parser]) -> None:
    show = verbs.add_parser("show", help="Print episodes, lengths, returns, endings and actions.")
    show.add_argument("data", help=_DATA)
    show.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> None:
    from lightning_offrl.data.describe import describe

    print(describe(options.data))


def _add_report(verbs: argparse._SubParsersAction[Parser]) -> None:
    what = "Write a report: what is in the dataset, what is wrong with it, and what to do about it."
    report = verbs.add_parser("report", help=what, description=what)
    report.add_argument("data", help=_DATA)
    report.add_argument(
        "--report",
        metavar="FILE.html",
        help="The file or the folder of the report; NAME-report.html in this folder if not given. All numbers lie "
        "beside it as .json.",
    )
    report.add_argument("--discount", type=float, default=0.99, help="The discount factor per step.")
    report.add_argument("--seed", type=int, default=0, help="The seed of all random numbers.")
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from lightning_offrl.reports.dataset.measure import measure
    from lightning_offrl.reports.dataset.write import summary, write

    measures = measure(options.data, discount=options.discount, seed=options.seed)
    report, numbers = write(measures, options.report)
    print(f"{summary(measures)}\nwritten to {report} and {numbers}")


def _add_convert(verbs: argparse._SubParsersAction[Parser]) -> None:
    convert = verbs.add_parser(
        "convert",
        help="Write a D4RL file, an .npz or another dataset as a Minari dataset.",
        description="Write a dataset as a Minari dataset: the same transitions, masks of legal actions, behavior "
        "log-probabilities, times, groups and names of columns. What has no place there is named.",
    )
    convert.add_argument("data", help=_DATA)
    convert.add_argument("dataset_id", help="The name of the new dataset, namespace/name-v0.")
    convert.add_argument("--environment", metavar="ID", help="The Gymnasium id of the environment of the data.")
    convert.add_argument("--overwrite", action="store_true", help=_OVERWRITE)
    convert.set_defaults(run=_convert)


def _convert(options: argparse.Namespace) -> None:
    from lightning_offrl.data.writers.convert import convert

    how = {"environment": options.environment, "overwrite": options.overwrite}
    print(convert(options.data, options.dataset_id, **how))


def _add_import_of_logs(verbs: argparse._SubParsersAction[Parser]) -> None:
    logs = verbs.add_parser(
        "import",
        help="Write logs (Parquet or CSV) as a Minari dataset.",
        description="Write logs as a Minari dataset. The map says which column is what: see lightning_offrl.data.logs, "
        "or --example, which also shows missing values, units and legal actions.",
    )
    add = logs.add_argument
    add("files", nargs="*", help="The .parquet or .csv files, or folders of them, in order.")
    add("--map", metavar="FILE", help="The YAML that says which columns are observation, action, reward, and so on.")
    add(
        "--dataset_id",
        metavar="ID",
        help="The name of the new dataset, namespace/name-v0; that in the map, or logs/FILE-v0, if not given.",
    )
    add("--environment", metavar="ID", help="The Gymnasium id to evaluate in, in place of that in the map.")
    add("--overwrite", action="store_true", help=_OVERWRITE)
    add("--example", action="store_true", help="Print a map that shows everything, and do nothing else.")
    logs.set_defaults(run=_import_logs)


def _import_logs(options: argparse.Namespace) -> None:
    if options.example:
        from lightning_offrl.data.logs import EXAMPLE

        print(EXAMPLE, end="")
        return
    if not options.files:
        raise InputError("offrl data import needs at least one .parquet or .csv file")
    if options.map is None:
        raise InputError(
            "offrl data import needs --map FILE, the YAML that says which column is what; "
            "offrl data import --example prints one to begin with"
        )
    from lightning_offrl.data.logs.import_logs import import_logs

    how = {"environment": options.environment, "overwrite": options.overwrite}
    done = import_logs(options.files, options.map, options.dataset_id, **how)
    print(f"{done}\nnext: offrl data report {done.dataset_id}")
