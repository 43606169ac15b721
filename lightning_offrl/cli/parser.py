"""The parser of the verbs other than ``fit``, and what all verbs have in common."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from lightning_offrl.errors import InputError
from lightning_offrl.training import old_names


class Parser(argparse.ArgumentParser):
    """A parser that raises one sentence in place of usage and exit, and names the option that was probably meant.

    A dash inside the name of an option is read as an underscore.

    Args:
        **settings: The settings of `argparse.ArgumentParser`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": _Help, "allow_abbrev": False, **settings})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, with the options by their names of today."""
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
    """The help with those defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False or action.default == []
        return action.help if silent else super()._get_help_string(action)


def nearest(name: str, known: Sequence[str], *, all_if_few: int = 0) -> str:
    """``; did you mean A or B?``, or the whole list where nothing is near and it is short, or nothing."""
    rated = [(difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio(), other) for other in known]
    best = max((rating for rating, _ in rated), default=0.0)
    if best >= 0.55:
        close = [other for rating, other in sorted(rated, reverse=True) if rating >= best - 0.05]
        return f"; did you mean {' or '.join(close[:3])}?"
    return f"; there are {', '.join(known)}" if len(known) <= all_if_few else ""


def add_import(parser: argparse.ArgumentParser) -> None:
    """Add ``--import``, for verbs that read policies or make environments."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="A module to import first, also from this folder: one that defines the algorithm of your policy, or that "
        "registers an environment. May be repeated.",
    )


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> dict[str, Any]:
    """The options, once the modules of ``--import`` are imported."""
    from lightning_offrl.training.algorithm_names import import_modules

    options = vars(parser.parse_args(words))
    import_modules(options.pop("imports"))
    return options
