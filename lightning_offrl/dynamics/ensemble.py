"""A probabilistic ensemble of one-step models (Chua et al., 2018, PETS, https://arxiv.org/abs/1805.12114).

    p(s' - s, r | s, a)      a diagonal normal          min  E[ var^beta ( (y - mean)^2 / (2 var) + log std ) ]
    Pr(end | s, a)           a logit                    min  E[ binary cross entropy ]

``var^beta`` is a constant weight (Seitzer et al., 2022, https://arxiv.org/abs/2203.09168, beta 0.5): plain likelihood
(beta 0) spends its effort on the numbers that are predicted best already. Members are stacked seeds, each with its own
initial weights, batches and, by default, its own bootstrap resample of the episodes.

Targets are standardized over the data. Predicted observations and rewards are clipped to the range of the data, since
a network's error grows without bound outside it; a `Step` says where that happened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torch.nn import functional as F

from lightning_offrl.batch import Spec
from lightning_offrl.data.bootstrap import EpisodeBootstrap
from lightning_offrl.data.clusters import ClusterLabels, numbered
from lightning_offrl.data.datamodule import fit_normalizer
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.split import split_by_episode
from lightning_offrl.errors import InputError
from lightning_offrl.networks.mlp import MLP
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.fit import fit_without_trainer

Termination = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Raw observation ``[..., D]``, action, next observation to bool ``[...]``: whether the episode ended."""


class Prediction(NamedTuple):
    """Every member's distribution of the same steps, in raw units.

    The last number of ``mean`` and ``std`` is the reward, and those before it are the next observation.
    """

    mean: Tensor
    """``[M, B, D + 1]``."""
    std: Tensor
    """``[M, B, D + 1]``, aleatoric."""
    end: Tensor
    """``[M, B]``, probability that the step ends the episode."""
    scale: Tensor
    """``[D + 1]``, standard deviations of the changes of the observation and of the reward in the data."""

    def disagreement(self) -> Tensor:
        """Standard deviation of the members' means, root mean square over observation numbers in ``scale``, ``[B]``.

        Zero for one member.
        """
        apart = (self.mean / self.scale)[..., :-1].std(0, correction=0)
        return apart.square().mean(-1).sqrt()


class Step(NamedTuple):
    """One imagined step."""

    next_observation: Tensor
    """``[..., D]``, raw."""
    reward: Tensor
    """``[...]``, raw."""
    terminated: Tensor
    """``[...]`` bool; the reward of the step that ends counts."""
    clipped: Tensor
    """``[...]`` bool: some number left the range of the data."""


class DynamicsEnsemble(OfflineAlgorithm):
    """Stacked one-step models; `fit_dynamics` trains one, and so does a ``Trainer``, after `fit_scales`.

    Args:
        spec: The spaces, with one vector as observation and either kind of action.
        beta: The exponent of the variance that weighs the likelihood.
        learning_rate: The learning rate of AdamW.
        weight_decay: The weight decay of AdamW.
        decay_over: The number of updates over which the learning rate falls to 0 along a cosine; None: constant.
        log_std_range: The range of the log standard deviation of the standardized targets.
        hidden: The widths of the hidden layers.
        **common: see `OfflineAlgorithm`; ``seeds`` is the number of members M.
    """

    ends: Tensor
    target_mean: Tensor
    target_std: Tensor
    low: Tensor
    high: Tensor

    needs = ("observation", "action", ("next", "observation"), ("next", "reward"), ("next", "terminated"))

    def __init__(
        self,
        spec: Spec,
        *,
        beta: float = 0.5,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-5,
        decay_over: int | None = None,
        log_std_range: tuple[float, float] = (-6.0, 1.0),
        hidden: tuple[int, ...] = (200, 200, 200),
        **common: Any,
    ) -> None:
        self.action_kind = spec["action_kind"]  # type: ignore[misc]  # an instance's: both kinds, by one rule
        super().__init__(spec, **common)
        shape = spec["observation_shape"]
        if isinstance(shape, dict) or len(shape) != 1:
            raise InputError(f"a dynamics model needs one vector as observation, this data has {shape}")
        size = int(shape[0])
        self.size = size
        self.termination: Termination | None = None
        """A known rule for the end of an episode, in place of the learned one; not part of a checkpoint."""
        self.resampled: Tensor | None = None
        """``[M, W]`` int64, the episodes of each member (-1 where it has fewer), or None."""
        self.clusters: Tensor | None = None
        """``[E]`` int64, the clusters of episodes that were resampled whole, or None."""
        self.measured: dict[str, float] = {}
        """What `measure` found on held-out episodes."""
        self.model = self.network(lambda: MLP(size + spec["action_size"], hidden, 2 * (size + 1) + 1))
        for name, fill in (("target_mean", 0.0), ("target_std", 1.0), ("low", -torch.inf), ("high", torch.inf)):
            self.register_buffer(name, torch.full((size + 1,), fill))
        self.register_buffer("ends", torch.ones(()))

    def fit_scales(self, episodes: Episodes) -> None:
        """Standardize by these episodes, and take their range as the model's."""
        fit_normalizer(self, episodes)
        data = episodes.data
        reward = data["next", "reward"].double().unsqueeze(-1)
        before, after = data["observation"].double(), data["next", "observation"].double()
        target = torch.cat([after - before, reward], -1)
        std = target.std(0, correction=0)
        seen = torch.cat([torch.cat([before, after]), reward.repeat(2, 1)], -1)
        for name, value in (
            ("target_mean", target.mean(0)),
            ("target_std", torch.where(std > 1e-9, std, 1.0)),
            ("low", seen.amin(0)),
            ("high", seen.amax(0)),
        ):
            self.get_buffer(name).copy_(value)
        # a small probability at every one of a thousand steps adds up: where no episode ends, none is imagined to
        self.ends.fill_(float(data["next", "terminated"].any()))

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """One step on likelihood and cross entropy."""
        mean, log_std, end = self._outputs(batch["observation"], batch["action"])
        target = self._target(batch)
        weight = torch.exp(2.0 * self.hparams["beta"] * log_std.detach())
        error = (target - mean) * torch.exp(-log_std)
        likelihood = (weight * (0.5 * error.square() + log_std)).sum(-1).mean(-1)
        ended = batch["next", "terminated"].to(end.dtype)
        cross_entropy = F.binary_cross_entropy_with_logits(end, ended, reduction="none").mean(-1)
        loss = likelihood + cross_entropy
        self.minimize(model=loss.sum())
        explained = 1.0 - (target - mean).square().mean((-2, -1))
        return {"loss": loss, "end_cross_entropy": cross_entropy, "explained": explained}

    @property
    def members(self) -> int:
        """The number M of models."""
        return (self.lead or (1,))[0]

    @torch.no_grad()
    def predict(self, observation: Tensor, action: Tensor) -> Prediction:
        """Every member's distribution of the next step.

        Args:
            observation: raw, ``[B, D]`` for all members, or ``[M, B, D]``, each its own.
            action: scaled, ``[B, A]`` or ``[M, B, A]``; discrete ``[B]`` or ``[M, B]``.
        """
        if observation.ndim == 2:
            observation = observation.expand(self.members, *observation.shape)
            action = action.expand(self.members, *action.shape)
        inputs = (observation, action) if self.lead else (observation[0], action[0])
        mean, log_std, end = self._outputs(self.normalizer(inputs[0]), inputs[1])
        mean = mean * self.target_std + self.target_mean
        mean = mean + F.pad(inputs[0], (0, 1))
        std, end = torch.exp(log_std) * self.target_std, torch.sigmoid(end) * self.ends
        if not self.lead:
            mean, std, end = mean.unsqueeze(0), std.unsqueeze(0), end.unsqueeze(0)
        return Prediction(mean, std, end, self.target_std)

    def step_each(self, observation: Tensor, action: Tensor, generator: torch.Generator) -> Step:
        """Every member steps rows of its own: ``[M, B, D]`` and ``[M, B, A]`` (discrete ``[M, B]``)."""
        return self._draw(observation, action, self.predict(observation, action), generator)

    def step(self, observation: Tensor, action: Tensor, generator: torch.Generator) -> tuple[Step, Prediction]:
        """A step of each row ``[B, D]`` by a member drawn at random (MBPO, MOPO), and the prediction of all members."""
        all_members = self.predict(observation, action)
        member = torch.randint(len(all_members.mean), (len(observation),), generator=generator)
        row = torch.arange(len(observation))
        mean, std, end = (x[member, row] for x in all_members[:3])
        one = Prediction(mean, std, end, all_members.scale)
        return self._draw(observation, action, one, generator), all_members

    def _draw(self, observation: Tensor, action: Tensor, prediction: Prediction, generator: torch.Generator) -> Step:
        drawn = prediction.mean + prediction.std * torch.randn(prediction.mean.shape, generator=generator)
        kept = torch.maximum(torch.minimum(drawn, self.high), self.low)
        following, reward = kept[..., :-1], kept[..., -1]
        if self.termination is not None:
            ended = self.termination(observation, action, following)
        else:
            ended = torch.rand(prediction.end.shape, generator=generator) < prediction.end
        outside = ((drawn < self.low - prediction.std) | (drawn > self.high + prediction.std)).any(-1)
        return Step(following, reward, ended, outside)

    def _outputs(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Standardized mean and log standard deviation ``[*lead, B, D + 1]``, logit of the end ``[*lead, B]``."""
        if self.action_kind == "discrete":
            action = F.one_hot(action, self.spec["action_size"]).to(observation.dtype)
        out = self.model(torch.cat([observation, action.to(observation.dtype)], -1))
        mean, raw, end = out.split([self.size + 1, self.size + 1, 1], -1)
        low, high = self.hparams["log_std_range"]
        log_std = low + F.softplus(high - F.softplus(high - raw) - low)  # soft on both sides: the gradient never stops
        return mean, log_std, end.squeeze(-1)

    def _target(self, batch: TensorDictBase) -> Tensor:
        """Standardized change of the observation and reward; the batch's observations are normalized."""
        following, before = batch["next", "observation"], batch["observation"]
        change = (following - before) * self._unit()
        target = torch.cat([change, batch["next", "reward"].unsqueeze(-1)], -1)
        return (target - self.target_mean) / self.target_std

    def _unit(self) -> Tensor | float:
        """Raw units per normalized one, ``[D]``."""
        if not self.normalizer.is_active():
            return 1.0
        return self.normalizer.get_buffer("std_0") + self.normalizer.epsilon

    def configure_optimizers(self) -> Any:
        """One AdamW."""
        hp = self.hparams
        over = hp["decay_over"]
        schedules = {"model": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=over)} if over else {}
        decay = hp["weight_decay"]
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=hp["learning_rate"], weight_decay=decay, fused=True)
        return self.named_optimizers(schedules, model=optimizer)


@torch.inference_mode(False)
def fit_dynamics(
    episodes: Episodes,
    *,
    members: int = 5,
    updates: int = 20_000,
    hidden: tuple[int, ...] = (200, 200, 200),
    learning_rate: float = 1e-3,
    batch_size: int = 256,
    bootstrap: bool = True,
    held_out: float = 0.1,
    clusters: ClusterLabels | None = None,
    seed: int = 0,
) -> DynamicsEnsemble:
    """An ensemble fitted to these episodes.

    Args:
        episodes: The data, with raw rewards.
        members: The number M of models.
        updates: The number of gradient updates of each member.
        hidden: The widths of each member (PETS: 200 x 3).
        learning_rate: The learning rate of AdamW at the beginning; it falls to 0 along a cosine.
        batch_size: The number of rows for each member and update.
        bootstrap: Whether each member gets its own resample of the episodes, or all of them.
        held_out: The share of the episodes that no member sees, and that ``measured`` is of.
        clusters: ``[E]`` labels of the cluster of each episode: whole clusters are resampled and held out.
        seed: The seed of all random numbers.

    Returns:
        The ensemble in eval mode, with ``measured``: ``explained`` (the share of the variance of the changes that the
        members' mean explains), ``worst`` (the share of the worst number), ``end_cross_entropy`` (nats per step) and
        ``disagreement``.
    """
    model = DynamicsEnsemble(
        episodes.spec, hidden=hidden, learning_rate=learning_rate, decay_over=updates, seeds=members, seed=seed
    )
    model.fit_scales(episodes)
    together = numbered(clusters, episodes.n_episodes)
    _, test = split_by_episode(episodes, held_out, seed, together)
    length = episodes.length.clone()
    length[test] = 0
    counts = {"originals": 0, "replicates": members} if bootstrap else {"originals": members}
    sampler = EpisodeBootstrap(episodes.start, length, batch_size, seed, **counts, clusters=together)
    columns = episodes.data.select(*DynamicsEnsemble.needs)
    fit_without_trainer(model, columns, sampler, updates)
    model.resampled = sampler.episodes if bootstrap else None
    model.clusters = together.index if bootstrap and together is not None else None
    model.measured = measure(model, episodes.select(test))
    return model


@torch.no_grad()
def measure(model: DynamicsEnsemble, episodes: Episodes, chunk: int = 16_384) -> dict[str, float]:
    """How well the ensemble predicts steps that it has not seen; see `fit_dynamics`."""
    data, size = episodes.data, len(episodes)
    square, cross, apart = torch.zeros(model.size + 1, dtype=torch.float64), 0.0, 0.0
    for i in range(0, size, chunk):
        rows = data[i : i + chunk]
        prediction = model.predict(rows["observation"], rows["action"])
        target = torch.cat([rows["next", "observation"], rows["next", "reward"].unsqueeze(-1)], -1)
        square += ((prediction.mean.mean(0) - target) / prediction.scale).double().square().sum(0)
        end = prediction.end.mean(0).clamp(1e-7, 1.0 - 1e-7).double()
        ended = rows["next", "terminated"]
        cross -= float(torch.where(ended, end.log(), torch.log1p(-end)).sum())
        apart += float(prediction.disagreement().sum())
    unexplained = square / size
    return {
        "explained": 1.0 - float(unexplained.mean()),
        "worst": 1.0 - float(unexplained.max()),
        "end_cross_entropy": cross / size,
        "disagreement": apart / size,
    }
