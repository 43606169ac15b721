"""Small fits without a trainer take the path that a trainer would take, and leave the process as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lightning_offrl.dynamics.ensemble import fit_dynamics
from lightning_offrl.ope.direct.dice import DICESettings, dice
from lightning_offrl.ope.direct.fqe import FQESettings, fqe
from lightning_offrl.ope.policies.behavior import fit_behavior
from lightning_offrl.training.compile import choose as compile_choice
from lightning_offrl.training.compile.graph import CompiledUpdate, uncompiled
from tests.ope.linear_quadratic import BEHAVIOR, TARGET

EPISODES = BEHAVIOR.episodes(8, 10, seed=0)
SHORT = {"discount": 0.9, "updates": 12, "replicates": 2}


def _fqe() -> list[float]:
    return fqe(TARGET.policy(), EPISODES, settings=FQESettings(hidden=(8,)), **SHORT).replicates.tolist()


def _dice() -> list[float]:
    return dice(TARGET.policy(), EPISODES, settings=DICESettings(hidden=(8,)), **SHORT).replicates.tolist()


def _dynamics() -> list[float]:
    return list(fit_dynamics(EPISODES, members=2, updates=12, hidden=(8,)).measured.values())


def _behavior() -> list[float]:
    return [fit_behavior(EPISODES, updates=12, hidden=(8,)).held_out_nll]


@pytest.mark.parametrize("fit", [_fqe, _dice, _dynamics, _behavior])
def test_a_graph_makes_the_steps_of_the_plain_path(fit: Callable[[], list[float]], monkeypatch) -> None:
    """Long fits are compiled: traced as a whole, schedules and targets included, they end at the same numbers."""
    made = []
    plain = fit()
    monkeypatch.setattr(compile_choice, "REPAID_AFTER", 0)
    monkeypatch.setattr(compile_choice.CompileChoice, "compiler", staticmethod(uncompiled))
    make = CompiledUpdate._make
    monkeypatch.setattr(CompiledUpdate, "_make", lambda self, batch: made.append(make(self, batch)) or made[-1])
    assert fit() == pytest.approx(plain, rel=1e-5)
    assert len(made) == 1


def test_products_are_as_before_a_fit_even_one_that_fails(monkeypatch) -> None:
    monkeypatch.setattr(compile_choice.cpu, "precision_to_set", lambda *arguments: "high")
    assert torch.get_float32_matmul_precision() == "highest"
    seen = []

    def observed(self, algorithm, batch):
        seen.append(torch.get_float32_matmul_precision())
        raise RuntimeError("in the middle of an update")

    monkeypatch.setattr(compile_choice.CompileChoice, "losses_and_steps", observed)
    with pytest.raises(RuntimeError, match="in the middle"):
        _fqe()
    assert seen == ["high"] and torch.get_float32_matmul_precision() == "highest"
