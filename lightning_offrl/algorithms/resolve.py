"""The class that a name in a file stands for, without importing what a file names."""

from __future__ import annotations

import sys

from lightning_offrl.algorithms import all_algorithms
from lightning_offrl.errors import InputError
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.algorithm_names import OURS, module_to_import, public_name


def resolve_algorithm(name: str, holder: object) -> type[OfflineAlgorithm]:
    """The class that a name in a file stands for. Nothing is imported.

    Args:
        name: The name that `algorithm_name` gave, now or in an earlier version.
        holder: the file, for messages.

    Raises:
        InputError: no algorithm of this package, nor one of a module that is imported; it names what to type.
    """
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise InputError(
            f"{holder} does not say which algorithm it holds (it says {str(name)[:60]!r}); use another file"
        )
    ours = all_algorithms()
    short = public_name(name)
    if short in ours:
        return ours[short]
    module = module_to_import(short)
    if module is None or name.startswith(OURS):
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
    """The object of a dotted name among imported modules, without calling anything of theirs, or None."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        found: object = sys.modules.get(".".join(parts[:length]))
        if found is None:
            continue
        for part in parts[length:]:  # by vars, because a module's own __getattr__ may import
            found = getattr(found, "__dict__", {}).get(part)
        return found
    return None
