"""Python code of version 0.1: its imports, attributes and keyword arguments; `old_names` has the table."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from abc import ABCMeta
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_offrl.training.old_names import (
    KEYWORDS,
    PACKAGE,
    STATE,
    attribute_today,
    module_today,
    state_today,
    told,
    warn,
)

if TYPE_CHECKING:
    from inspect import Signature

_Function = TypeVar("_Function", bound=Callable[..., Any])

# -- imports ---------------------------------------------------------------------------------------------------------


class _OldModule(ModuleType):
    """Stands for a module that moved, and hands on what is asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        module, attribute = attribute_today(self.__name__, name)
        value = getattr(importlib.import_module(module), attribute)
        if (module, attribute) != (module_today(self.__name__), name):
            warn({f"{self.__name__}.{name}": f"{module}.{attribute}"})
            told.add(self.__name__)
        else:
            warn({self.__name__: module})
        setattr(self, name, value)
        return value


class OldModules:
    """A finder for ``sys.meta_path`` that finds modules by where they lay in version 0.1."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The module's new place, if it is an old name of one."""
        today = module_today(name) if name.startswith(f"{PACKAGE}.") else None
        return None if today in (None, name) else ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module that stands for the one that moved."""
        return _OldModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Import the one that moved, so that an import of a name that never was fails at once."""
        importlib.import_module(str(module_today(module.__name__)))


def attributes_of(package: str) -> Callable[[str], Any]:
    """A ``__getattr__`` for a module that has other names today, or was a module and is a package."""

    def __getattr__(name: str) -> Any:
        if name.startswith("__") or _is_module(f"{package}.{name}"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = attribute_today(package, name)
        if (module, attribute) == (package, name):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            value = getattr(importlib.import_module(module), attribute)
        except AttributeError:
            raise AttributeError(f"module {package!r} has no attribute {name!r}") from None
        warn({f"{package}.{name}": f"{module}.{attribute}"})
        return value

    return __getattr__


def _is_module(name: str) -> bool:
    parent = sys.modules.get(name.rpartition(".")[0])
    return hasattr(parent, "__path__") and importlib.util.find_spec(name) is not None


# -- keyword arguments and attributes --------------------------------------------------------------------------------


def keywords(given: dict[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    """Keyword arguments under the names that a function takes today.

    Raises:
        TypeError: an argument was given under both names.
    """
    if KEYWORDS.keys().isdisjoint(given):
        return given
    import inspect

    known = inspect.signature(function).parameters
    old = {name: KEYWORDS[name] for name in given if name in KEYWORDS and name not in known}
    for name, today in old.items():
        if today in given:
            raise TypeError(f"{name} is the old name of {today}, which was given too: leave out {name}")
    warn(old, stacklevel=4)
    return {old.get(name, name): value for name, value in given.items()}


def takes_old_keywords(function: _Function) -> _Function:
    """Decorator of a function or an ``__init__`` that takes arguments whose names are in `KEYWORDS`."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **keywords(kwargs, function))

    return wrapped  # type: ignore[return-value]


def takes_old_settings(settings: type) -> Callable[[_Function], _Function]:
    """Decorator of a function whose argument ``settings`` holds what were arguments of its own: a frozen dataclass."""

    def decorated(function: _Function) -> _Function:
        import inspect
        from dataclasses import replace

        own = inspect.signature(function).parameters
        fields = settings.__dataclass_fields__.keys() - own.keys()  # type: ignore[attr-defined]

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            kwargs = keywords(kwargs, function)
            loose = {name: kwargs.pop(name) for name in fields & kwargs.keys()}
            if loose:
                name, inside = function.__name__, settings.__name__
                warn({f"{name}({field}=...)": f"{name}(settings={inside}({field}=...))" for field in sorted(loose)})
                kwargs["settings"] = replace(kwargs.get("settings") or settings(), **loose)
            return function(*args, **kwargs)

        return wrapped  # type: ignore[return-value]

    return decorated


def episodes_from_arrays(*arrays: Any, **settings: Any) -> Any:
    """What ``Episodes.from_arrays`` was: `data.readers.arrays.from_arrays` with arguments in place of a dictionary."""
    warn({"Episodes.from_arrays(...)": "load_dataset({...})"})
    names = ("observations", "actions", "rewards", "terminated", "truncated")
    given = dict(zip(names, arrays, strict=False)) | settings
    reader = importlib.import_module(f"{PACKAGE}.data.readers.arrays")
    return reader.from_arrays({name: array for name, array in given.items() if array is not None})


class _OldKeywords(ABCMeta):
    """Constructors take their keyword arguments under the old names too.

    A wrapper of ``__init__`` would hide the arguments from Lightning's ``save_hyperparameters``, which reads frames. A
    subclass of `ABCMeta`, so that an algorithm may inherit from an abstract class as well.
    """

    if not TYPE_CHECKING:  # so that editors see the arguments of __init__

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **keywords(kwargs, cls.__init__))

        @property
        def __signature__(cls) -> Signature:
            import inspect

            found = inspect.signature(cls.__init__)
            return found.replace(parameters=list(found.parameters.values())[1:])


class TakesOldNames(metaclass=_OldKeywords):
    """Base of algorithms: old keyword arguments, keys of the state, and names of submodules."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not STATE.keys().isdisjoint(vars(cls).get("acting", ())):
            acting: Sequence[str] = vars(cls)["acting"]
            warn({name: STATE[name] for name in acting if name in STATE}, where=f"{cls.__qualname__}.acting")
            cls.acting = tuple(STATE.get(name, name) for name in acting)  # type: ignore[attr-defined]

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As in `torch.nn.Module`, with keys of today or of before."""
        found: dict[str, str] = {}
        today = state_today(state_dict, found)
        warn(found)
        return super().load_state_dict(today, *args, **kwargs)  # type: ignore[misc]

    @property
    def normaliser(self) -> Any:
        """The old name of ``normalizer``, for algorithms written with version 0.1."""
        warn({"normaliser": "normalizer"})
        return self.normalizer  # type: ignore[attr-defined]
