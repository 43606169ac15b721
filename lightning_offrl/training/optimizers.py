"""From losses to steps: the named optimizers of one algorithm.

A step is ``autograd.grad``, the average over processes, the gradient scaler, clipping, and the optimizer's own step.
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
