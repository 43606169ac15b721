"""A log of coins that two states and two actions are enough for, a policy for it, and a made-up direct estimate."""

from __future__ import annotations

import torch

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.ope.direct.estimate import DirectEstimate
from lightning_offrl.ope.policies.target import Tabular

POLICY = Tabular([[0.7, 0.3], [0.35, 0.65]])


def finite_log(n=400, steps=3, seed=0, p=0.4, reward=None):
    """Two states, two actions; action 1 pays 1 in state 1, action 0 pays 1 in state 0; the next state is a coin."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randint(2, (n * steps,), generator=generator)
    action = (torch.rand(n * steps, generator=generator) < p).long()
    paid = (state == action).double() if reward is None else reward(state, action)
    end = torch.zeros(n * steps, dtype=torch.bool)
    end[steps - 1 :: steps] = True
    probability = torch.where(action == 1, p, 1 - p)
    one_hot = torch.nn.functional.one_hot(state, 2).float()
    return from_arrays(
        {
            "observations": one_hot.numpy(),
            "actions": action.numpy(),
            "rewards": paid.numpy(),
            "terminated": end.numpy(),
            "truncated": torch.zeros_like(end).numpy(),
            "next_observations": one_hot.roll(-1, 0).numpy(),
            "behavior_log_prob": probability.log().numpy(),
            "name": "coins",
        }
    )


def direct(value: float, episodes: Episodes, spread: float = 0.02, refits: int = 50, method: str = "fqe", **fields):
    replicates = value + spread * torch.randn(refits, generator=torch.Generator().manual_seed(1)).double()
    return DirectEstimate(
        method,
        value,
        torch.full((episodes.n_episodes,), value).double(),
        q=lambda e: torch.zeros(len(e)).double(),
        v=lambda o: torch.zeros(len(o)).double(),
        replicates=replicates if refits else None,
        **fields,
    )
