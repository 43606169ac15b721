"""Returns of a policy in an environment: one seed per episode, the policy batched over the episodes still running.

Episode i is reset with ``seed + i`` and every episode counts to its end, so short episodes are not over-represented (as
they are in "the first N finished" of a vector environment). Environments are made once and kept.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lightning_offrl.batch import Spec, nested, unscale_action
from lightning_offrl.envs.action_masks import mask_of, takes_mask
from lightning_offrl.envs.make import check_match, environment_name, environment_spec, make_environment
from lightning_offrl.envs.spaces import encode_observation, without_mask
from lightning_offrl.errors import InputError

Act = Callable[..., Any]
"""Raw observations ``[*lead, E, D]`` (a nested TensorDict for Dict spaces) to actions in [-1, 1] ``[*lead, E, A]``, or
int64 ``[*lead, E]``. One with an argument ``action_mask`` is given ``[*lead, E, n]`` bool where the environment says
which actions are legal."""


@dataclass(frozen=True)
class Evaluation:
    """The results of one evaluation; ``[E]``, or ``[S, E]`` for stacked seeds.

    Args:
        returns: float64, raw returns, undiscounted unless asked otherwise; nan where the policy gave an action that is
            not finite.
        lengths: int64, environment steps.
        terminated: bool, whether the environment itself ended the episode (else it was truncated, or stopped at a
            non-finite action).
        seconds: wall-clock time.
        first: the observations that the episodes began with, as policies see them, on the CPU.
        last: those they ended with.
        first_mask: The mask of the actions legal at first, ``[..., E, n]`` bool; None where the environment has none.
        last_mask: The mask of those that were legal at last.
    """

    returns: np.ndarray
    lengths: np.ndarray
    terminated: np.ndarray
    seconds: float
    first: Any = None
    last: Any = None
    first_mask: torch.Tensor | None = None
    last_mask: torch.Tensor | None = None

    @property
    def mean(self) -> float:
        """Mean return over episodes (and seeds)."""
        return float(self.returns.mean())

    @property
    def standard_error(self) -> float:
        """The standard error of the mean, over episodes or over the means of S > 1 stacked seeds; nan for only one."""
        values = self.returns.mean(-1) if self.returns.ndim > 1 and len(self.returns) > 1 else self.returns.reshape(-1)
        return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def normalized_score(returns: Any, references: tuple[float, float] | list[float] | None) -> Any:
    """``100 (R - ref_min) / (ref_max - ref_min)``: the score of D4RL, https://arxiv.org/abs/2004.07219, section 4.

    Args:
        returns: raw returns, a number or an array.
        references: (ref_min, ref_max); None gives None.

    >>> normalized_score(5.0, (0.0, 20.0))
    25.0
    """
    if references is None:
        return None
    low, high = references
    return 100.0 * (returns - low) / (high - low)


class Evaluator:
    """A list of environments, kept between evaluations.

    Args:
        environment: Gymnasium id.
        episodes: The number of episodes per seed.
        trusted: the user named it, not a file; see `make.make_environment`.
        spec: the policy's spaces, to be compared with the environment's and to unscale its actions; None to take the
            environment's own.
        lead: () or (S,) for S stacked seeds. Every seed plays the same episodes (the same resets), so that its
            numbers are those of a run of its own.

    Raises:
        InputError: the environment cannot be made, is not the one the policy was trained for, or ``episodes`` < 1.
    """

    def __init__(
        self,
        environment: str,
        episodes: int = 10,
        *,
        trusted: bool = False,
        spec: Spec | None = None,
        lead: tuple[int, ...] = (),
    ) -> None:
        if episodes < 1:
            raise InputError(f"an evaluation needs at least 1 episode, got {episodes}")
        self.environment, self.episodes, self.trusted, self.lead = environment, episodes, trusted, lead
        first = make_environment(environment, trusted=trusted)
        self.spec = environment_spec(first)
        self.policy_spec = spec or self.spec
        check_match(self.policy_spec, self.spec, environment_name(environment))
        self._environments = [first]

    def run(
        self,
        act: Act,
        *,
        seed: int = 1000,
        device: Any = None,
        dtype: torch.dtype | None = None,
        discount: float = 1.0,
    ) -> Evaluation:
        """Play all episodes to their end.

        Args:
            act: the policy. Called without gradients; eval mode is the caller's business.
            seed: episode i is reset with ``seed + i``.
            device: The device on which the policy takes its observations.
            dtype: floating type the policy wants, default float32.
            discount: weight of each reward relative to the one before it.
        """
        began = time.perf_counter()
        stacks = self.lead[0] if self.lead else 1
        total = stacks * self.episodes
        while len(self._environments) < total:
            self._environments.append(make_environment(self.environment, trusted=self.trusted))
        began_with = [env.reset(seed=seed + i % self.episodes) for i, env in enumerate(self._environments[:total])]
        observations = [observation for observation, _ in began_with]
        masks = [mask_of(observation, info, self.spec) for observation, info in began_with]
        told = any(mask is not None for mask in masks)
        masked = takes_mask(act) and told
        first, first_masks = list(observations), list(masks)
        space = without_mask(self._environments[0].observation_space, self._environments[0].action_space)
        returns, lengths = np.zeros(total), np.zeros(total, dtype=np.int64)
        terminated, running = np.zeros(total, dtype=bool), np.ones(total, dtype=bool)
        while running.any():
            # Stacked seeds need a rectangle [S, E']: an episode stays in the batch while any seed still plays it, and
            # a finished one repeats its last observation, whose action is not used.
            columns = np.flatnonzero(running.reshape(stacks, -1).any(0))
            index = [s * self.episodes + int(e) for s in range(stacks) for e in columns]
            size = (*self.lead, len(columns))
            batch = _stack([observations[i] for i in index], space, size, device, dtype)
            legal = {"action_mask": self._legal([masks[i] for i in index], size, device)} if masked else {}
            with torch.no_grad(), _few_threads(batch):
                actions = act(batch, **legal)
            for i, action in zip(index, self._to_environment(actions, size), strict=True):
                if not running[i]:
                    continue
                if action is None:
                    returns[i], running[i] = math.nan, False
                    continue
                observations[i], reward, end, cut, info = self._environments[i].step(action)
                masks[i] = mask_of(observations[i], info, self.spec)
                returns[i] += discount ** int(lengths[i]) * float(reward)
                lengths[i] += 1
                terminated[i] = bool(end)
                running[i] = not (end or cut)
        shape = (*self.lead, self.episodes)
        return Evaluation(
            returns.reshape(shape),
            lengths.reshape(shape),
            terminated.reshape(shape),
            time.perf_counter() - began,
            _stack(first, space, shape, None, None),
            _stack(observations, space, shape, None, None),
            self._legal(first_masks, shape, None) if told else None,
            self._legal(masks, shape, None) if told else None,
        )

    def _to_environment(self, actions: Any, size: tuple[int, ...]) -> list[Any]:
        """Actions ``[*size, A]`` or ``[*size]`` as the environment wants them; None for one that is not finite."""
        spec = self.policy_spec
        discrete = spec["action_kind"] == "discrete"
        values = actions.detach().cpu() if isinstance(actions, torch.Tensor) else torch.as_tensor(np.asarray(actions))
        want = size if discrete else (*size, spec["action_size"])
        if tuple(values.shape) != want:
            raise InputError(f"the policy returned actions of shape {list(values.shape)}, expected {list(want)}")
        if discrete:
            return [int(value) for value in values.reshape(-1)]
        space = self._environments[0].action_space
        flat = np.asarray(unscale_action(values.double().numpy(), spec)).reshape(-1, spec["action_size"])
        clipped = np.clip(flat.reshape(-1, *space.shape), space.low, space.high).astype(space.dtype)
        return [action if np.isfinite(action).all() else None for action in clipped]

    def _legal(self, masks: list[np.ndarray | None], size: tuple[int, ...], device: Any) -> torch.Tensor:
        """``[*size, n]`` bool; where nothing is said, everything is legal."""
        n = self.spec["action_size"]
        rows = np.stack([np.ones(n, dtype=bool) if mask is None else mask for mask in masks])
        return torch.from_numpy(rows).reshape(*size, n).to(device)

    def close(self) -> None:
        """Close the environments."""
        while self._environments:
            self._environments.pop().close()


@contextlib.contextmanager
def _few_threads(batch: Any) -> Iterator[None]:
    """One CPU thread for vector observations.

    A batch this small has nothing to share out, and on a machine with other work OpenMP's threads wait for one another
    at every layer: 10 episodes of Pendulum took 7 to 15 s instead of 0.4 s. Pictures keep all threads.
    """
    leaves = [batch] if isinstance(batch, torch.Tensor) else list(batch.values(True, True))
    threads = torch.get_num_threads()
    if threads == 1 or sum(leaf.numel() for leaf in leaves) > 50_000:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _stack(observations: list[Any], space: Any, size: tuple[int, ...], device: Any, dtype: torch.dtype | None) -> Any:
    encoded = [encode_observation(observation, space) for observation in observations]
    batch = nested(_stack_leaves(encoded, size), size)

    def place(leaf: torch.Tensor) -> torch.Tensor:
        return leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else None)

    return batch.apply(place) if not isinstance(batch, torch.Tensor) else place(batch)


def _stack_leaves(values: list[Any], size: tuple[int, ...]) -> Any:
    if isinstance(values[0], dict):
        return {key: _stack_leaves([value[key] for value in values], size) for key in values[0]}
    array = np.stack(values)
    return array.reshape(*size, *array.shape[1:])


def evaluate(
    act: Act,
    environment: str,
    *,
    episodes: int = 10,
    seed: int = 1000,
    trusted: bool = False,
    spec: Spec | None = None,
    lead: tuple[int, ...] = (),
    device: Any = None,
    dtype: torch.dtype | None = None,
) -> Evaluation:
    """One evaluation with environments made for it; see `Evaluator` and its `run` for the arguments."""
    evaluator = Evaluator(environment, episodes, trusted=trusted, spec=spec, lead=lead)
    try:
        return evaluator.run(act, seed=seed, device=device, dtype=dtype)
    finally:
        evaluator.close()
