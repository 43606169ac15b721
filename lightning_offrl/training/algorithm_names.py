"""What an algorithm, its arguments and its weights are called in files; nothing is imported because a file names it.

Checkpoints and exported policies hold the public name of this package's algorithms (``IQL``), and ``module.Class`` of
any other. A name that a file holds is looked up among what is imported already, never imported: `import_modules`, which
is ``--import my_module`` on the command line, is for the user to call.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from abc import ABCMeta
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_offrl.errors import InputError

if TYPE_CHECKING:
    from inspect import Signature

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


_BRITISH = re.compile("our|is(e|ed|er)")  # of the names that version 0.1 spelled so, `old_names` has the table


class _OldKeywords(ABCMeta):
    """Constructors take their keyword arguments under the names of version 0.1 too.

    A wrapper of ``__init__`` would hide the arguments from Lightning's ``save_hyperparameters``, which reads frames. A
    subclass of `ABCMeta`, so that an algorithm may inherit from an abstract class as well.
    """

    if not TYPE_CHECKING:  # so that editors see the arguments of __init__

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            if _BRITISH.search(" ".join(kwargs)):
                from lightning_offrl.training import old_code

                kwargs = old_code.keywords(kwargs, cls.__init__)
            return super().__call__(*args, **kwargs)

        @property
        def __signature__(cls) -> Signature:
            import inspect

            found = inspect.signature(cls.__init__)
            return found.replace(parameters=list(found.parameters.values())[1:])


class TakesOldNames(metaclass=_OldKeywords):
    """Base of algorithms: keyword arguments, keys of the state, and names of submodules as version 0.1 had them."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        acting = vars(cls).get("acting", ())
        if _BRITISH.search(" ".join(acting)):
            from lightning_offrl.training import old_names

            cls.acting = old_names.submodules(acting, f"{cls.__qualname__}.acting")  # type: ignore[attr-defined]

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As in `torch.nn.Module`, with keys of today or of before."""
        if any(_BRITISH.search(str(key).partition(".")[0]) for key in state_dict):
            from lightning_offrl.training import old_names

            state_dict = old_names.state(state_dict)
        return super().load_state_dict(state_dict, *args, **kwargs)  # type: ignore[misc]

    @property
    def normaliser(self) -> Any:
        """The old name of ``normalizer``, for algorithms written with version 0.1."""
        from lightning_offrl.training import old_names

        old_names.warn({"normaliser": "normalizer"})
        return self.normalizer  # type: ignore[attr-defined]
