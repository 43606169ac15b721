"""``offrl``: the command line. Each verb has a module of its own here, whose ``main`` takes the words after the verb.

Neither this module nor those of the verbs import anything heavy before there is work, so that help appears at once;
``offrl fit`` alone is Lightning's command line, which needs everything (`lightning_offrl.cli.fit.command`).
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from lightning_offrl.cli.parser import nearest
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
    "quickstart": "collect, train three algorithms, evaluate, and write a report",
    "version": "print the versions of this package and of those that it uses",
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb.

    Args:
        argv: The words after ``offrl``; None takes those of the process.

    Returns:
        The exit status: 0; 2 for a mistake in the input (told in one sentence on standard error); 130 or 143 after
        Ctrl-C or SIGTERM; ``offrl ope`` and ``offrl select`` have others. Set ``OFFRL_DEBUG=1`` to see stack traces.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    shown = warnings.formatwarning
    if not os.environ.get("OFFRL_DEBUG"):
        warnings.formatwarning = _one_line
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
    finally:
        warnings.formatwarning = shown


def _one_line(message: Warning | str, *where: Any, **line: Any) -> str:
    return f"offrl: warning: {' '.join(str(message).split())}\n"


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
        print(f"\n{_EXAMPLES}\noffrl VERB --help shows the options of a verb.")
        return 0
    verb, *rest = old_names.command_line(old_names.verb(words))
    verb = "version" if verb == "--version" else verb
    if verb not in VERBS:
        hint = nearest(verb, list(VERBS), all_if_few=len(VERBS))
        raise InputError(f"offrl has no verb {verb!r}{hint}")
    status: int | None = importlib.import_module(f"lightning_offrl.cli.{verb}").main(rest)
    return status
