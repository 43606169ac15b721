"""The words of ``offrl fit`` before they are parsed: short and old names, configurations by name, linked values."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from lightning_offrl.algorithms import all_algorithms
from lightning_offrl.cli.fit import run_directory
from lightning_offrl.errors import InputError
from lightning_offrl.training import old_names
from lightning_offrl.training.algorithm_names import import_modules

_LINKED = ("model.seed", "model.init_args.seed", "data.seed", "model.spec", "model.init_args.spec")


def prepare(words: Sequence[str]) -> list[str]:
    """The words that the parser reads; the modules of ``--import`` are imported.

    Raises:
        InputError: There is no such configuration or module.
    """
    return _complete(old_names.command_line(_by_long_names(_take_imports(words))))


def _by_long_names(words: Sequence[str]) -> list[str]:
    """A dash inside an option's name as an underscore, ``--seed`` and ``--data SOURCE`` by the names of the parser.

    >>> _by_long_names(["--seed", "3", "--data", "tiny.hdf5", "--data", "mine.yaml", "--run-dir=a-b"])
    ['--seed_everything', '3', '--data.source', 'tiny.hdf5', '--data', 'mine.yaml', '--run_dir=a-b']
    """
    done = []
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        name, equals, text = word.partition("=")
        if name.startswith("--"):
            name = f"--{name[2:].replace('-', '_')}"
        source = text if equals else following
        if name == "--data" and not source.endswith((".yaml", ".yml", ".json")) and not source.startswith("{"):
            name = "--data.source"
        done.append(f"{'--seed_everything' if name == '--seed' else name}{equals}{text}")
    return done


def _take_imports(words: Sequence[str]) -> list[str]:
    """The words without ``--import MODULE``, whose modules are imported."""
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


def _complete(words: list[str]) -> list[str]:
    """Find shipped configurations by name; a resumed run without ``--config`` takes that of its own directory."""
    scan = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--ckpt_path", "--run_dir"):
        scan.add_argument(option)
    given, _ = scan.parse_known_args([word for word in words if word not in ("-h", "--help")])
    done, has_config = [], False
    for index, word in enumerate(words):
        previous = words[index - 1] if index else ""
        if word.startswith(("--config=", "-c=")):
            option, _, name = word.partition("=")
            word, has_config = f"{option}={_config_today(run_directory.find_config(name))}", True
        elif previous in ("--config", "-c"):
            word, has_config = _config_today(run_directory.find_config(word)), True
        done.append(word)
    if given.ckpt_path and not has_config:
        home = Path(given.run_dir) if given.run_dir else run_directory.home_of(given.ckpt_path)
        found = [] if home is None else [path for path in (home, home / "seed0") if (path / "config.yaml").is_file()]
        if found:  # in seed0 after a run of several processes
            say(f"configuration: {found[0] / 'config.yaml'} (options of this command line on top)")
            return ["--config", _config_today(str(found[0] / "config.yaml")), *done]
    return done


def _config_today(path: str) -> str:
    """The path of a configuration, or where it holds old names, its content with those of today."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):  # told where it is read
        return path
    today = old_names.configuration(content, path)
    return path if today is content else str(yaml.safe_dump(today, sort_keys=False))


def refuse_linked(words: list[str]) -> None:
    """Refuse values that are linked to others: one given by hand would be overwritten without a word.

    Raises:
        InputError: A linked value is given, or a configuration is not YAML.
    """
    given = {word.partition("=")[0].lstrip("-") for word in words if word.startswith("--")}
    for path in _config_files(words):
        try:
            content = _read_config(path)
        except yaml.YAMLError as error:
            raise InputError(f"{path} is not valid YAML: {error}") from error
        for group in ("model", "data"):
            inner = content.get(group) if isinstance(content, dict) else None
            for level, values in (
                ("", inner),
                (".init_args", inner.get("init_args") if isinstance(inner, dict) else None),
            ):
                given |= {f"{group}{level}.{key}" for key in values} if isinstance(values, dict) else set()
    for name in sorted(given & set(_LINKED)):
        how = (
            "comes from the data" if name.endswith("spec") else "is set by --seed_everything, for model and data alike"
        )
        raise InputError(f"{name} cannot be given: it {how}")


def _read_config(given: str) -> Any:
    return yaml.safe_load(given if "\n" in given else Path(given).read_text(encoding="utf-8"))


def _config_files(words: list[str]) -> list[str]:
    """The values of ``--config``: paths, and contents where `_config_today` put one in place of its path."""
    after = [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("--config", "-c")]
    return after + [word.partition("=")[2] for word in words if word.startswith(("--config=", "-c="))]


def chosen_algorithm(words: list[str]) -> type | None:
    """The class that ``--model`` or the last configuration with one names; for error messages only."""
    names = all_algorithms()
    chosen = None
    for path in _config_files(words):
        try:
            content = _read_config(path)
            model = content["model"]
            chosen = model if isinstance(model, str) else model["class_path"]
        except (OSError, yaml.YAMLError, KeyError, TypeError):
            continue
    for index, word in enumerate(words):
        if word.startswith("--model="):
            chosen = word.partition("=")[2]
        elif word == "--model" and index + 1 < len(words):
            chosen = words[index + 1]
    return names.get(str(chosen).rpartition(".")[2])


def say(sentence: str) -> None:
    """Print a sentence of ``offrl fit`` on standard error."""
    print(f"offrl: {sentence}", file=sys.stderr, flush=True)
