"""What can be traced, the clock's answers, and what cannot be a graph; without a compiler."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lightning_offrl.training.compile.graph import CompiledUpdate, uncompiled
from lightning_offrl.training.compile.trace import SymbolicStep, Untraceable
from tests.contracts.pages import distance
from tests.training.compile.toy import Toy, batch, pair, train


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
        ({"extra": branches}, r"Python asks for a tensor's value .* at .*test_trace.py:\d+"),
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
