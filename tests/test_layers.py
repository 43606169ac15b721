"""Imports point down: the layers of the package, read from its source without importing it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "lightning_offrl"
# Longest prefix wins. A module may import its own layer and those below.
LAYERS = {
    "errors": 0,
    "batch": 0,
    "draws": 0,
    "periods": 0,
    "checkpoint_io": 0,
    "checkpoints": 0,
    "descent": 0,
    "graph_products": 0,
    "memory": 0,
    "tracing": 0,
    "capture": 0,
    "compiled": 0,
    "compile_choice": 0,
    "products": 0,
    "metrics": 0,
    "algorithm": 0,
    "losses": 0,
    "networks": 0,
    "callbacks.target_update": 1,
    "fitting": 1,
    "data": 1,
    "dynamics": 1,
    "envs": 1,
    # These take trained policies (or stand on what does), so they are above `export`; nothing but the command line
    # and the quickstart imports them.
    "data.convert": 3,
    "data.import_logs": 3,
    "envs.collect": 3,
    "envs.evaluate_checkpoint": 3,
    "algorithms": 2,
    "ope": 2,
    "diagnostics": 2,
    "callbacks": 3,
    "export": 3,
    "report": 3,
    "loggers": 3,
    "__main__": 4,
    "cli": 4,
    "quickstart": 4,
}
# Names every module may read: the version and the lazy public names' parent.
FREE = {"", "__version__"}
MODULES = sorted(p for p in PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """``lightning_offrl/data/episodes.py`` as ``data.episodes``; a package's ``__init__`` is the package."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def layer(module: str) -> int | None:
    """The layer of a module of the package; None when no rule names it."""
    best = max((p for p in LAYERS if module == p or module.startswith(p + ".")), key=len, default=None)
    return None if best is None else LAYERS[best]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full module name of every import in a file, those inside functions too, but not TYPE_CHECKING ones."""
    tree = ast.parse(path.read_text(), str(path))
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in node.body
        for inner in ast.walk(child)
    }
    parents = ["lightning_offrl", *dotted(path).split(".")] if dotted(path) else ["lightning_offrl"]
    if path.name != "__init__.py":
        parents = parents[:-1]
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield node.lineno, whole if is_module(whole) else base


def is_module(name: str) -> bool:
    """Whether a dotted name is a module or package of ours (rather than an attribute of one)."""
    if not name.startswith("lightning_offrl."):
        return False
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("path", MODULES, ids=lambda p: dotted(p) or "lightning_offrl")
def test_imports_point_down(path: Path) -> None:
    module = dotted(path)
    if module == "":
        pytest.skip("the public names are imported when first used")
    own = layer(module)
    assert own is not None, f"{module} is in no layer: add it to LAYERS"
    for line, name in imports(path):
        assert name.split(".")[0] != "torchrl", f"{path}:{line} imports torchrl, which changes the process start method"
        if name.split(".")[0] != "lightning_offrl":
            continue
        target = name.removeprefix("lightning_offrl").removeprefix(".")
        if target in FREE:
            continue
        other = layer(target)
        assert other is not None, f"{path}:{line} imports {name}, which is in no layer"
        assert other <= own, f"{path}:{line} (layer {own}) imports {name} (layer {other}): imports point down"


def test_every_layer_exists() -> None:
    missing = [name for name in LAYERS if not is_module(f"lightning_offrl.{name}")]
    assert not missing, f"LAYERS names modules that are gone: {missing}"


def loaded_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize("statement", ["import lightning_offrl", "import lightning_offrl.cli"])
def test_the_top_imports_nothing_heavy(statement: str) -> None:
    heavy = {"torch", "lightning", "tensordict", "wandb", "matplotlib", "minari", "gymnasium", "torchrl"}
    assert not heavy & loaded_after(statement)


def test_public_names_resolve() -> None:
    import lightning_offrl

    for name in lightning_offrl.__all__:
        assert getattr(lightning_offrl, name) is not None
    assert set(lightning_offrl.__all__) == set(lightning_offrl._PUBLIC)
    with pytest.raises(AttributeError, match="no attribute 'IQLL'"):
        lightning_offrl.IQLL  # noqa: B018
