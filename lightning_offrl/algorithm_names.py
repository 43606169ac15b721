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
from typing import TYPE_CHECKING

from lightning_offrl.errors import InputError

if TYPE_CHECKING:
    from lightning_offrl.training.algorithm import OfflineAlgorithm

_OURS = "lightning_offrl.algorithms."


def algorithm_name(algorithm: type[OfflineAlgorithm] | OfflineAlgorithm) -> str:
    """``IQL`` for an algorithm of this package, ``my_module.Mine`` for another."""
    kind = algorithm if isinstance(algorithm, type) else type(algorithm)
    return public_name(f"{kind.__module__}.{kind.__qualname__}")


def public_name(name: str) -> str:
    """The name as it is written today; files of before hold the whole path of this package's algorithms.

    >>> public_name("lightning_offrl.algorithms.iql.IQL"), public_name("IQL"), public_name("my_module.Mine")
    ('IQL', 'IQL', 'my_module.Mine')
    """
    inside = name.removeprefix(_OURS)
    return inside.rpartition(".")[2] if inside != name and inside.count(".") == 1 else name


def module_to_import(name: str) -> str | None:
    """What ``--import`` needs for an algorithm of this name; None for this package's own."""
    return name.rpartition(".")[0].partition(".<locals>")[0] or None


def resolve_algorithm(name: str, holder: object) -> type[OfflineAlgorithm]:
    """The class that a name in a file stands for. Nothing is imported.

    Args:
        name: what `algorithm_name` gave, now or in an earlier version.
        holder: the file, for messages.

    Raises:
        InputError: no algorithm of this package, nor one of a module that is imported; it names what to type.
    """
    from lightning_offrl.algorithms import all_algorithms
    from lightning_offrl.training.algorithm import OfflineAlgorithm

    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise InputError(
            f"{holder} does not say which algorithm it holds (it says {str(name)[:60]!r}); use another file"
        )
    ours = all_algorithms()
    short = public_name(name)
    if short in ours:
        return ours[short]
    module = module_to_import(short)
    if module is None or name.startswith(_OURS):
        raise InputError(
            f"{holder} holds a policy of {name}, which this version of lightning_offrl does not have; install the "
            "version that wrote the file"
        )
    if module == "__main__":
        raise InputError(
            f"{holder} holds a policy of {short}, a class of the script that trained it; move the class into a file of "
            "its own, such as my_module.py, train again, and load with --import my_module"
        )
    kind = _imported(short)
    if kind is None:
        if module in sys.modules:
            why = f"but {module} has no class of that name; use the version of {module} that it was trained with"
        else:
            why = (
                "which is not of lightning_offrl, and nothing is imported because a file says so; if you trust the "
                f"module, add --import {module} (in Python: import {module} first)"
            )
        raise InputError(f"{holder} holds a policy of {short}, {why}")
    if not (isinstance(kind, type) and issubclass(kind, OfflineAlgorithm)):
        raise InputError(f"{holder} names {short}, which is not an algorithm of lightning_offrl; use another file")
    return kind


def _imported(name: str) -> object:
    """What a dotted name means among imported modules, without calling anything of theirs; None: nothing."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        found: object = sys.modules.get(".".join(parts[:length]))
        if found is None:
            continue
        for part in parts[length:]:  # by vars, because a module's own __getattr__ may import
            found = getattr(found, "__dict__", {}).get(part)
        return found
    return None


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
