"""What the top of the package imports and offers; import-linter checks that imports point down (`make check`)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_offrl
from lightning_offrl import algorithms
from lightning_offrl.algorithms import all_algorithms


def loaded_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize("statement", ["import lightning_offrl", "import lightning_offrl.cli"])
def test_the_top_imports_nothing_heavy(statement: str) -> None:
    heavy = {"torch", "lightning", "tensordict", "wandb", "matplotlib", "minari", "gymnasium", "torchrl"}
    assert not heavy & loaded_after(statement)


def test_public_names_resolve() -> None:
    for name in lightning_offrl.__all__:
        assert getattr(lightning_offrl, name) is not None
    assert set(lightning_offrl.__all__) <= set(dir(lightning_offrl))
    with pytest.raises(AttributeError, match="no attribute 'IQLL'"):
        lightning_offrl.IQLL  # noqa: B018


def test_the_names_that_a_user_begins_with_are_public() -> None:
    wanted = """OfflineAlgorithm OfflineDataModule Episodes load_dataset Sampling RewardTransform SoftTargetUpdate
        EvaluateEnv EvaluateOPE PolicyShiftMonitor ExportPolicy Policy load_policy export_policy evaluate
        evaluate_offline fqe WandbLogger MetricsCSV Checkpoint InputError IQL DiscreteCQL"""
    assert set(wanted.split()) <= set(lightning_offrl.__all__)
    assert lightning_offrl.__version__.count(".") == 2


def test_list_and_walk_agree_on_algorithms() -> None:
    """The walk finds what the list calls an algorithm; an algorithm without a line is available all the same."""
    walked = all_algorithms()
    listed = {
        name for name, (module, _) in lightning_offrl._listed().items() if module.startswith(f"{algorithms.__name__}.")
    }
    assert listed <= set(walked) <= set(lightning_offrl.__all__)
    for name, kind in walked.items():
        assert getattr(lightning_offrl, name) is kind


def test_an_algorithm_in_a_new_file_needs_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from lightning_offrl.training.algorithm import OfflineAlgorithm\nclass BrandNew(OfflineAlgorithm): ..."
    (tmp_path / "brand_new.py").write_text(source)
    monkeypatch.setattr(algorithms, "__path__", [*algorithms.__path__, str(tmp_path)])
    assert lightning_offrl.BrandNew is all_algorithms()["BrandNew"]
    assert "BrandNew" in lightning_offrl.__all__
    del lightning_offrl.BrandNew
    monkeypatch.delitem(sys.modules, "lightning_offrl.algorithms.brand_new")
    vars(algorithms).pop("brand_new", None)


def test_a_star_import_takes_all() -> None:
    names: dict[str, object] = {}
    exec("from lightning_offrl import *", names)
    assert set(lightning_offrl.__all__) <= set(names)


@pytest.mark.slow
def test_a_type_checker_sees_them(tmp_path: Path) -> None:
    """mypy, as strict as it can be, knows every listed name, and what the names are."""
    known = sorted(lightning_offrl._listed())
    lines = ["import lightning_offrl", f"from lightning_offrl import {', '.join(known)}"]
    lines += ["reveal_type(lightning_offrl.load_dataset)", "reveal_type(lightning_offrl.IQL)"]
    lines += ["reveal_type(lightning_offrl.evaluate_offline)", "lightning_offrl.IQL({}, expectile='high')"]
    (tmp_path / "script.py").write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent", "script.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(Path(lightning_offrl.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    told = done.stdout
    assert "-> lightning_offrl.data.episodes.Episodes" in told, told
    assert "-> lightning_offrl.algorithms.iql.IQL" in told and "ope.result.OPEResult" in told, told
    errors = [line for line in told.splitlines() if "script.py" in line and "error:" in line]
    assert errors and all("expectile" in line or '"IQL"' in line for line in errors), told
