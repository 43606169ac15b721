"""Adam as ordinary tensor operations on the state of ``torch.optim.Adam``, so that its step can stand in a graph.

Either path can go on with the other's checkpoints: the state, its names and its count of steps are torch's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def start_adam(optimizer: Optimizer, parameter: Tensor) -> None:
    """Give a parameter the state that ``torch.optim.Adam`` would give it at its first step, if it has none."""
    state = optimizer.state[parameter]
    if state:
        return
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    hosted = group["fused"] or group["capturable"]  # torch keeps the count beside the parameter only then
    state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device if hosted else "cpu")
    state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    if group["amsgrad"]:
        state["max_exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)


def adam_factors(group: Mapping[str, Any], step: int) -> tuple[float, float, float]:
    """What changes from step to step in Adam, as plain numbers.

    Args:
        group: of ``torch.optim.Adam`` or ``AdamW``.
        step: number of the step, from 1.

    Returns:
        ``lr / (1 - beta1^t)``, ``sqrt(1 - beta2^t)``, and what decoupled weight decay multiplies parameters by.
    """
    rate, (beta1, beta2) = float(group["lr"]), group["betas"]
    decay = 1.0 - rate * group["weight_decay"] if group.get("decoupled_weight_decay") else 1.0
    return rate / (1.0 - beta1**step), (1.0 - beta2**step) ** 0.5, decay


@torch.no_grad()
def adam_(
    parameter: Tensor, gradient: Tensor, state: Mapping[str, Tensor], group: Mapping[str, Any], factors: Tensor
) -> None:
    """One step of Adam in place (Kingma and Ba, 2015, algorithm 1; torch's order of terms).

    Args:
        parameter: changed.
        gradient: of its loss.
        state: ``step``, ``exp_avg``, ``exp_avg_sq``, and ``max_exp_avg_sq`` with AMSGrad; changed.
        group: its settings.
        factors: `adam_factors` of this step, ``[3]`` float64.
    """
    beta1, beta2 = group["betas"]
    step_size, root, decay = (factor.to(parameter.dtype) for factor in factors.unbind(0))
    if group["maximize"]:
        gradient = -gradient
    if group["weight_decay"]:
        if group.get("decoupled_weight_decay"):
            parameter.mul_(decay)
        else:
            gradient = gradient + group["weight_decay"] * parameter
    mean, square = state["exp_avg"], state["exp_avg_sq"]
    state["step"].add_(1.0)
    mean.lerp_(gradient, 1.0 - beta1)
    square.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
    if group["amsgrad"]:
        square = state["max_exp_avg_sq"].copy_(torch.maximum(state["max_exp_avg_sq"], square))
    parameter.sub_(step_size * mean / (square.sqrt() / root + group["eps"]))
