"""`OfflineDataModule`: from a source on disk to blocks of K batches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from lightning_offrl.batch import TRANSITION, Key, Spec, key_name
from lightning_offrl.data.block_size import block_size, periods_of
from lightning_offrl.data.episodes import EpisodeFilter, Episodes
from lightning_offrl.data.samplers import BlockLoader, SequentialBlocks, UniformSampler, resident
from lightning_offrl.errors import InputError
from lightning_offrl.networks.normalizer import Statistics

if TYPE_CHECKING:  # what a first run does not use is imported where it is used
    from lightning_offrl.data.rewards import RewardTransform
    from lightning_offrl.data.strata import Sampling
    from lightning_offrl.training.algorithm import OfflineAlgorithm

_FROM_NEIGHBORS: set[Key] = {("next", "action"), "mc_return", "timestep"}
"""Batch keys that are made of other steps of the same episode."""


class OfflineDataModule(pl.LightningDataModule):
    """Loads episodes, transforms rewards, and hands the trainer blocks of ``[K, B]`` transitions.

    Batches are made by index into one resident (memory-mapped) ``TensorDict``, on a GPU into a copy in its memory where
    that fits; batch k is a pure function of ``(seed, k, rank)``. There are no worker processes: sampling is below 1 %
    of an update.

    Args:
        source: The dataset: a Minari id, the path of a D4RL-layout ``.hdf5``, `Episodes`, a dictionary of arrays, or a
            list of these.
        batch_size: The number of transitions B per gradient update and process.
        updates_per_step: The number of gradient updates K per Lightning step. None takes the largest K up to 50 that
            divides every period (logging, validation, checkpoints, evaluation).
        discount: The discount factor gamma per environment step.
        n_step: The number of rewards that are summed before the bootstrap.
        reward: The transform of the rewards, fitted on the train split: the name of a preset ("none", "iql-locomotion",
            "antmaze", "antmaze-cql", "standardize") or a scale and a shift.
        infinite_horizon_return: Whether the Monte-Carlo return of an episode that was cut continues its last reward for
            ever (Cal-QL on sparse tasks).
        filter: The condition on the episodes to keep.
        sampling: The way in which the transitions of a batch are chosen, a `lightning_offrl.Sampling`. None draws
            uniformly.
        validation_fraction: The share of the episodes that is held out for ``val/...`` losses.
        validation_batches: The largest number of held-out batches per validation, spread over the held-out episodes.
        cluster: The column of the data that says which person or machine an episode belongs to. All episodes of one are
            then on the same side of the split, and ``validation_fraction`` is a share of the persons, as in
            ``offrl ope --cluster``.
        seed: The seed of the batches and of the split.
        cache_dir: The folder of the memory-mapped cache. None takes the user's cache folder.

    Raises:
        InputError: with one sentence, for anything that cannot be read or used.
    """

    def __init__(
        self,
        source: Any,
        *,
        batch_size: int = 256,
        updates_per_step: int | None = None,
        discount: float = 0.99,
        n_step: int = 1,
        reward: str | RewardTransform = "none",
        infinite_horizon_return: bool = False,
        filter: EpisodeFilter | None = None,
        sampling: Sampling | None = None,
        validation_fraction: float = 0.0,
        validation_batches: int = 20,
        cluster: str | None = None,
        seed: int = 0,
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (("batch_size", batch_size, 1), ("n_step", n_step, 1)):
            if value < least:
                raise InputError(f"data.{name} must be at least {least}, got {value}")
        if not 0.0 <= discount <= 1.0:
            raise InputError(f"data.discount must lie in [0, 1], got {discount}")
        if not 0.0 <= validation_fraction < 1.0:
            raise InputError(f"data.validation_fraction must lie in [0, 1), got {validation_fraction}")
        self.source, self.batch_size, self.updates_per_step = source, batch_size, updates_per_step
        self.discount, self.n_step, self.reward, self.filter = discount, n_step, reward, filter
        self.sampling = sampling
        self.infinite_horizon_return = infinite_horizon_return
        self.validation_fraction, self.validation_batches = validation_fraction, validation_batches
        self.cluster = cluster
        self.seed, self.cache_dir = seed, cache_dir
        self.block: int | None = None
        """K, known once a trainer is attached."""
        self._episodes: Episodes | None = None
        self._splits: tuple[Episodes, Episodes | None] | None = None
        self._reward: tuple[float, float] | None = None
        self._columns: dict[tuple[str, tuple[Key, ...]], TensorDictBase] = {}
        self._restore: tuple[Any, Any] | None = None

    # -- what is in the data -----------------------------------------------------------------------------------------

    @property
    def episodes(self) -> Episodes:
        """All episodes after the filter; read from the source on first use."""
        if self._episodes is None:
            from lightning_offrl.data.readers import load  # readers are imported when something is read

            episodes = load(self.source, cache_dir=self.cache_dir)
            self._episodes = episodes if self.filter is None else episodes.filter(self.filter)
        return self._episodes

    @property
    def train(self) -> Episodes:
        """The episodes to learn from."""
        return self._split()[0]

    @property
    def validation(self) -> Episodes | None:
        """The held-out episodes, if any."""
        return self._split()[1]

    @property
    def spec(self) -> Spec:
        """The spaces, for ``Algorithm(spec)``."""
        return self.episodes.spec

    @property
    def fingerprint(self) -> str:
        """Hash of the episodes' content after the filter."""
        return self.episodes.fingerprint

    @property
    def environment(self) -> str | None:
        """Gymnasium id that the data was logged in, if known."""
        return self.episodes.environment

    @property
    def references(self) -> tuple[float, float] | None:
        """Returns that count as 0 and 100 in the normalized score, if known."""
        return self.episodes.references

    @property
    def reward_transform(self) -> tuple[float, float]:
        """Scale and shift of rewards, ``scale * r + shift``, fitted on the train split."""
        if self._reward is None and self.reward == "none":
            self._reward = 1.0, 0.0
        elif self._reward is None:
            from lightning_offrl.data.rewards import fit_reward

            self._reward = fit_reward(self.reward, self.train)
        return self._reward

    def describe(self) -> dict[str, Any]:
        """Plain facts for checkpoints and exported policies."""
        scale, shift = self.reward_transform
        return {
            "name": self.episodes.name,
            "fingerprint": self.fingerprint,
            "environment": self.environment,
            "references": list(self.references) if self.references else None,
            "transitions": len(self.episodes),
            "episodes": self.episodes.n_episodes,
            "reward_scale": float(scale),
            "reward_shift": float(shift),
            "discount": self.discount,
            "n_step": self.n_step,
        }

    def observation_statistics(self, chunk: int = 1_000_000) -> Statistics:
        """Mean and standard deviation of every vector in the observation over the train split, in float64.

        Args:
            chunk: transitions read at a time, so that memory stays flat on memory-mapped data.
        """
        data = self.train.data["observation"]
        if isinstance(data, Tensor):
            leaves: dict[tuple[str, ...], Tensor] = {(): data}
        else:
            leaves = {key if isinstance(key, tuple) else (key,): value for key, value in data.items(True, True)}
        out: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}
        for path, leaf in leaves.items():
            if not leaf.is_floating_point() or leaf.ndim != 2:
                continue
            origin = leaf[0].double()  # sums of squares of large numbers would cancel: count from the first row
            total, square = torch.zeros_like(origin), torch.zeros_like(origin)
            for i in range(0, len(leaf), chunk):
                piece = leaf[i : i + chunk].double() - origin
                total += piece.sum(0)
                square += piece.square().sum(0)
            mean = total / len(leaf)
            out[path] = (mean + origin, (square / len(leaf) - mean.square()).clamp(min=0.0).sqrt())
        return out

    def columns(self, needs: tuple[Key, ...] = TRANSITION, split: str = "train") -> TensorDictBase:
        """Flat ``TensorDict`` ``[T]`` of the given keys: rewards transformed, n steps summed, no border crossed.

        Args:
            needs: batch keys.
            split: "train" or "validation".

        Raises:
            InputError: if the log lacks what is asked for.
        """
        if (split, needs) not in self._columns:
            episodes = self.train if split == "train" else self.validation
            assert episodes is not None
            self._columns[split, needs] = self._prepare(episodes, needs)
        return self._columns[split, needs]

    def _prepare(self, episodes: Episodes, needs: tuple[Key, ...]) -> TensorDictBase:
        data, wanted = episodes.data, set(needs)
        scale, shift = self.reward_transform if wanted & {("next", "reward"), "mc_return"} else (1.0, 0.0)
        reward = data["next", "reward"]
        if (scale, shift) != (1.0, 0.0):
            reward = (reward.double() * scale + shift).float()
        reads_next = any(isinstance(key, tuple) for key in needs)
        known: dict[Key, Any] = {
            ("next", "reward"): reward,
            # takes no memory, however long the log
            "discount": torch.tensor(self.discount).expand(data.batch_size),
        }
        if self.n_step > 1 and (reads_next or "discount" in wanted) or wanted & _FROM_NEIGHBORS:
            known |= self._from_neighbors(episodes, reward, wanted)
        if "return_quantile" in wanted:
            from lightning_offrl.data.rewards import return_quantile

            known["return_quantile"] = return_quantile(episodes.returns(), episodes.length)
        masks: list[Key] = ["action_mask", ("next", "action_mask")] if reads_next else ["action_mask"]
        out = TensorDict({}, batch_size=data.batch_size)
        for key in (*needs, *(mask for mask in masks if mask not in needs and mask in data.keys(True))):
            if key in known:
                out[key] = known[key]
            elif key in data.keys(True):
                out[key] = data[key]
            else:
                raise InputError(
                    f"the algorithm reads {key_name(key)!r}, which {episodes.name} does not hold; it has "
                    f"{sorted(key_name(k) for k in data.keys(True, True))}"
                )
        return out

    def _from_neighbors(self, episodes: Episodes, reward: Tensor, wanted: set[Key]) -> dict[Key, Any]:
        """What transitions need from other steps of their episode: n-step transitions, next actions, returns, time."""
        from lightning_offrl.data import returns

        data, end = episodes.data, episodes.end_index()
        following: Any = slice(None)
        known: dict[Key, Any] = {}
        if self.n_step > 1:
            flags = data["next", "terminated"], data["next", "truncated"]
            summed = returns.n_step(reward, *flags, end, self.n_step, self.discount)
            following = summed.last
            known = {("next", name): getattr(summed, name) for name in ("reward", "terminated", "truncated")}
            known["discount"] = summed.discount
            for key in (("next", "observation"), ("next", "action_mask")):
                if key in data.keys(True):
                    known[key] = data[key][following]
        if ("next", "action") in wanted:
            known["next", "action"] = returns.next_action(data["action"], end)[following]
        if "mc_return" in wanted:
            known["mc_return"] = returns.monte_carlo_return(
                reward,
                episodes.start,
                episodes.length,
                self.discount,
                terminated=data["next", "terminated"],
                infinite_horizon=self.infinite_horizon_return,
            )
        if "timestep" in wanted:
            known["timestep"] = returns.timestep(episodes.start, episodes.length)
        return known

    def _split(self) -> tuple[Episodes, Episodes | None]:
        if self._splits is None:
            episodes = self.episodes
            if self.validation_fraction > 0.0:
                from lightning_offrl.data.split import split_by_episode

                together = None
                if self.cluster is not None:
                    from lightning_offrl.data.clusters import clusters_of

                    together = clusters_of(episodes, self.cluster)
                train, held_out = split_by_episode(episodes, self.validation_fraction, self.seed, together)
                self._splits = episodes.select(train), episodes.select(held_out)
            else:
                self._splits = episodes, None
        return self._splits

    # -- Lightning ---------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Choose K, and turn the validation period from updates into blocks."""
        trainer: Any = self.trainer
        if stage != "fit" or trainer is None:
            return
        if len(self.train) == 0:
            raise InputError(f"{self.episodes.name} holds no transitions to learn from")
        periods = periods_of(trainer)
        if self.validation is None:
            periods.pop("trainer.val_check_interval", None)
        self.block = block_size(periods, self.updates_per_step)
        if isinstance(trainer.val_check_interval, int) and self.validation is not None:
            self._restore = (trainer.val_check_interval, trainer.check_val_every_n_epoch)
            trainer.val_check_interval //= self.block
            trainer.check_val_every_n_epoch = None

    def teardown(self, stage: str) -> None:
        """Give the trainer its period back."""
        trainer: Any = self.trainer
        if self._restore is not None and trainer is not None:
            trainer.val_check_interval, trainer.check_val_every_n_epoch = self._restore
            self._restore = None

    def train_dataloader(self) -> BlockLoader:
        """Blocks of K batches, up to ``trainer.max_steps`` gradient updates."""
        trainer: Any = self.trainer
        algorithm = trainer.lightning_module
        columns = resident(self.columns(tuple(algorithm.needs)), trainer.strategy.root_device)
        how = (
            self.batch_size,
            self.seed,
            int(algorithm.hparams.get("seeds", 1)),
            trainer.global_rank,
            trainer.world_size,
        )
        if self.sampling is None:
            sampler = UniformSampler(len(self.train), *how)
        else:
            sampler = self.sampling.sampler(self.train, *how)
        block = self.block or 1
        if trainer.max_steps > 0:
            return BlockLoader(columns, sampler, block, trainer.max_steps, trainer.max_steps)
        rows = self.batch_size * trainer.world_size * block
        return BlockLoader(columns, sampler, block, -(-columns.batch_size[0] // rows) * block)

    def val_dataloader(self) -> Any:
        """Held-out batches in order; none when nothing is held out."""
        if self.validation is None:
            return []
        trainer: Any = self.trainer
        algorithm = trainer.lightning_module
        return SequentialBlocks(
            self.columns(tuple(algorithm.needs), "validation"),
            self.batch_size,
            self.validation_batches,
            int(algorithm.hparams.get("seeds", 1)),
        )


def fit_normalizer(algorithm: OfflineAlgorithm, episodes: Episodes) -> None:
    """Standardize by these episodes; numbers that never change, and one-hot observations, stay as they are.

    A number that is constant in the data but not where a policy leads would otherwise be divided by almost nothing.
    """
    statistics = {}
    for path, (mean, std) in OfflineDataModule(episodes).observation_statistics().items():
        varies = std > 1e-6 * mean.abs().clamp(min=1.0)
        statistics[path] = (torch.where(varies, mean, 0.0), torch.where(varies, std, 1.0))
    observation = episodes.data["observation"]
    tabular = isinstance(observation, torch.Tensor) and observation.ndim == 2 and observation.shape[-1] > 1
    if tabular and bool(((observation == 0) | (observation == 1)).all() & (observation.sum(-1) == 1).all()):
        return
    algorithm.normalizer.fit(statistics)
