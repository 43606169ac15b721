"""What an algorithm is called in files, and the class that such a name stands for, without importing what a file names.

Checkpoints and exported policies hold the public name of this package's algorithms (``IQL``), and ``module.Class`` of
any other. A name that a file holds is looked up among what is imported already, never imported: `import_modules`, which
is ``--import my_module`` on the command line, is for the user to call.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from lightning_offrl.errors import InputError

OURS = "lightning_offrl.algorithms."


def algorithm_name(algorithm: object) -> str:
    """``IQL`` for an algorithm of this package (a class or an instance), ``my_module.Mine`` for another."""
    kind = algorithm if isinstance(algorithm, type) else type(algorithm)
    return public_name(f"{kind.__module__}.{kind.__qualname__}")


def public_name(name: str) -> str:
    """The name as it is written today; files of before hold the whole path of this package's algorithms.

    >>> public_name("lightning_offrl.algorithms.iql.IQL"), public_name("IQL"), public_name("my_module.Mine")
    ('IQL', 'IQL', 'my_module.Mine')
    """
    inside = name.removeprefix(OURS)
    return inside.rpartition(".")[2] if inside != name and "." in inside else name


def module_to_import(name: str) -> str | None:
    """What ``--import`` needs for an algorithm of this name; None for this package's own."""
    return name.rpartition(".")[0].partition(".<locals>")[0] or None


def import_modules(names: Sequence[str]) -> None:
    """Import the user's own modules, also from the current folder: what ``--import`` does.

    Raises:
        InputError: there is no such module, or it fails.
    """
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as problem:
            if problem.name is None or not f"{name}.".startswith(f"{problem.name}."):
                raise InputError(f"--import {name} failed: {problem}; install what it needs") from problem
            hint = "; leave out the .py" if name.endswith(".py") else ""
            raise InputError(
                f"--import {name}: there is no module {problem.name} in this folder, nor is one installed{hint}"
            ) from problem
        except Exception as problem:  # the user's module may raise anything; the cause stays attached
            raise InputError(f"--import {name} failed ({type(problem).__name__}: {problem}); correct it") from problem
