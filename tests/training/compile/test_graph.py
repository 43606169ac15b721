"""Tracing, its refusals, Adam in a graph, capturing, and which path is chosen: without a compiler, on tiny networks."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from tensordict import TensorDict
from torch import nn

from lightning_offrl.algorithms.bc import BC
from lightning_offrl.algorithms.iql import IQL
from lightning_offrl.algorithms.td3_bc import TD3BC
from lightning_offrl.batch import IMITATION
from lightning_offrl.training import cpu
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.compile.choose import REPAID_AFTER, CompileChoice
from lightning_offrl.training.compile.cuda_graph import CudaGraph
from lightning_offrl.training.compile.graph import CompiledUpdate, uncompiled
from lightning_offrl.training.compile.trace import SymbolicStep, Untraceable, baked_values
from lightning_offrl.training.optimizers import adam_, adam_factors, start_adam
from tests.contracts.pages import batch_for, distance, fit
from tests.contracts.test_resume import checkpoints

SPEC = {
    "observation_shape": [3],
    "action_kind": "box",
    "action_size": 2,
    "action_low": [-1.0] * 2,
    "action_high": [1.0] * 2,
}


@pytest.fixture(autouse=True)
def without_compiler(monkeypatch):
    monkeypatch.setattr(CompileChoice, "compiler", staticmethod(uncompiled))


class Toy(OfflineAlgorithm):
    """One linear layer fitted to actions; tests give it what pages should not do."""

    needs = IMITATION

    def __init__(self, extra: Any = None, optimizer: Any = None, **common: Any) -> None:
        super().__init__(SPEC, **common)
        self.policy = self.network(lambda: nn.Linear(3, 2))
        self.register_buffer("seen", torch.zeros(()))
        self.extra, self.make = extra, optimizer
        self.strength = 1.0

    def update(self, batch):
        loss = self.strength * (self.policy(batch["observation"]) - batch["action"]).square().mean((-2, -1))
        if self.extra is not None:
            loss = self.extra(self, loss, batch)
        self.minimize(policy=loss)
        return {"loss": loss}

    def act(self, observation):
        return self.policy(observation)

    def configure_optimizers(self):
        made = self.make(self.policy.parameters()) if self.make else self.adam(self.policy, 1e-2)
        return self.named_optimizers(policy=made)


def batch(size: int = 8) -> TensorDict:
    g = torch.Generator().manual_seed(0)
    return TensorDict(
        {"observation": torch.randn(size, 3, generator=g), "action": torch.rand(size, 2, generator=g)}, [size]
    )


def traced(toy: OfflineAlgorithm, **settings: Any) -> CompiledUpdate:
    toy.compile_choice.compiled = CompiledUpdate(toy, compiler=uncompiled, **settings)
    return toy.compile_choice.compiled


def pair(**settings: Any) -> tuple[Toy, Toy, CompiledUpdate]:
    """Two equal toys, the second of which makes its updates through graphs."""
    one, other = Toy(**settings).double(), Toy(**settings).double()
    return one, other, traced(other)


def train(toys, updates: int = 4, between: Any = None) -> None:
    for k in range(updates):
        for toy in toys:
            toy.compile_choice.begin_block()
            toy.gradient_update(batch().double())
            if between is not None:
                between(toy, k)


# -- Adam ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.Adam, {}),
        (torch.optim.Adam, {"weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-3}),
        (torch.optim.AdamW, {"weight_decay": 0.1}),
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.Adam, {"maximize": True, "weight_decay": 0.1}),
    ],
    ids=["plain", "decay", "decoupled", "amsgrad", "maximize"],
)
def test_adam_written_out_is_torchs(kind, settings):
    """Twenty steps against torch's own, whose state it uses; gradients grow and shrink so that AMSGrad matters."""
    torch.manual_seed(0)
    start = torch.randn(4, 3, dtype=torch.float64)
    theirs, ours = (start.clone().requires_grad_() for _ in range(2))
    reference, mine = kind([theirs], lr=0.05, fused=True, **settings), kind([ours], lr=0.05, fused=True, **settings)
    start_adam(mine, ours)
    (group,) = mine.param_groups
    for step in range(1, 21):
        gradient = torch.randn(4, 3, dtype=torch.float64) * (10.0 if step == 5 else 1.0)
        theirs.grad = gradient.clone()
        reference.step()
        factors = torch.tensor(adam_factors(group, step), dtype=torch.float64)
        with torch.no_grad():
            adam_(ours, gradient, mine.state[ours], group, factors)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    one, other = reference.state_dict()["state"][0], mine.state_dict()["state"][0]
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=0, atol=1e-13)


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


# -- the clock and what is taken for fixed -------------------------------------------------------------------------


def test_a_clock_remembers_what_it_was_asked():
    asked: list[Any] = []
    clock = SymbolicStep(5, asked)
    assert (clock + 1) % 2 == 0 and not clock < 3 and 7 - clock == 2
    answers = [[bool(question(n) == answer) for question, answer in asked] for n in (5, 4, 7, 1)]
    assert answers == [[True, True, True], [False, True, False], [True, True, False], [True, False, False]]
    for number in (
        lambda: float(clock),
        lambda: torch.ones(1) * clock,
        lambda: clock * torch.ones(1),
        lambda: [1][clock],
    ):
        with pytest.raises(Untraceable, match="uses the count of updates as a number"):
            number()


def test_one_graph_per_answer_of_the_clock():
    """Every third update learns ten times as fast, and from the seventh on three times."""

    def extra(self, loss, batch):
        loss = loss * 10.0 if self.due(3) else loss
        return loss * 3.0 if self.updates >= 6 else loss

    plain, other, compiled = pair(extra=extra)
    train([plain, other], 12)
    assert distance(plain.state_dict(), other.state_dict()) < 1e-13
    assert compiled.made == 4


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


def test_buffers_may_be_changed_in_place_or_assigned():
    def in_place(self, loss, batch):
        self.seen.add_(batch["action"].mean())
        return loss * self.seen.detach()

    def assigned(self, loss, batch):
        self.seen = 0.5 * self.seen + batch["action"].mean()
        return loss * self.seen.detach()

    for extra in (in_place, assigned):
        plain, other, _ = pair(extra=extra)
        train([plain, other])
        assert plain.seen != 0 and distance(plain.state_dict(), other.state_dict()) < 1e-14
        assert type(other.seen) is torch.Tensor


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


# -- what cannot be a graph ----------------------------------------------------------------------------------------


def branches(self, loss, batch):
    return loss * 2 if loss > 0.1 else loss


def counts(self, loss, batch):
    return loss * (1.0 - self.updates / 100)


def keeps(self, loss, batch):
    self.last = loss.detach()
    return loss


def ticks(self, loss, batch):
    self.strength += 0.1
    return loss


def logs(self, loss, batch):
    self.log("loss", loss)
    return loss


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"extra": branches}, r"Python asks for a tensor's value .* at .*test_graph.py:\d+"),
        ({"extra": counts}, "uses the count of updates as a number"),
        ({"extra": keeps}, r"changes self.last while it updates.*register_buffer"),
        ({"extra": ticks}, "changes self.strength while it updates"),
        ({"optimizer": lambda p: torch.optim.SGD(p, lr=0.1)}, "steps policy with SGD; only Adam and AdamW"),
    ],
    ids=["branch", "clock", "attribute", "counter", "optimizer"],
)
def test_what_cannot_be_compiled_trains_without_and_says_why(settings, sentence):
    """One sentence, and the very numbers of the plain path, from the first update on."""
    plain, other, _ = pair(**settings)
    with pytest.warns(UserWarning, match=rf"Toy .*{sentence}.*it trains uncompiled") as said:
        train([plain, other])
    assert len([w for w in said if "uncompiled" in str(w.message)]) == 1
    assert distance(plain.state_dict(), other.state_dict()) == 0.0


def test_a_value_logged_inside_an_update_is_refused():
    page = Toy(extra=logs)
    path = page.compile_choice
    with pytest.warns(UserWarning, match="cannot be one graph: .*self.log"):
        pl.Trainer(
            max_steps=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[OnTrainStart(lambda: setattr(path, "compiled", CompiledUpdate(page, compiler=uncompiled)))],
        ).fit(page, Blocks())


class Blocks:
    def __len__(self):
        return 2

    def __iter__(self):
        return iter([batch().unsqueeze(0)] * 2)


class OnTrainStart(pl.Callback):
    def __init__(self, call):
        self.call = call

    def on_train_start(self, trainer, pl_module):
        self.call()


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


# -- recording for a GPU -------------------------------------------------------------------------------------------


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


# -- which path ----------------------------------------------------------------------------------------------------


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


# -- float32 products ----------------------------------------------------------------------------------------------


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
