"""jsonargparse's reports, which run over eight lines, as one sentence that names what was probably meant."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

from lightning_offrl.cli.parser import nearest

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "list": "a list"}
_BOILERPLATE = ("Expected a", "Not a valid subclass", "Does not validate", "Subclass types")


def explain(message: str, options: Sequence[str], algorithm: type | None) -> str:
    """One sentence for an error report of jsonargparse.

    Args:
        message: The report.
        options: The option strings that the parser knows, such as ``--trainer.max_steps``.
        algorithm: The class chosen with ``--model``, if it is known.
    """
    where = re.findall(r'Parser key "([^"]+)"', message)
    key = ".".join(dict.fromkeys(where))
    model_options = [f"--model.{name}" for name in parameters(algorithm)] if algorithm else []
    if found := re.search(r"unrecognized arguments: (\S+)", message):
        option = found[1].split("=")[0]
        return f"fit has no option {option}{nearest(option, [*options, *model_options])}"
    if found := re.search(r"the following arguments are required: (.+)", message):
        return _required(found[1].split(", "))
    if found := re.search(r"Expected a dot import path string: (\S+)", message):
        return _class_name(found[1], key)
    if found := re.search(r"Problem with given class_path '([\w.]+)':\s+(.*)", message):
        if option := re.search(r"Option '([\w.]+)' is not accepted", found[2]):
            return _option_of_class(option[1], found[1], key, options, algorithm)
        if not found[2].startswith("Parser key"):
            return _class_name(found[1], key)
    if found := re.search(r"(?:Group '([\w.]+)' does not accept option|Option) '([\w.]+)'", message):
        return _option(found[2], found[1] or key, options, algorithm)
    if literals := re.findall(r"Literal\[(.*?)\]", message):
        return _literal(message, key, literals)
    if found := re.search(r"Expected a <class '(\w+)'>. Got value: (.*)", message):
        return f"{key} must be {_KINDS.get(found[1], found[1])}, got {found[2].strip()!r}"
    return inner_sentence(message)


def inner_sentence(message: str) -> str:
    """The first line of a report that tells the reason: the error raised inside, not the types that did not match."""
    after = message.partition("Errors:")[2]
    reasons = [line.strip().removeprefix("- ") for line in after.splitlines() if line.strip().startswith("- ")]
    reasons = [line for line in reasons if not line.startswith(_BOILERPLATE)]
    return reasons[0] if reasons else " ".join(message.split())


def parameters(kind: type) -> list[str]:
    """Names of all constructor arguments of a class, those behind ``**kwargs`` too."""
    names: dict[str, None] = {}
    for base in kind.__mro__:
        if "__init__" in vars(base):
            given = inspect.signature(vars(base)["__init__"]).parameters.values()
            plain = [p.name for p in given if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
            names.update(dict.fromkeys(plain[1:] if plain[:1] == ["self"] else plain))
            if not any(p.kind == p.VAR_KEYWORD for p in given):
                break
    return [name for name in names if name != "spec"]


def subclass_names(base: type) -> list[str]:
    """Names of all classes below ``base`` that have been imported, hidden ones left out."""
    found: set[str] = set()
    stack: list[type] = [base]
    while stack:
        children: list[type] = stack.pop().__subclasses__()
        stack += children
        for child in children:
            if not inspect.isabstract(child) and not child.__name__.startswith("_"):
                found.add(child.__name__)
    return sorted(found)


def _required(names: Iterable[str]) -> str:
    from lightning_offrl.algorithms import all_algorithms

    needs = {
        "model": f"an algorithm is missing: give --config iql, or --model with one of {', '.join(all_algorithms())}",
        "data.source": "a dataset is missing: give --data.source with a Minari id or the path of a D4RL .hdf5 file",
    }
    order = sorted(names, key=lambda name: (name not in needs, name != "model"))
    return "; ".join(needs.get(name, f"--{name} is missing") for name in order)


def _class_name(name: str, key: str) -> str:
    from lightning.pytorch import Callback
    from lightning.pytorch.loggers import Logger

    from lightning_offrl.algorithms import all_algorithms

    if key.startswith("model"):
        if key == "model":
            hint = nearest(name.rpartition(".")[2], list(all_algorithms()), all_if_few=40)
            return f"there is no algorithm {name!r}{hint}"
        return f"{key}: there is no class {name!r}; give its import path, such as my_module.MyEncoder"
    base: Any = Callback if "callbacks" in key else Logger if "logger" in key else None
    what = {Callback: "callback", Logger: "logger"}.get(base, "class")
    hint = nearest(name.rpartition(".")[2], subclass_names(base)) if base else ""
    return f"{key}: there is no {what} {name!r}{hint}"


def _option_of_class(name: str, class_path: str, key: str, options: Sequence[str], algorithm: type | None) -> str:
    if key == "model":
        return _option(name, key, options, algorithm)
    module, _, leaf = class_path.rpartition(".")
    kind = getattr(importlib.import_module(module), leaf)
    return f"{key}: {leaf} has no option {name!r}{nearest(name, parameters(kind), all_if_few=40)}"


def _option(name: str, group: str, options: Sequence[str], algorithm: type | None) -> str:
    if group == "model" and algorithm is not None:
        return f"{algorithm.__name__} has no option model.{name}{nearest(name, parameters(algorithm), all_if_few=40)}"
    known = [option.lstrip("-") for option in options]
    if group and not group.startswith("model"):
        leaves = [option.removeprefix(f"{group}.") for option in known if option.startswith(f"{group}.")]
        return f"{group} has no option {name!r}{nearest(name, leaves)}"
    top = list(dict.fromkeys(option.split(".")[0] for option in known if len(option) > 1))
    head, _, _ = name.partition(".")
    return f"there is no option {name!r}{nearest(head, top)}" if head not in top else f"there is no option {name!r}"


def _literal(message: str, key: str, literals: Iterable[str]) -> str:
    allowed = list(dict.fromkeys(str(value) for text in literals for value in ast.literal_eval(f"[{text}]")))
    found = re.search(r"(?:Got value|Given value): (.*)", message)
    got = found[1].strip() if found else "something else"
    if nested := re.search(r"val='(.*)'\)", got):
        got = nested[1]
    return f"{key} must be one of {', '.join(allowed)}, got {got!r}{nearest(got, allowed)}"
