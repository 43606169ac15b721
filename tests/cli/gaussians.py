"""Gaussian policies as files, and the options that tests of estimates share."""

from __future__ import annotations

import json
from pathlib import Path

import torch

NET = {"obs_dim": 3, "act_dim": 2, "hidden": [], "activation": "relu", "bias": True, "head": "mean", "norm": False}


def gaussian(name: str, shift: float, scale: float = 1.0) -> dict:
    about = {"name": name, "dist": "tanh_normal", "std": 0.5 * scale, "std_scale": 1.0, "squash_mean": True}
    Path(f"{name}.json").write_text(json.dumps({**about, "eps_uniform": 0.0, "net": NET}))
    weights = {"mean.weight": torch.full((2, 3), 0.1), "mean.bias": torch.full((2,), shift)}
    torch.save(weights, f"{name}.pt")
    return weights


COMMON = "--data log.npz --direct none --n_boot 200 --discount 0.9"
