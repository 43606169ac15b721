"""Recording for a GPU, with a recorder that needs none."""

from __future__ import annotations

import pytest
import torch

from lightning_offrl.algorithms.td3_bc import TD3BC
from lightning_offrl.training.compile.cuda_graph import CudaGraph
from lightning_offrl.training.compile.graph import CompiledUpdate, uncompiled
from lightning_offrl.training.compile.trace import Untraceable
from tests.contracts.pages import batch_for, distance
from tests.training.compile.toy import SPEC


class Tape:
    """A recorder without a GPU: replays by running again, into the tensors that recording left."""

    replays = 0

    def warm_up(self, function):
        return function()

    def record(self, function):
        self.function = function
        self.outputs = [torch.full_like(output, torch.nan) for output in uncounted(function)]
        return self.outputs

    def replay(self):
        Tape.replays += 1
        for place, value in zip(self.outputs, self.function(), strict=True):
            place.copy_(value)


def uncounted(function):
    """Where results will lie, without the effects of a run: what the function changes is among what it closes over."""
    lists = [cell.cell_contents for cell in function.__closure__ if isinstance(cell.cell_contents, list)]
    tensors = [tensor for each in lists for tensor in each]
    before = [t.clone() for t in tensors]
    outputs = function()
    for tensor, old in zip(tensors, before, strict=True):
        tensor.copy_(old)
    return outputs


def test_recorded_updates_are_the_same_updates():
    """Delayed policy, noise and schedules through `CudaGraph`: parameters equal those of the plain path."""
    plain = TD3BC(SPEC, hidden=(8, 8), normalize_observations=False).double()
    other = TD3BC(SPEC, hidden=(8, 8), normalize_observations=False).double()
    hooks = [c.on_update_end for c in other.configure_callbacks()]
    for page in (plain, other):
        page.after_update = hooks
    Tape.replays = 0
    other.compile_choice.compiled = CompiledUpdate(
        other, hooks, uncompiled, capture=lambda run, fixed: CudaGraph(run, fixed, Tape)
    )
    one = plain.prepare(batch_for(plain).unsqueeze(0))[0]
    seen = []
    for k in range(6):
        turned = one[torch.arange(len(one)).roll(k)]
        metrics = [page.gradient_update(turned) for page in (plain, other)]
        seen.append(metrics[1])
        assert metrics[0].keys() == metrics[1].keys()
    assert Tape.replays == 6
    assert distance(plain.state_dict(), other.state_dict()) < 1e-13
    assert seen[0]["q_loss"] != seen[2]["q_loss"], "an earlier result is not overwritten by a later replay"


def test_a_recording_that_gives_other_numbers_is_refused_and_leaves_nothing_behind():
    class Wrong(Tape):
        def replay(self):
            super().replay()
            self.outputs[0].add_(1.0)

    state = torch.zeros(2)

    def run(state, x):
        state.add_(x)
        return [state * 2]

    with pytest.raises(Untraceable, match="other numbers"):
        CudaGraph(run, 1, Wrong)(state, torch.ones(2))
    assert torch.equal(state, torch.zeros(2))
    good = CudaGraph(run, 1, Tape)
    assert [good(state, torch.full((2,), float(k)))[0][0].item() for k in (1, 2, 3)] == [2.0, 6.0, 12.0]


def test_a_refused_recording_costs_no_random_numbers():
    """The update that falls back draws again from the start: parameters are those of the plain path, bit for bit."""

    class Wrong(Tape):
        def replay(self):
            super().replay()
            self.outputs[0].add_(1.0)

    pages = [TD3BC(SPEC, hidden=(8, 8), normalize_observations=False) for _ in range(2)]
    pages[1].compile_choice.compiled = CompiledUpdate(
        pages[1], [], uncompiled, capture=lambda run, fixed: CudaGraph(run, fixed, Wrong)
    )
    one = pages[0].prepare(batch_for(pages[0]).unsqueeze(0))[0]
    for page in pages:
        page.configure_optimizers()
    pages[0].gradient_update(one)
    with pytest.warns(UserWarning, match="gives other numbers when it is recorded"):
        pages[1].gradient_update(one)
    assert distance(pages[0].state_dict(), pages[1].state_dict()) == 0.0
