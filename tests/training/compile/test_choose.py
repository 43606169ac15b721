"""Which path a run takes, what it says of that, and what it imports for it."""

from __future__ import annotations

import subprocess
import sys

import lightning.pytorch as pl
import pytest
import torch

from lightning_offrl.algorithms.bc import BC
from lightning_offrl.algorithms.iql import IQL
from lightning_offrl.training import cpu
from lightning_offrl.training.compile.choose import REPAID_AFTER, CompileChoice
from lightning_offrl.training.compile.graph import uncompiled
from tests.contracts.pages import checkpoints, fit
from tests.training.compile.toy import Toy


@pytest.fixture(autouse=True)
def without_compiler(monkeypatch):
    monkeypatch.setattr(CompileChoice, "compiler", staticmethod(uncompiled))


SCRIPT = """
import sys
import torch
from lightning_offrl.algorithms.iql import IQL
from lightning_offrl.training.compile import choose
from tests.contracts.pages import batch_for, fit, small

if {compiled}:
    from lightning_offrl.training.compile.choose import CompileChoice
    CompileChoice.compiler = staticmethod(lambda graph, examples: graph)
fit(IQL, steps=3, model={{"compile": {compiled}}})
print(*sorted(name.rpartition(".")[2] for name in sys.modules if name.startswith("lightning_offrl.training.compile.")))
"""


@pytest.mark.parametrize(
    ("compiled", "loaded"),
    [(False, ["choose"]), (True, ["adam", "choose", "cuda_graph", "decompositions", "graph", "trace"])],
)
def test_a_plain_run_imports_nothing_that_compiles(compiled, loaded):
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(compiled=compiled)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == loaded


def chosen(compile, updates, was=None, **algorithm):
    page = Toy()
    for name, value in algorithm.items():
        setattr(page.optimizer_set, name, value)
    path = CompileChoice(compile, "highest")
    path.was_compiled = was
    path.begin(page, updates, [], 256)
    return path.compiled is not None, path.why


def test_auto_compiles_runs_that_repay_it():
    assert chosen("auto", REPAID_AFTER - 1) == (False, "9,999 updates would not repay compiling")
    assert chosen("auto", 1_000_000) == (True, "1,000,000 updates repay compiling")
    assert chosen("auto", -1)[0] and not chosen(False, 1_000_000)[0] and chosen(True, 5)[0]


def test_auto_goes_on_as_the_run_did():
    """Else a resumed run would not be the run bit for bit."""
    assert chosen("auto", 1_000_000, was=False) == (False, "the run that is resumed was not compiled")
    assert chosen("auto", 20, was=True) == (True, "the run that is resumed was compiled")
    assert chosen(True, 20, was=False)[0], "what is asked for holds"


@pytest.mark.parametrize(
    ("algorithm", "why"), [({"world": 2}, "several processes"), ({"scaler": torch.amp.GradScaler("cpu")}, "16-mixed")]
)
def test_where_it_cannot_be_compiled_a_wish_is_answered(algorithm, why):
    assert not chosen("auto", 1_000_000, **algorithm)[0]
    with pytest.warns(UserWarning, match=f"Toy trains uncompiled: {why}"):
        assert not chosen(True, 1_000_000, **algorithm)[0]


def test_a_resumed_run_is_compiled_as_before(tmp_path):
    """`auto` with few updates is plain, but a checkpoint of a compiled run is gone on with by compiling."""
    fit(IQL, steps=10, model={"compile": True}, callbacks=checkpoints(tmp_path), enable_checkpointing=True)
    saved = torch.load(tmp_path / "step=10.ckpt", weights_only=True)
    assert saved["offrl"]["compiled"] is True
    assert not {"compile", "matmul_precision"} & saved["hyper_parameters"].keys()
    seen = []

    class Ask(pl.Callback):
        def on_train_end(self, trainer, pl_module):
            seen.append(pl_module.compile_choice.description())

    fit(IQL, steps=20, ckpt_path=tmp_path / "step=10.ckpt", callbacks=[Ask()])
    fit(BC, steps=2, callbacks=[Ask()])
    assert seen[0].startswith("compiled (the run that is resumed was compiled)")
    assert seen[1].startswith("not compiled (2 updates would not repay compiling)")


def test_products_go_back_to_what_they_were(monkeypatch):
    monkeypatch.setattr(cpu, "medium_is_exact_and_faster", lambda: True)
    before, seen = torch.get_float32_matmul_precision(), []

    class Ask(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            seen.append(torch.get_float32_matmul_precision())

    for model in ({"matmul_precision": "medium"}, {"matmul_precision": "highest"}, {}):
        fit(BC, steps=1, model=model, callbacks=[Ask()])
    assert seen == ["medium", "highest", "highest"], "products this small are faster as they are"
    assert torch.get_float32_matmul_precision() == before == "highest"
