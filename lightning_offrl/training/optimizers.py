"""From losses to steps: the named optimizers of one algorithm, and Adam written out for graphs.

`OptimizerSet` is the plain path: ``autograd.grad``, the average over processes, the gradient scaler, clipping, and the
optimizer's own step. `adam_` is the same step as ordinary tensor operations on the state of the same
``torch.optim.Adam``, so that a whole update can be one graph and either path can go on with the other's checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_offrl.errors import InputError


class OptimizerSet:
    """The named optimizers of one algorithm and how they step.

    Args:
        clip: largest gradient norm per optimizer and seed, one number or a dict by optimizer name; None: off.
        stacked: every parameter has a leading dimension of independent runs.
    """

    def __init__(self, clip: float | dict[str, float] | None, stacked: bool) -> None:
        self.clip, self.stacked = clip, stacked
        self.optimizers: dict[str, Optimizer] = {}
        self.schedulers: list[LRScheduler] = []
        self.scaler: Any = None
        self.world = 1

    def parameters(self, name: str) -> list[Tensor]:
        """What the optimizer of that name steps, in its order."""
        groups = self.optimizers[name].param_groups
        return groups[0]["params"] if len(groups) == 1 else [p for group in groups for p in group["params"]]

    def minimize(self, losses: Mapping[str, Tensor]) -> None:
        """Differentiate all losses at the current values, then step each one's optimizer; see the algorithm's.

        Args:
            losses: scalars, by optimizer name.

        Raises:
            InputError: if there is no optimizer of a name.
        """
        unknown = set(losses) - set(self.optimizers)
        if unknown:
            raise InputError(f"minimize() got {sorted(unknown)}, but the optimizers are {sorted(self.optimizers)}")
        names = list(losses)
        gradients = []
        for name in names:
            loss = losses[name] if self.scaler is None else self.scaler.scale(losses[name])
            # autograd.grad, not backward: no other network's .grad is touched, and DDP's own reducer never wakes
            parameters = self.parameters(name)
            gradients.append(torch.autograd.grad(loss, parameters, retain_graph=name != names[-1], allow_unused=True))
        for name, gradient in zip(names, gradients, strict=True):
            self.step(name, gradient)

    def step(self, name: str, gradients: tuple[Tensor | None, ...]) -> None:
        """One step of the optimizer of that name."""
        optimizer = self.optimizers[name]
        if self.world > 1:
            gradients = averaged(gradients, self.world)
        parameters = self.parameters(name)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None and gradient.stride() != parameter.stride():
                # fused Adam walks through memory: a transposed gradient would be added to the wrong entries, silently
                gradient = torch.empty_like(parameter).copy_(gradient)
            parameter.grad = gradient
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        self.clip_gradients(name, [p.grad for p in parameters if p.grad is not None])
        if self.scaler is not None:
            self.scaler.step(optimizer)
        else:
            optimizer.step()

    def clip_gradients(self, name: str, gradients: list[Tensor]) -> None:
        """Scale gradients in place to the limit set for that optimizer, if there is one."""
        limit = self.clip.get(name) if isinstance(self.clip, dict) else self.clip
        if limit is not None:
            clip_per_seed(gradients, limit, self.stacked)


def averaged(gradients: tuple[Tensor | None, ...], world: int) -> tuple[Tensor | None, ...]:
    """Mean over the processes, with one exchange."""
    present = [g for g in gradients if g is not None]
    flat = torch._utils._flatten_dense_tensors(present)
    torch.distributed.all_reduce(flat)
    flat /= world
    mean = iter(torch._utils._unflatten_dense_tensors(flat, present))
    return tuple(None if g is None else next(mean) for g in gradients)


@torch.no_grad()
def clip_per_seed(gradients: list[Tensor], limit: float, stacked: bool) -> Tensor:
    """Scale gradients in place so that their joint norm is at most ``limit``.

    Args:
        gradients: of one optimizer; ``[S, ...]`` each when ``stacked``.
        limit: largest norm.
        stacked: treat each index of the first dimension as a run of its own.

    Returns:
        The norm before clipping, ``[]`` or ``[S]``.
    """
    first = 1 if stacked else 0
    squares = [g.square().flatten(first).sum(-1) if g.ndim > first else g.square() for g in gradients]
    norm = torch.stack(squares).sum(0).sqrt()
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.view([*scale.shape, *[1] * (gradient.ndim - first)]))
    return norm


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
