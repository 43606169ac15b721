"""A tiny algorithm for the tests of this folder, and ways to train it through graphs without a compiler."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from torch import nn

from lightning_offrl.batch import IMITATION
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.compile.graph import CompiledUpdate, uncompiled

SPEC = {
    "observation_shape": [3],
    "action_kind": "box",
    "action_size": 2,
    "action_low": [-1.0] * 2,
    "action_high": [1.0] * 2,
}


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
