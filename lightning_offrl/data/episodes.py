"""Whole episodes in one flat table, with an index of where each begins: what every source is turned into."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from lightning_offrl.batch import Spec
from lightning_offrl.errors import InputError
from lightning_offrl.training.old_code import episodes_from_arrays


@dataclass
class EpisodeFilter:
    """Which episodes to keep; every condition that is given must hold.

    Args:
        min_return: The smallest undiscounted return, in the dataset's raw rewards.
        max_return: The largest undiscounted return.
        min_length: The smallest number of steps.
        max_length: The largest number of steps.
        top_fraction: The share in (0, 1] with the highest returns, of the episodes that meet all other conditions,
            rounded up to whole episodes (the %BC of Chen et al. 2021, https://arxiv.org/abs/2106.01345).
        indices: The numbers of the episodes, from 0.
    """

    min_return: float | None = None
    max_return: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    top_fraction: float | None = None
    indices: list[int] | None = None

    def keep(self, episodes: Episodes) -> Tensor:
        """Numbers of the episodes that pass, ascending, int64.

        Raises:
            InputError: if none passes, an index does not exist, or ``top_fraction`` is not in (0, 1].
        """
        returns, length = episodes.returns(), episodes.length
        mask = torch.ones(episodes.n_episodes, dtype=torch.bool)
        if self.indices is not None:
            bad = [i for i in self.indices if not 0 <= i < episodes.n_episodes]
            if bad:
                raise InputError(
                    f"the filter asks for episode {bad[0]}, but {episodes.name} has {episodes.n_episodes} episodes, "
                    f"numbered 0 to {episodes.n_episodes - 1}"
                )
            mask.zero_()
            mask[torch.as_tensor(self.indices, dtype=torch.int64)] = True
        if self.min_return is not None:
            mask &= returns >= self.min_return
        if self.max_return is not None:
            mask &= returns <= self.max_return
        if self.min_length is not None:
            mask &= length >= self.min_length
        if self.max_length is not None:
            mask &= length <= self.max_length
        kept = mask.nonzero().squeeze(-1)
        if len(kept) == 0:
            asked = ", ".join(f"{key}={value}" for key, value in vars(self).items() if value is not None)
            raise InputError(
                f"the filter ({asked}) keeps none of the {episodes.n_episodes} episodes of {episodes.name}: returns "
                f"go from {returns.min():.6g} to {returns.max():.6g}, lengths from {length.min()} to {length.max()}"
            )
        if self.top_fraction is not None:
            if not 0.0 < self.top_fraction <= 1.0:
                raise InputError(f"top_fraction must be in (0, 1], got {self.top_fraction}")
            # The tolerance keeps 0.1 of 30 at 3 episodes although 0.1 * 30 > 3 in floating point.
            count = max(1, math.ceil(self.top_fraction * len(kept) - 1e-9))
            best = torch.argsort(returns[kept], descending=True, stable=True)[:count]
            kept = kept[best].sort().values
        return kept


@dataclass(repr=False)
class Episodes:
    """Episodes one after the other in a flat table.

    Attributes:
        data: batch size ``[T]``; ``observation``, ``action`` (scaled to [-1, 1]), ``("next", "observation")``,
            ``("next", "reward")`` (raw), ``("next", "terminated")``, ``("next", "truncated")``, and where the source
            has them ``behavior_log_prob``, ``action_mask`` and ``("next", "action_mask")``; see `lightning_offrl.batch`
            for shapes and types; of imported logs also ``log``, ``[T, n]`` float64 (times and groups, see ``columns``).
            A flag is set in the last step of every episode, exactly one, and nowhere else.
        start: ``[E]`` int64, row of each episode's first step.
        length: ``[E]`` int64, steps of each episode.
        spec: the spaces, see `lightning_offrl.batch.Spec`.
        name: what a person calls this dataset.
        environment: its Gymnasium id, where known.
        references: raw returns that are 0 and 100 in the normalized score, where known.
        notes: sentences on what was cut, fixed or assumed when the source was read.
        columns: what the columns of an imported log are called and measured in: lists of ``{"name", "unit"}`` under
            "observation", "action" and "log" (there also "labels": the texts that its numbers stand for).
    """

    data: TensorDict
    start: Tensor
    length: Tensor
    spec: Spec
    name: str = "arrays"
    environment: str | None = None
    references: tuple[float, float] | None = None
    notes: list[str] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)
    _fingerprint: str | None = field(default=None, compare=False)

    from_arrays = staticmethod(episodes_from_arrays)

    def __len__(self) -> int:
        return int(self.data.batch_size[0])

    def __repr__(self) -> str:
        return f"Episodes({self.name!r}, {self.n_episodes} episodes, {len(self)} transitions)"

    @property
    def n_episodes(self) -> int:
        """Number of episodes E."""
        return len(self.length)

    @property
    def fingerprint(self) -> str:
        """Hash of the content (spaces, borders, every number), in hex; the same data from another file has the same.

        Name, environment, references, notes and names of columns do not enter.
        """
        if self._fingerprint is None:
            self._fingerprint = _content_hash(self)
        return self._fingerprint

    def returns(self) -> Tensor:
        """Undiscounted sums of the raw rewards, ``[E]`` float64."""
        total = torch.zeros(self.n_episodes, dtype=torch.float64)
        return total.index_add_(0, self.episode_index(), self.data["next", "reward"].double())

    def end_index(self) -> Tensor:
        """``[T]`` int64: the row of the last step of the episode that each row belongs to."""
        return torch.repeat_interleave(self.start + self.length - 1, self.length)

    def episode_index(self) -> Tensor:
        """``[T]`` int64: the number of the episode that each row belongs to."""
        return torch.repeat_interleave(torch.arange(self.n_episodes), self.length)

    def select(self, indices: Tensor | Sequence[int]) -> Episodes:
        """These episodes, in this order, as a copy (all of them in order: the same memory).

        Args:
            indices: numbers of episodes, from 0.

        Raises:
            InputError: for an empty selection or a number that does not exist.
        """
        index = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        if len(index) == 0:
            raise InputError(f"no episode of {self.name} was selected; at least one is needed")
        if int(index.min()) < 0 or int(index.max()) >= self.n_episodes:
            raise InputError(
                f"episodes {int(index.min())} to {int(index.max())} were selected, but {self.name} has episodes 0 to "
                f"{self.n_episodes - 1}"
            )
        if torch.equal(index, torch.arange(self.n_episodes)):
            return replace(self, notes=list(self.notes))
        length = self.length[index]
        start = length.cumsum(0) - length
        rows = torch.arange(int(length.sum())) + torch.repeat_interleave(self.start[index] - start, length)
        return replace(
            self, data=self.data[rows], start=start, length=length, notes=list(self.notes), _fingerprint=None
        )

    def filter(self, condition: EpisodeFilter | None) -> Episodes:
        """The episodes that pass; None keeps all.

        Raises:
            InputError: if none passes.
        """
        if condition is None:
            return self
        kept = condition.keep(self)
        return self if len(kept) == self.n_episodes else self.select(kept)

    @staticmethod
    def join(parts: Sequence[Episodes]) -> Episodes:
        """All episodes of several datasets, one dataset after the other.

        The environment and the references are kept where all parts agree, logged log-densities where all have them;
        what is lost is said in the notes. Where some parts have action masks, the others' actions are all legal.

        Raises:
            InputError: if there is no part, or two differ in their spaces.
        """
        if not parts:
            raise InputError("no dataset to join: the list of sources is empty; give at least one")
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        for other in parts[1:]:
            for key in sorted({*first.spec, *other.spec}):
                if first.spec.get(key) != other.spec.get(key):
                    raise InputError(
                        f"{first.name} and {other.name} cannot be joined: their {key} is {first.spec.get(key)} and "
                        f"{other.spec.get(key)}; join only datasets with the same spaces"
                    )
        notes = [f"{part.name}: {note}" for part in parts for note in part.notes]
        logged = ["behavior_log_prob" in part.data.keys() for part in parts]
        tables = [part.data for part in parts]
        if any(logged) and not all(logged):
            without = ", ".join(part.name for part, has in zip(parts, logged, strict=True) if not has)
            notes.append(f"the logged behavior log densities were left out, because {without} has none")
            tables = [table.exclude("behavior_log_prob") for table in tables]
        masked = ["action_mask" in part.data.keys() for part in parts]
        if any(masked) and not all(masked):
            without = ", ".join(part.name for part, has in zip(parts, masked, strict=True) if not has)
            notes.append(f"{without} has no action masks: all of its actions are taken as legal")
            tables = [t if has else _all_legal(t, first.spec) for t, has in zip(tables, masked, strict=True)]
        columns = first.columns if all(part.columns == first.columns for part in parts) else {}
        if not columns:
            tables = [table.exclude("log") for table in tables]
        if any(part.columns for part in parts) and not columns:
            notes.append("the joined datasets have different columns of logs, so names, times and groups are left out")
        environments = {part.environment for part in parts}
        references = {part.references for part in parts}
        for what, values in (("environments", environments), ("reference scores", references)):
            if len(values) > 1:
                notes.append(f"the joined datasets have different {what} ({_listing(values)}), so none is kept")
        length = torch.cat([part.length for part in parts])
        return Episodes(
            data=torch.cat(tables, 0),
            start=length.cumsum(0) - length,
            length=length,
            spec=first.spec,
            name=" + ".join(part.name for part in parts),
            environment=first.environment if len(environments) == 1 else None,
            references=first.references if len(references) == 1 else None,
            notes=notes,
            columns=columns,
        )


def _all_legal(table: TensorDict, spec: Spec) -> TensorDict:
    out = table.clone(recurse=False)
    for key in ("action_mask", ("next", "action_mask")):
        out[key] = torch.ones(len(table), spec["action_size"], dtype=torch.bool)
    return out


def leaves(
    data: Mapping[str, Any] | TensorDict, prefix: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Paths and tensors of a nested table, sorted by path."""
    for key in sorted(data.keys()):
        value = data[key]
        if isinstance(value, Tensor):
            yield (*prefix, key), value
        else:
            yield from leaves(value, (*prefix, key))


def is_tabular(episodes: Episodes) -> bool:
    """Whether actions are discrete and every observation ``[S]`` is one-hot, as those of Discrete spaces are stored."""
    observation = episodes.data["observation"]
    if episodes.spec["action_kind"] != "discrete" or not isinstance(observation, Tensor):
        return False
    if observation.ndim != 2 or observation.shape[-1] < 2:
        return False
    return bool(((observation == 0) | (observation == 1)).all()) and bool((observation.sum(-1) == 1).all())


def _content_hash(episodes: Episodes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(episodes.spec, sort_keys=True).encode())
    digest.update(episodes.length.numpy().tobytes())
    for path, value in leaves(episodes.data):
        digest.update(f"{'.'.join(path)} {value.dtype} {list(value.shape)}".encode())
        array = value.detach().cpu().contiguous().numpy()
        digest.update(array.reshape(-1).view("uint8").data)
    return digest.hexdigest()


def _listing(values: set[Any]) -> str:
    return ", ".join(sorted("none" if value is None else str(value) for value in values))
