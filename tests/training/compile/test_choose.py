"""What a run imports of the compiled path."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
    [(False, ["choose"]), (True, ["choose", "cuda_graph", "decompositions", "graph", "trace"])],
)
def test_a_plain_run_imports_nothing_that_compiles(compiled, loaded):
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(compiled=compiled)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == loaded
