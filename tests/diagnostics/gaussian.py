"""Logs of a Gaussian behavior, and policies shifted by z standard deviations: all divergences have closed forms."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from gymnasium import spaces
from torch import Tensor

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers.arrays import from_arrays
from lightning_offrl.ope.policies.target import TruncatedNormal

STD = 0.05  # actions stay far inside the box, so that truncation changes nothing
PHI = NormalDist().cdf


def z_of(bits: float) -> float:
    """Distance of two normals' means, in standard deviations, whose divergence is so many bits."""
    return math.sqrt(2.0 * bits * math.log(2.0))


def policy(z: float, size: int, ratio: float = 1.0) -> TruncatedNormal:
    """Mean: the behavior's, ``0.1 s`` of the first state numbers, plus z standard deviations in all (not each)."""

    def parameters(observation: Tensor) -> tuple[Tensor, Tensor]:
        mean = 0.1 * observation[:, :1].double().expand(-1, size) + z * STD / math.sqrt(size)
        return mean, torch.full_like(mean, ratio * STD)

    return TruncatedNormal(parameters)


def log_of(states: int, actions: int, steps: int = 5_000, length: int = 5, seed: int = 0) -> Episodes:
    """Independent standard normal states; the behavior is ``policy(0)``; the reward is the first action."""
    generator = torch.Generator().manual_seed(seed)
    observation = torch.randn(steps + 1, states, generator=generator)
    behavior = policy(0.0, actions)
    action = behavior.sample(observation[:-1], 1, generator)[0]
    last = torch.arange(1, steps + 1) % length == 0
    return from_arrays(
        {
            "observations": observation[:-1].numpy(),
            "actions": action.numpy(),
            "rewards": action[:, 0].numpy(),
            "terminated": last.numpy(),
            "next_observations": observation[1:].numpy(),
            "behavior_log_prob": behavior.log_prob(observation[:-1], action).numpy(),
            "observation_space": spaces.Box(-math.inf, math.inf, (states,)),
            "action_space": spaces.Box(-1.0, 1.0, (actions,)),
        }
    )
