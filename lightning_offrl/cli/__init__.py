"""``offrl``: one door to everything that has a command line.

This module imports nothing heavy, so that help appears at once. ``offrl fit`` is Lightning's command line
(`lightning_offrl.cli.fit`); the other verbs are plain functions behind plain options.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from lightning_offrl.errors import InputError
from lightning_offrl.training import old_names

VERBS = {
    "fit": "train an algorithm on a dataset",
    "evaluate": "play episodes with a checkpoint or an exported policy",
    "ope": "estimate what a policy would earn, from a log alone",
    "select": "choose among policies, from a log alone",
    "plan": "plan which policy to play next, from what select wrote",
    "collect": "make a dataset from an environment with built-in or trained policies",
    "data": "look at a dataset, report on it, convert it, or import logs",
    "quickstart": "collect, train three algorithms, evaluate, and write a page about it",
    "version": "print the versions of this package and what it stands on",
}
_EXAMPLES = """examples:
  offrl fit --config iql --data.source hopper/medium-v0
  offrl fit --ckpt_path runs/NAME/checkpoints/last.ckpt
  offrl evaluate runs/NAME/checkpoints/last.ckpt --episodes 20
  offrl collect Pendulum-v1 pendulum/mixed-v0 --episodes 200
  offrl data show hopper/medium-v0
  offrl data report hopper/medium-v0
  offrl data import logs.parquet --map map.yaml
"""


class _Parser(argparse.ArgumentParser):
    """A parser that raises our sentence in place of usage and exit, and names what was probably meant.

    A dash inside the name of an option is read as an underscore.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """What argparse does, with the options by their names of today."""
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._today(word) for word in words], namespace)

    def _today(self, word: str) -> str:
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name in self._option_string_actions:
            return word
        same = f"--{name[2:].replace('-', '_')}"
        today = old_names.OPTIONS.get(same, same)
        if today not in self._option_string_actions:
            return word
        if today != same:
            old_names.warn({name: today})
        return f"{today}{equals}{value}"

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            options = [option for action in self._actions for option in action.option_strings]
            name = unknown.split()[0].split("=")[0]
            message = f"{self.prog} has no option {name}{nearest(name, options)}"
        raise InputError(f"{message} (see {self.prog} --help)")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def nearest(name: str, known: Sequence[str], *, all_if_few: int = 0) -> str:
    """``; did you mean A or B?``, or the whole list where nothing is near and it is short, or nothing."""
    rated = [(difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio(), other) for other in known]
    best = max((rating for rating, _ in rated), default=0.0)
    if best >= 0.55:
        close = [other for rating, other in sorted(rated, reverse=True) if rating >= best - 0.05]
        return f"; did you mean {' or '.join(close[:3])}?"
    return f"; there are {', '.join(known)}" if len(known) <= all_if_few else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb.

    Args:
        argv: the words after ``offrl``; ``None``: those of the process.

    Returns:
        The exit status: 0, 2 for a mistake in the input (told in one sentence on standard error), 130 or 143 after
        Ctrl-C or SIGTERM. Set ``OFFRL_DEBUG=1`` to see stack traces.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words) or 0
    except InputError as error:
        return _report(str(error))
    except SystemExit as end:  # --help, or a run stopped by a signal
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        print("\noffrl: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # offrl data show X | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _report(sentence: str) -> int:
    if os.environ.get("OFFRL_DEBUG"):
        raise  # noqa: PLE0704 (called from an except block)
    print(f"offrl: error: {' '.join(sentence.split())}", file=sys.stderr)
    return 2


def _dispatch(words: list[str]) -> int | None:
    if not words or words[0] in ("-h", "--help", "help"):
        width = max(map(len, VERBS))
        print("usage: offrl VERB [options]\n\nOffline reinforcement learning on PyTorch Lightning.\n")
        print("\n".join(f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()))
        print(f"\n{_EXAMPLES}\noffrl VERB --help tells more.")
        return 0
    verb, rest = words[0], old_names.command_line(words[1:])
    if verb in ("--version", "version"):
        return _version(rest)
    if verb not in VERBS:
        hint = nearest(verb, list(VERBS), all_if_few=len(VERBS))
        raise InputError(f"offrl has no verb {verb!r}{hint}")
    handlers: dict[str, Callable[[list[str]], int | None]] = {
        "fit": _fit,
        "evaluate": _evaluate,
        "ope": _ope,
        "select": _select,
        "plan": _plan,
        "collect": _collect,
        "data": _data,
        "quickstart": _quickstart,
    }
    return handlers[verb](rest)


def _parser(verb: str, description: str, **options: Any) -> _Parser:
    return _Parser(
        prog=f"offrl {verb}",
        description=description,
        formatter_class=_Help,
        allow_abbrev=False,
        **options,
    )


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import this module first, also from this folder: it defines the algorithm of a policy of yours, or "
        "registers an environment; may be repeated",
    )


def _parse(parser: argparse.ArgumentParser, words: list[str]) -> dict[str, Any]:
    """The options, once the modules of ``--import`` are imported."""
    from lightning_offrl.training.algorithm_names import import_modules

    options = vars(parser.parse_args(words))
    import_modules(options.pop("imports"))
    return options


def take_imports(words: Sequence[str]) -> list[str]:
    """The words without ``--import MODULE``, whose modules are imported; for ``offrl fit``, which has other parsers."""
    from lightning_offrl.training.algorithm_names import import_modules

    names, rest, pending = [], [], False
    for word in words:
        if pending or word.startswith("--import="):
            names.append(word if pending else word.partition("=")[2])
            pending = False
        elif word == "--import":
            pending = True
        else:
            rest.append(word)
    if pending:
        raise InputError("--import needs the name of a module, as in --import my_module")
    import_modules(names)
    return rest


def _fit(words: list[str]) -> int | None:
    from lightning_offrl.cli.fit import fit

    return fit(words)


def _collect(words: list[str]) -> None:
    parser = _parser("collect", "Collect episodes with behavior policies and write them as a local Minari dataset.")
    parser.add_argument("environment", help="Gymnasium id, such as Pendulum-v1")
    parser.add_argument("dataset_id", help="namespace/name-v0; pass it on as --data.source")
    parser.add_argument("--episodes", type=int, default=150, help="how many")
    parser.add_argument(
        "--quality", default="mixed", help="mixed, a number from 0 (random) to 1 (good), or several: 0,0.5,1"
    )
    parser.add_argument("--policy", metavar="FILE", help="an exported policy.pt in place of the built-in controller")
    parser.add_argument("--noise", type=float, default=0.1, help="deviation around the action, in half action ranges")
    parser.add_argument("--seed", type=int, default=0, help="of everything")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of this id")
    _add_import(parser)
    options = _parse(parser, words)
    from lightning_offrl.data.writers.collect import collect

    options["quality"] = _quality(options["quality"])
    if options["policy"] is not None:
        from lightning_offrl.policy import load_policy

        options["policy"] = load_policy(options["policy"])
    done = collect(options.pop("environment"), options.pop("dataset_id"), **options)
    config = "iql" if done.action_kind == "box" else "discrete_cql"
    print(f"{done.table}\nwritten to {done.path}\nnext: offrl fit --config {config} --data.source {done.dataset_id}")


def _quality(text: str) -> str | float | list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        return text
    return values[0] if len(values) == 1 else values


def _evaluate(words: list[str]) -> None:
    parser = _parser("evaluate", "Play episodes with a trained policy and report returns, lengths and scores.")
    parser.add_argument("checkpoint", help="a .ckpt file, or an exported policy.pt")
    parser.add_argument("--environment", metavar="ID", help="Gymnasium id; default: that of the training data")
    parser.add_argument("--episodes", type=int, default=10, help="how many, for each of the run's seeds")
    parser.add_argument("--seed", type=int, default=1000, help="episode i is reset with seed + i")
    parser.add_argument("--video", metavar="FILE", help="also film one episode into this .mp4 or .gif")
    _add_import(parser)
    options = _parse(parser, words)
    from lightning_offrl.cli.evaluate import evaluate_checkpoint

    print(evaluate_checkpoint(options.pop("checkpoint"), **options))


def _ope(words: list[str]) -> int:
    from lightning_offrl.cli import ope, ope_options

    parser = _parser(
        "ope", "Estimate what a policy would earn, from a log alone. Exit status 3: abstains, 4: disagree."
    )
    files = "policy.pt, .ckpt, .onnx, .ts, the .json of a Gaussian policy, or file.py:function of observations"
    parser.add_argument("--policy", required=True, metavar="FILE", help=files)
    ope_options.add_options(parser)
    parser.add_argument("--by", metavar="COLUMN", help="estimates for each group too: a column of --labels or the data")
    _add_import(parser)
    return ope.ope(_parse(parser, words))


def _select(words: list[str]) -> int:
    from lightning_offrl.cli import ope_options, select

    names = [word.partition("=")[0] for word in words]
    if "--from" in names:  # before there was a verb for it
        old_names.warn({"offrl select --from FILE --plan N": "offrl plan FILE --episodes N"})
        at = names.index("--from")
        words[at : at + 1] = [words[at].partition("=")[2]] if "=" in words[at] else []
        return _plan([re.sub(r"^--plan(?=$|=)", "--episodes", word) for word in words])
    parser = _parser("select", "Choose among policies, from a log alone.")
    parser.add_argument("--policies", nargs="+", required=True, metavar="FILE", help="as in offrl ope")
    ope_options.add_options(parser)
    select.add_options(parser)
    _add_import(parser)
    return select.select(_parse(parser, words))


def _plan(words: list[str]) -> int:
    from lightning_offrl.cli import plan

    parser = _parser("plan", "Plan which policy to play in the next episodes, from the estimates of offrl select.")
    parser.add_argument("file", metavar="FILE", help="what offrl select --json wrote")
    parser.add_argument("--episodes", type=int, default=20, metavar="N", help="number of episodes to plan")
    plan.add_plan_options(parser)
    parser.add_argument("--json", metavar="FILE", help="also write everything in FILE with this plan to this file")
    return plan.plan_from_file(vars(parser.parse_args(words)))


def _data(words: list[str]) -> None:
    parser = _parser("data", "Look at a dataset, report on it, convert it, or import logs.")
    verbs = parser.add_subparsers(dest="verb", metavar="{show,report,convert,import}")
    source = "a Minari id, or the path of a D4RL .hdf5 file"
    show = verbs.add_parser("show", help="episodes, lengths, returns, endings, actions", allow_abbrev=False)
    show.add_argument("source", help=source)
    report = verbs.add_parser(
        "report",
        help="an HTML report: what is in it, what is wrong with it, and what to do with it",
        formatter_class=_Help,
        allow_abbrev=False,
    )
    report.add_argument("source", help=source)
    report.add_argument("--output", metavar="PATH", help="an .html path or a directory; default: NAME-report.html here")
    report.add_argument("--discount", type=float, default=0.99, help="gamma per step, of the values to be learned")
    report.add_argument("--seed", type=int, default=0, help="of what is sampled")
    convert = verbs.add_parser(
        "convert",
        help="write a D4RL file, an .npz or a dataset as a Minari dataset",
        description="Write a dataset as a Minari dataset: the same transitions, masks of legal actions, behavior "
        "log-probabilities, times, groups and names of columns; what has no place there is named.",
        allow_abbrev=False,
    )
    convert.add_argument("source", help="a Minari id, or the path of a D4RL .hdf5 file or of an .npz")
    convert.add_argument("dataset_id", help="namespace/name-v0 of the new Minari dataset")
    convert.add_argument("--environment", metavar="ID", help="Gymnasium id that the data came from")
    convert.add_argument("--overwrite", action="store_true", help="replace a dataset of this id")
    logs = verbs.add_parser(
        "import",
        help="write logs (Parquet or CSV) as a Minari dataset",
        description="Write logs as a Minari dataset; the map says which column is what (see "
        "lightning_offrl.data.logs, or --example, which also shows missing values, units, legal actions).",
        allow_abbrev=False,
    )
    logs.add_argument("files", nargs="*", help=".parquet or .csv files, or directories of them, in order")
    logs.add_argument("--map", metavar="FILE", help="YAML: columns to observation, action, reward, ...")
    logs.add_argument("--dataset_id", metavar="ID", help="namespace/name-v0; default: the map's, or logs/FILE-v0")
    logs.add_argument("--environment", metavar="ID", help="Gymnasium id to evaluate in, in place of the map's")
    logs.add_argument("--overwrite", action="store_true", help="replace a dataset of this id")
    logs.add_argument("--example", action="store_true", help="print a map that shows everything, and stop")
    if words and not words[0].startswith("-") and words[0] not in verbs.choices:
        hint = nearest(words[0], list(verbs.choices), all_if_few=9)
        raise InputError(f"offrl data has no verb {words[0]!r}{hint}")
    found, unknown = parser.parse_known_args(words)
    options = vars(found)
    verb = options.pop("verb")
    if unknown:
        (verbs.choices[verb] if verb else parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    if verb is None:
        parser.print_help()
    elif verb == "show":
        from lightning_offrl.data.describe import describe

        print(describe(options["source"]))
    elif verb == "report":
        _report_data(**options)
    elif verb == "import":
        _import(**options)
    else:
        from lightning_offrl.data.writers.convert import convert as run

        print(run(**options))


def _report_data(source: str, output: str | None, discount: float, seed: int) -> None:
    from lightning_offrl.reports.dataset.measure import measure
    from lightning_offrl.reports.dataset.write import summary, write

    measures = measure(source, discount=discount, seed=seed)
    report, numbers = write(measures, output)
    print(f"{summary(measures)}\nwritten to {report} and {numbers}")


def _import(
    files: list[str],
    map: str | None,
    dataset_id: str | None,
    environment: str | None,
    overwrite: bool,
    example: bool,
) -> None:
    if example:
        from lightning_offrl.data.logs import EXAMPLE

        print(EXAMPLE, end="")
        return
    if not files:
        raise InputError("offrl data import needs at least one .parquet or .csv file")
    if map is None:
        raise InputError(
            "offrl data import needs --map FILE, the YAML that says which column is what; "
            "offrl data import --example prints one to begin with"
        )
    from lightning_offrl.data.logs.import_logs import import_logs

    done = import_logs(files, map, dataset_id, environment=environment, overwrite=overwrite)
    print(f"{done}\nnext: offrl data report {done.dataset_id}")


def _quickstart(words: list[str]) -> int | None:
    from lightning_offrl.cli.quickstart import main as quickstart

    return quickstart(words)


def _version(words: list[str]) -> int:
    import platform
    from importlib import metadata

    _parser("version", VERBS["version"]).parse_args(words)
    names = ["lightning-offrl", "lightning", "torch", "tensordict", "gymnasium", "minari", "wandb"]
    for name in names:
        try:
            print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name} not installed")
    print(f"python {platform.python_version()} on {platform.platform()}")
    return 0
