"""Trained algorithms as target policies."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.batch import Spec, nested
from lightning_offrl.envs.action_masks import takes_mask
from lightning_offrl.errors import InputError
from lightning_offrl.ope.policies.target import ClippedNormal, Deterministic, Discrete, SquashedNormal, TargetPolicy


def from_algorithm(trained: Any, stochastic: bool = False) -> TargetPolicy:
    """A trained algorithm, or the policy that `load_policy` read, as a target policy.

    Args:
        trained: an `OfflineAlgorithm` in eval mode, or an object with one as ``algorithm``.
        stochastic: evaluate the density that was trained instead of the greedy action that is served. A Gaussian that
            is clipped when it acts stays clipped; call ``.truncated()`` for importance sampling.

    Raises:
        InputError: ``stochastic`` of an algorithm without a density.
    """
    algorithm = getattr(trained, "algorithm", trained)
    spec: Spec = algorithm.spec
    discrete = spec["action_kind"] == "discrete"
    tensors = [p for p in algorithm.parameters() if p.is_floating_point()]
    dtype, device = (tensors[0].dtype, tensors[0].device) if tensors else (torch.float32, torch.device("cpu"))

    def placed(leaf: Tensor) -> Tensor:
        return leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else None)

    def move(observation: Any) -> Any:
        return observation.apply(placed) if isinstance(observation, TensorDictBase) else placed(observation)

    def act(observation: Any, action_mask: Tensor | None = None) -> Tensor:
        legal = {} if action_mask is None or not takes_mask(algorithm.act) else {"action_mask": action_mask.to(device)}
        return algorithm.act(move(observation), **legal).cpu()

    if not stochastic:
        return Deterministic(act, spec["action_size"] if discrete else None)

    def density(observation: Any, mask: Tensor | None = None) -> Any:
        legal = () if mask is None else (mask.to(device),)
        return algorithm.policy(algorithm.normalizer(move(observation)), *legal)

    def normal(observation: Any) -> tuple[Tensor, Tensor]:
        found = density(observation)
        return found.mean.cpu(), found.log_std.exp().expand_as(found.mean).cpu()

    def table(observation: Any, action_mask: Tensor | None = None) -> Tensor:
        return density(observation, action_mask).log_probs.double().exp().cpu()

    kind = _kind_of_density(algorithm, spec, dtype, device)
    if kind == "Categorical":
        return Discrete(table)
    if kind == "SquashedGaussian":
        return SquashedNormal(normal)
    if kind == "Gaussian":
        return ClippedNormal(normal)
    raise InputError(
        f"{type(algorithm).__name__} has no density of its actions (its policy gives {kind}); evaluate its greedy "
        "action with --kind greedy (stochastic=False)"
    )


def _kind_of_density(algorithm: Any, spec: Spec, dtype: torch.dtype, device: torch.device) -> str:
    """Name of the class that ``algorithm.policy`` returns for one observation of zeros."""

    def zeros(shape: Any) -> Any:
        if isinstance(shape, dict):
            return {key: zeros(inner) for key, inner in shape.items()}
        return torch.zeros(1, *shape, dtype=dtype, device=device)

    if getattr(algorithm, "policy", None) is None:
        return "nothing"
    try:
        with torch.no_grad():
            out = algorithm.policy(algorithm.normalizer(nested(zeros(spec["observation_shape"]), [1])))
    except TypeError:  # a network of state and action, such as BCQ's perturbation
        return "a perturbation"
    return type(out).__name__
