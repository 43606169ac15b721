"""What the top of the package imports and offers; import-linter checks that imports point down (`make check`)."""

from __future__ import annotations

import subprocess
import sys

import pytest


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
