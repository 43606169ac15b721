"""Every ``update`` can be traced as one graph, and the graph does what the plain update does.

The graphs here run operation by operation, without a compiler.
"""

from __future__ import annotations

import pytest

from lightning_offrl.training.compile.choose import CompileChoice
from lightning_offrl.training.compile.graph import uncompiled
from tests.contracts.pages import Graphs, distance, every_algorithm, fit


@pytest.fixture
def without_compiler(monkeypatch):
    monkeypatch.setattr(CompileChoice, "compiler", staticmethod(uncompiled))


@every_algorithm
@pytest.mark.parametrize("model", [{}, {"clip_grad_norm": 0.05, "seeds": 2}], ids=["one", "clipped, two seeds"])
def test_the_graph_of_an_update_is_the_update(algorithm, model, without_compiler):
    """Same initial values, batches and draws: same parameters, metrics, schedules and targets, delayed policies too."""
    graphs = Graphs()
    runs = [
        fit(algorithm, steps=11, precision="64-true", model={**model, "compile": compile}, callbacks=[callback])
        for compile, callback in ((False, Graphs()), (True, graphs))
    ]
    (plain, one), (traced, other) = runs
    assert graphs.made >= 1, "the update was not traced"
    assert distance(plain.state_dict(), traced.state_dict()) < 1e-12
    assert one.callback_metrics.keys() == other.callback_metrics.keys()
    for name, value in one.callback_metrics.items():
        assert value.item() == pytest.approx(other.callback_metrics[name].item(), rel=1e-6, abs=1e-9), name
    for name, optimizer in plain.optimizers_by_name.items():
        theirs = traced.optimizers_by_name[name].state_dict()
        mine = optimizer.state_dict()
        assert mine["param_groups"] == theirs["param_groups"], "the learning rates of a schedule"
        assert mine["state"].keys() == theirs["state"].keys()
        for key, state in mine["state"].items():
            assert distance(state, theirs["state"][key]) < 1e-12
