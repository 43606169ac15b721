"""Evaluation in an environment while training."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from lightning_offrl.envs.rollout import Evaluation, Evaluator, normalized_score
from lightning_offrl.errors import InputError
from lightning_offrl.training.algorithm import OfflineAlgorithm


@dataclass(frozen=True)
class Point:
    """One evaluation on the curve.

    Args:
        updates: The number of gradient updates made before it.
        returns: The raw return of each episode, by seed: ``[S][E]`` (S = 1 unless seeds are stacked).
        score: The mean normalized score (0-100); None where there are no reference returns.
    """

    updates: int
    returns: list[list[float]]
    score: float | None

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def value(self) -> float:
        """The score where it exists, else the mean return."""
        return self.mean if self.score is None else self.score


class EvaluateEnv(Callback):
    """Plays episodes every so many gradient updates and logs their returns.

    Logged under ``eval/``: ``return`` (mean), ``return_se`` (its standard error over episodes; over seeds where several
    are stacked), ``score`` (0-100, where references exist), ``length`` (environment steps), ``time_share`` (of the wall
    clock since the start of training, spent here), ``best_score``, and ``mean_of_last_K``. Without references the last
    two are returns and the former is called ``best_return``. With stacked seeds also ``return_seed0``, ``score_seed0``,
    and so on.

    ``last``, ``best`` and ``mean_of_last`` are three different claims: the best of many noisy evaluations is too high,
    and offline there is no way to choose it without the environment. Papers report the last.

    The curve is in the checkpoint, so it survives a resumption. Training is not disturbed: no random state it uses is
    moved. Rank 0 plays, all ranks learn the result.

    Args:
        environment: The Gymnasium id; None takes that of the data. Without one that can be made there is no evaluation,
            and one line says so (an id given here that cannot be made is an error).
        episodes: The number of episodes of an evaluation (and seed); episode i is reset with ``seed + i`` every time.
        every: The period in gradient updates; 0 evaluates at the end only.
        seed: The seed of the first episode.
        at_start: Whether the untrained policy is evaluated too, at update 0.
        at_end: Whether the policy is evaluated after the last update if the period does not end there.
        last_k: The number of evaluations in the running mean.
    """

    def __init__(
        self,
        environment: str | None = None,
        episodes: int = 10,
        every: int = 10_000,
        seed: int = 1000,
        at_start: bool = False,
        at_end: bool = True,
        last_k: int = 5,
    ) -> None:
        for name, value, least in (("episodes", episodes, 1), ("every", every, 0), ("last_k", last_k, 1)):
            if value < least:
                raise InputError(f"EvaluateEnv.{name} must be at least {least}, got {value}")
        self.environment, self.episodes, self.every, self.seed = environment, episodes, every, seed
        self.at_start, self.at_end, self.last_k = at_start, at_end, last_k
        self.curve: list[Point] = []
        self.enabled = True
        self._references: tuple[float, float] | None = None
        self._evaluator: Evaluator | None = None
        self._spent = 0.0
        self._elapsed = 0.0  # of the runs before this one
        self._began: float | None = None
        self._warned = False

    # -- what came out -----------------------------------------------------------------------------------------------

    @property
    def last(self) -> Point | None:
        """The latest evaluation."""
        return self.curve[-1] if self.curve else None

    @property
    def best(self) -> Point | None:
        """The evaluation with the highest score (or return), a choice that needs the environment."""
        finite = [point for point in self.curve if math.isfinite(point.value)]
        return max(finite, key=lambda point: point.value, default=None)

    @property
    def mean_of_last(self) -> float | None:
        """Mean score (or return) of the last ``last_k`` evaluations; of fewer while there are fewer."""
        tail = self.curve[-self.last_k :]
        return float(np.mean([point.value for point in tail])) if tail else None

    @property
    def time_share(self) -> float:
        """Share of the wall clock since the start of training that evaluations took, over all resumptions."""
        total = self._elapsed_now()
        return self._spent / total if total > 0.0 else 0.0

    # -- Lightning's hooks -------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the environment, before any training: a wrong id must not show after 10,000 updates."""
        if stage != "fit":
            return
        data = getattr(trainer, "datamodule", None)
        identifier = self.environment or getattr(data, "environment", None)
        self._references = getattr(data, "references", None)
        if identifier is None:
            self._disable("the data does not name its environment (give EvaluateEnv one by its Gymnasium id)")
            return
        if not trainer.is_global_zero:
            return
        module = cast(OfflineAlgorithm, pl_module)
        try:
            typed = self.environment is not None
            self._evaluator = Evaluator(identifier, self.episodes, trusted=typed, spec=module.spec, lead=module.lead)
        except InputError as problem:
            if self.environment is not None:
                raise
            self._disable(str(problem))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Agree on whether there is an environment, start the clock, evaluate the untrained policy if asked."""
        self.enabled = bool(trainer.strategy.broadcast(self.enabled, src=0))
        self._began = time.perf_counter()
        if self.at_start and not self.curve:
            self._evaluate(trainer, cast(OfflineAlgorithm, pl_module))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate when the period is full, and after the last update, so that the last checkpoint has it."""
        updates = cast(OfflineAlgorithm, pl_module).updates
        due = self.every > 0 and updates % self.every == 0
        if due or (self.at_end and updates == trainer.max_steps):
            self._evaluate(trainer, cast(OfflineAlgorithm, pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate what a run that ended otherwise (by epochs, by time) has reached, and close the environments."""
        if self.at_end and cast(OfflineAlgorithm, pl_module).updates > 0:
            self._evaluate(trainer, cast(OfflineAlgorithm, pl_module))
        self._elapsed, self._began = self._elapsed_now(), None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the environments."""
        if self._evaluator is not None:
            self._evaluator.close()
            self._evaluator = None

    def state_dict(self) -> dict[str, Any]:
        """The curve and the clock, as plain values."""
        return {
            "updates": [point.updates for point in self.curve],
            "returns": [point.returns for point in self.curve],
            "scores": [point.score for point in self.curve],
            "spent": self._spent,
            "elapsed": self._elapsed_now(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the curve."""
        rows = zip(state_dict["updates"], state_dict["returns"], state_dict["scores"], strict=True)
        self.curve = [Point(*row) for row in rows]
        self._spent, self._elapsed = state_dict["spent"], state_dict["elapsed"]

    # -- evaluating --------------------------------------------------------------------------------------------------

    def _evaluate(self, trainer: Trainer, module: OfflineAlgorithm) -> None:
        if not self.enabled or (self.curve and self.curve[-1].updates == module.updates):
            return
        began = time.perf_counter()
        seen = self._play(module) if trainer.is_global_zero else None
        plain = None if seen is None else (seen.returns.tolist(), float(seen.lengths.mean()))
        returns, length = cast(tuple[list[Any], float], trainer.strategy.broadcast(plain, src=0))
        rows = returns if module.lead else [returns]
        score = normalized_score(float(np.mean(rows)), self._references)
        self.curve.append(Point(module.updates, rows, score))
        self._spent += time.perf_counter() - began
        module.log_now(self._metrics(np.asarray(returns), length, stacked=bool(module.lead)))
        if not math.isfinite(self.curve[-1].mean) and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"the policy gave actions that are not finite at update {module.updates}, so its return is NaN: "
                "training has diverged; lower the learning rate or clip gradients"
            )

    def _play(self, module: OfflineAlgorithm) -> Evaluation:
        assert self._evaluator is not None
        modes = [(part, part.training) for part in module.modules()]
        dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
        module.eval()
        try:
            with random_state_kept(module.device):
                return self._evaluator.run(module.act, seed=self.seed, device=module.device, dtype=dtype)
        finally:
            for part, training in modes:  # one by one: targets stay in eval mode while the rest trains
                part.training = training

    def _metrics(self, returns: np.ndarray, length: float, *, stacked: bool) -> dict[str, float]:
        seen = Evaluation(returns, np.empty(0), np.empty(0), 0.0)
        last, best, name = self.curve[-1], self.best, "return" if self._references is None else "score"
        metrics = {
            "return": last.mean,
            "return_se": seen.standard_error,
            "length": length,
            "time_share": self.time_share,
        }
        if last.score is not None:
            metrics["score"] = last.score
        metrics[f"best_{name}"] = math.nan if best is None else best.value
        metrics[f"mean_of_last_{self.last_k}"] = self.mean_of_last or 0.0
        for i, row in enumerate(returns if stacked else []):
            metrics[f"return_seed{i}"] = float(np.mean(row))
            if self._references is not None:
                metrics[f"score_seed{i}"] = float(normalized_score(np.mean(row), self._references))
        return {f"eval/{key}": value for key, value in metrics.items()}

    def _elapsed_now(self) -> float:
        return self._elapsed + (0.0 if self._began is None else time.perf_counter() - self._began)

    def _disable(self, reason: str) -> None:
        self.enabled = False
        rank_zero_info(f"no evaluation in an environment: {reason}")


@contextlib.contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Put back every global random state that an environment or a network could have moved."""
    python, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)
