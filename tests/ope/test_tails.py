"""The worst episodes of a policy: covered at their level where they can be told, and abstaining where not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_offrl.errors import InputError
from lightning_offrl.ope.tails import tail
from lightning_offrl.ope.weighting.trajectories import Trajectories


def bandit(returns, weights) -> Trajectories:
    """One step: the return is its reward, the weight its ratio."""
    reward = torch.tensor(returns, dtype=torch.float64).unsqueeze(-1)
    ratio = torch.tensor(weights, dtype=torch.float64).log().unsqueeze(-1)
    return Trajectories(reward=reward, mask=torch.ones_like(reward, dtype=torch.bool), log_ratio=ratio)


def test_tails_of_a_shifted_normal_and_their_intervals() -> None:
    """Actions N(0, 1) seen as N(.3, 1), return the action: CVaR and quantile of the latter, covered at their level."""
    share, shift = 0.1, 0.3
    z = float(torch.special.ndtri(torch.tensor(share).double()))
    want = {"cvar": shift - np.exp(-z * z / 2) / np.sqrt(2 * np.pi) / share, "quantile": shift + z}
    hits = {"cvar": 0, "quantile": 0}
    for seed in range(60):
        x = np.random.default_rng(seed).normal(size=600)
        found = tail(bandit(x, np.exp(shift * x - shift**2 / 2)), share, n_boot=200, seed=seed, reasons=())
        hits["cvar"] += found.cvar_interval.contains(want["cvar"])
        hits["quantile"] += found.quantile_interval.contains(want["quantile"])
    # 60 draws of a binomial at .95 lie above 50 but once in 300
    assert min(hits.values()) >= 50, hits


def test_a_tail_of_few_episodes_abstains() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    data = bandit(x, np.ones(200))
    found = tail(data, 0.05)
    assert not found.eligible and "in the worst 0.05 (at least 30" in found.reasons[0] and found.cvar_interval is None
    assert tail(data, 0.5).eligible and tail(data, 0.05, name="naive").eligible
    assert tail(data, 0.5, reasons=("the log shows too little",)).reasons == ("the log shows too little",)
    for arguments, said in (({"share": 0.0}, "share of the episodes"), ({"share": 0.5, "name": "dr"}, "naive, wis")):
        with pytest.raises(InputError, match=said):
            tail(data, **arguments)
