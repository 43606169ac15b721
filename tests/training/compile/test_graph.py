"""Updates through graphs are the plain updates, and a graph lives no longer than what it holds; without a compiler."""

from __future__ import annotations

import copy

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from lightning_offrl.algorithms.iql import IQL
from lightning_offrl.training.compile.choose import CompileChoice
from lightning_offrl.training.compile.graph import CompiledUpdate, uncompiled
from lightning_offrl.training.compile.trace import baked_values
from tests.contracts.pages import distance, fit
from tests.training.compile.toy import Toy, pair, traced, train


@pytest.fixture(autouse=True)
def without_compiler(monkeypatch):
    monkeypatch.setattr(CompileChoice, "compiler", staticmethod(uncompiled))


def test_either_path_goes_on_with_the_others_optimizer():
    """Three updates one way, three the other way, in both orders, are six of either."""
    plain, mixed, _ = pair()
    train([plain, mixed], 3)
    mixed.compile_choice.compiled = None
    train([plain, mixed], 3)
    late, _, _ = pair()
    train([late], 3)
    traced(late)
    train([late], 3)
    for toy in (mixed, late):
        assert distance(plain.state_dict(), toy.state_dict()) < 1e-14


def test_a_changed_setting_is_compiled_in():
    """A graph holds plain values; one that a callback changes between blocks makes a new graph."""

    def halve(toy, k):
        if k == 1:
            toy.strength = 0.5

    plain, other, compiled = pair()
    train([plain, other], 4, halve)
    assert distance(plain.state_dict(), other.state_dict()) < 1e-14
    assert compiled.made == 2
    assert {"self.strength", "hparams.seeds", "self.policy.training"} <= baked_values(other).keys()


def replaced_states(toy):
    """As a callback does that goes back to an earlier checkpoint: torch puts new tensors in place of the old."""
    toy.optimizers_by_name["policy"].load_state_dict(copy.deepcopy(toy.optimizers_by_name["policy"].state_dict()))


def moved_parameters(toy):
    """As ``module.to`` does: the same tensors, elsewhere in memory."""
    for parameter in toy.parameters():
        parameter.data = parameter.data.clone()


@pytest.mark.parametrize("change", [replaced_states, moved_parameters])
def test_a_graph_does_not_outlive_the_tensors_that_it_changes(change):
    plain, other, compiled = pair()
    train([plain, other], 6, lambda toy, k: change(toy) if k == 2 else None)
    assert distance(plain.state_dict(), other.state_dict()) < 1e-14
    assert compiled.made == 2


def test_learning_rates_change_without_a_new_graph():
    def anneal(toy, k):
        toy.optimizers_by_name["policy"].param_groups[0]["lr"] *= 0.5

    plain, other, compiled = pair()
    train([plain, other], 4, anneal)
    assert distance(plain.state_dict(), other.state_dict()) < 1e-14
    assert compiled.made == 1


def test_parameters_that_get_no_gradient_have_no_state():
    """As with torch's Adam: their count of steps does not begin."""

    class Half(Toy):
        def __init__(self, **common):
            super().__init__(**common)
            self.unused = self.network(lambda: nn.Linear(1, 1))

        def configure_optimizers(self):
            return self.named_optimizers(policy=self.adam([*self.policy.parameters(), *self.unused.parameters()], 1e-2))

    toys = [Half(), Half()]
    traced(toys[1])
    train([toy.double() for toy in toys])
    assert distance(toys[0].state_dict(), toys[1].state_dict()) < 1e-14
    states = [toy.optimizers_by_name["policy"].state_dict()["state"].keys() for toy in toys]
    assert states[0] == states[1] == {0, 1}


def test_without_a_compiler_training_goes_on():
    def missing(graph, examples):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx")

    plain, other, _ = pair()
    other.compile_choice.compiled = CompiledUpdate(other, compiler=missing)
    with pytest.warns(UserWarning, match=r"there is no C\+\+ compiler \(install g\+\+\); it trains"):
        train([plain, other])
    assert distance(plain.state_dict(), other.state_dict()) == 0.0


def test_graphs_that_never_fit_again_end_in_the_plain_path():
    def restless(toy, k):
        toy.strength += 0.1

    plain, other, _ = pair()
    with pytest.warns(UserWarning, match="needed more than 8 graphs"):
        train([plain, other], 12, restless)
    assert distance(plain.state_dict(), other.state_dict()) < 1e-13


def test_an_untraced_callback_hears_of_every_update_after_the_targets_moved():
    class Watcher(pl.Callback):
        def __init__(self):
            self.seen = []

        def on_update_end(self, algorithm):
            self.seen.append((algorithm.updates, algorithm.q_target.mlp.linear[0].weight.sum().item()))

    watchers = [Watcher(), Watcher()]
    for compile, watcher in zip((False, True), watchers, strict=True):
        fit(IQL, steps=5, precision="64-true", model={"compile": compile}, callbacks=[watcher])
    (one, other) = (watcher.seen for watcher in watchers)
    assert [updates for updates, _ in one] == [1, 2, 3, 4, 5]
    torch.testing.assert_close(torch.tensor(one).double(), torch.tensor(other).double(), rtol=0, atol=1e-12)
    assert len({value for _, value in one}) == 5
