"""What the pages' tests share: networks as plain functions of copied weights, and real Adam on them."""

from __future__ import annotations

import torch
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution
from torch.nn import functional as F

SPEC = {
    "observation_shape": [3],
    "action_kind": "box",
    "action_size": 2,
    "action_low": [-1.0, -1.0],
    "action_high": [1.0, 1.0],
}


def weights(network) -> list[torch.Tensor]:
    """Copies of a network's parameters, as leaves."""
    return [p.detach().clone().requires_grad_() for p in network.parameters()]


def mlp(parameters: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """ReLU network from ``[W, b, W, b, ...]``."""
    layers = list(zip(parameters[::2], parameters[1::2], strict=True))
    for w, b in layers[:-1]:
        x = F.relu(x @ w + b)
    return x @ layers[-1][0] + layers[-1][1]


def member(parameters: list[torch.Tensor], i: int) -> list[torch.Tensor]:
    """The weights of critic i."""
    return [p[i] for p in parameters]


def q_of(parameters: list[torch.Tensor], observation: torch.Tensor, action: torch.Tensor) -> list[torch.Tensor]:
    """Both critics, one after the other."""
    return [mlp(member(parameters, i), torch.cat([observation, action], -1)).squeeze(-1) for i in range(2)]


def squashed(policy: list[torch.Tensor], observation: torch.Tensor):
    """torch's own tanh of a normal from ``[mean | log std]``, and the mean and standard deviation of that normal."""
    mean, log_std = mlp(policy, observation).chunk(2, -1)
    std = log_std.clamp(-20, 2).exp()
    return TransformedDistribution(Independent(Normal(mean, std), 1), TanhTransform(cache_size=1)), mean, std


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """The three lines that every tutorial has."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def step_together(adams: list[torch.optim.Optimizer], losses: list[torch.Tensor]) -> None:
    """Differentiate all losses at the same values, then step."""
    for adam, loss in zip(adams, losses, strict=True):
        (parameters,) = (group["params"] for group in adam.param_groups)
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g
    for adam in adams:
        adam.step()


def polyak(targets: list[torch.Tensor], sources: list[torch.Tensor], tau: float = 0.005) -> None:
    """``target <- (1 - tau) target + tau source``."""
    with torch.no_grad():
        for t, s in zip(targets, sources, strict=True):
            t.copy_((1 - tau) * t + tau * s)


def batches(count: int, size: int = 16) -> list[dict[str, torch.Tensor]]:
    """Random float64 batches with all four combinations of flags."""
    g = torch.Generator().manual_seed(1)
    return [
        {
            "observation": torch.randn(size, 3, generator=g).double(),
            "action": torch.rand(size, 2, generator=g).double() * 2 - 1,
            "next_observation": torch.randn(size, 3, generator=g).double(),
            "reward": torch.randn(size, generator=g).double(),
            "terminated": torch.rand(size, generator=g) < 0.3,
            "truncated": torch.rand(size, generator=g) < 0.3,
        }
        for _ in range(count)
    ]


def single(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same in float32."""
    return {k: v.float() if v.is_floating_point() else v for k, v in batch.items()}


def as_ours(batch: dict[str, torch.Tensor], discount: float):
    """The same as a batch of this package."""
    from tensordict import TensorDict

    size = len(batch["reward"])
    return TensorDict(
        {
            "observation": batch["observation"],
            "action": batch["action"],
            "next": {
                "observation": batch["next_observation"],
                "reward": batch["reward"],
                "terminated": batch["terminated"],
                "truncated": batch["truncated"],
            },
            "discount": torch.full((size,), discount, dtype=batch["reward"].dtype),
        },
        [size],
    )
