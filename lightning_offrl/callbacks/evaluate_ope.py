"""Off-policy evaluation while training: the value of the policy as it is, from logged episodes alone."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_offrl.callbacks.evaluate_env import random_state_kept
from lightning_offrl.data.clusters import Clusters, clusters_of
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.errors import InputError
from lightning_offrl.ope.direct.estimate import DirectEstimate
from lightning_offrl.ope.direct.lstd import lstd
from lightning_offrl.ope.evaluate import evaluate
from lightning_offrl.ope.policies.target import TargetPolicy
from lightning_offrl.ope.policies.trained import from_algorithm
from lightning_offrl.ope.result import OPEResult
from lightning_offrl.ope.selection.ranking import representative_estimate
from lightning_offrl.training.algorithm import OfflineAlgorithm


class EvaluateOPE(Callback):
    """Estimates the policy's value every so many gradient updates, on the held-out episodes where there are some.

    Logged under ``ope/``: for every eligible estimate ``NAME/value``, ``NAME/low`` and ``NAME/high`` (an estimate that
    abstains logs nothing), ``eligible`` (how many), ``conservative`` (the smallest lower bound), ``less_error`` (the
    representative estimate less one standard error: what `offrl select` ranks by), ``naive/value`` (the mean return of
    those episodes), and ``unsupported`` (the share of the policy's actions far from the log's). Values
    are discounted, in raw rewards: they compare with ``eval/return`` only where that is computed alike.

    These names are stable: ``Checkpoint(monitor="ope/conservative")`` keeps the checkpoint that is best offline, and
    passes over evaluations in which nothing was eligible (give both the same period). The curve is in the checkpoint,
    so it survives a resumption.

    Training is not disturbed: no random state that it uses is moved. With several processes, rank 0 computes. Where the
    data module has a ``cluster``, intervals resample these.

    Args:
        every: The period in gradient updates; 0 evaluates after the last update only.
        discount: The discount factor; None takes the data module's.
        horizon: How many first steps of an episode count; None counts whole episodes.
        direct: The fitted estimate: "lstd" (quadratic features, seconds), "fqe" (thousands of updates), or "none".
        updates: The number of gradient updates of fitted Q evaluation.
        refits: The number of refits to resampled episodes, for the interval of the fitted estimate.
        stochastic: Evaluate the density that is trained, not the greedy action; this gives importance weights where the
            log has probabilities.
        max_episodes: The largest number of episodes to use, the first ones.
        seed: The seed of fits and of resampling.
        choose_by: The logged name whose largest value is the choice, see `chosen`.
    """

    def __init__(
        self,
        every: int = 0,
        discount: float | None = None,
        horizon: int | None = None,
        direct: Literal["lstd", "fqe", "none"] = "lstd",
        updates: int = 5000,
        refits: int = 10,
        stochastic: bool = False,
        max_episodes: int = 500,
        seed: int = 0,
        choose_by: str = "ope/conservative",
    ) -> None:
        if every < 0 or max_episodes < 2:
            raise InputError("EvaluateOPE.every must be at least 0 and max_episodes at least 2")
        if direct not in ("lstd", "fqe", "none"):
            raise InputError(f"EvaluateOPE.direct cannot be {direct!r}; there are lstd, fqe and none")
        self.every, self.discount, self.horizon, self.direct = every, discount, horizon, direct
        self.updates, self.refits, self.stochastic = updates, refits, stochastic
        self.max_episodes, self.seed = max_episodes, seed
        self.choose_by = choose_by if choose_by.startswith("ope/") else f"ope/{choose_by}"
        self.last: OPEResult | None = None
        self.curve: list[tuple[int, dict[str, float]]] = []
        self._at = -1

    @property
    def chosen(self) -> int | None:
        """Gradient updates of the evaluation with the largest ``choose_by``; None if it was never logged."""
        known = [(metrics[self.choose_by], at) for at, metrics in self.curve if self.choose_by in metrics]
        return max(known, key=lambda pair: pair[0])[1] if known else None

    def state_dict(self) -> dict[str, Any]:
        """The curve, as plain values."""
        return {"updates": [at for at, _ in self.curve], "metrics": [metrics for _, metrics in self.curve]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the curve."""
        self.curve = list(zip(state_dict["updates"], state_dict["metrics"], strict=True))
        self._at = self.curve[-1][0] if self.curve else -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be evaluated, before any training."""
        if cast(OfflineAlgorithm, pl_module).lead:
            raise InputError("EvaluateOPE evaluates one run at a time; leave it out of runs with stacked seeds")
        if getattr(getattr(trainer, "datamodule", None), "cluster", None) is not None:
            self._log(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate when the period is full, and after the last update."""
        updates = cast(OfflineAlgorithm, pl_module).updates
        if (self.every > 0 and updates % self.every == 0) or updates == trainer.max_steps:
            self._evaluate(trainer, cast(OfflineAlgorithm, pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate what a run that ended otherwise has reached."""
        if cast(OfflineAlgorithm, pl_module).updates > 0:
            self._evaluate(trainer, cast(OfflineAlgorithm, pl_module))

    def _evaluate(self, trainer: Trainer, module: OfflineAlgorithm) -> None:
        if self._at == module.updates:
            return
        self._at = module.updates
        metrics = self._metrics(trainer, module) if trainer.is_global_zero else None
        found = cast(dict[str, float], trainer.strategy.broadcast(metrics, src=0))
        self.curve.append((module.updates, found))
        for name in [name for name in trainer.callback_metrics if name.startswith("ope/")]:
            del trainer.callback_metrics[name]  # what abstains now must not be monitored by its last value
        module.log_now(found)

    def _metrics(self, trainer: Trainer, module: OfflineAlgorithm) -> dict[str, float]:
        data: Any = getattr(trainer, "datamodule", None)
        episodes, together = self._log(trainer)
        discount = float(data.discount if self.discount is None else self.discount)
        modes = [(part, part.training) for part in module.modules()]
        module.eval()
        try:
            with random_state_kept(module.device):
                policy = from_algorithm(module, stochastic=self.stochastic)
                how: dict[str, Any] = {"discount": discount, "clusters": together, "seed": self.seed}
                fitted = self._fitted(policy, episodes, how)
                self.last = evaluate(policy, episodes, horizon=self.horizon, direct=fitted, n_boot=400, **how)
        finally:
            for part, training in modes:
                part.training = training
        return self._named(self.last)

    def _log(self, trainer: Trainer) -> tuple[Episodes, Clusters | None]:
        """The episodes to evaluate on, and their clusters."""
        data: Any = getattr(trainer, "datamodule", None)
        held_out: Episodes | None = data.validation
        episodes = data.train if held_out is None else held_out
        if episodes.n_episodes > self.max_episodes:
            episodes = episodes.select(torch.arange(self.max_episodes))
        column = getattr(data, "cluster", None)
        return episodes, None if column is None else clusters_of(episodes, column)

    def _fitted(self, policy: TargetPolicy, episodes: Episodes, how: dict[str, Any]) -> list[DirectEstimate]:
        if self.direct == "none":
            return []
        if self.direct == "lstd":
            return [lstd(policy, episodes, replicates=self.refits, **how)]
        from lightning_offrl.ope.direct.fqe import fqe

        return [fqe(policy, episodes, updates=self.updates, replicates=self.refits, **how)]

    @staticmethod
    def _named(found: OPEResult) -> dict[str, float]:
        eligible = [row for row in found.rows if row.status == "eligible"]
        out = {"ope/eligible": float(len(eligible)), "ope/naive/value": found.row("naive").value}
        for row in eligible:
            out[f"ope/{row.name}/value"] = row.value
            if row.interval is not None and row.bounded:
                out[f"ope/{row.name}/low"], out[f"ope/{row.name}/high"] = row.interval.low, row.interval.high
        if found.conservative is not None:
            out["ope/conservative"] = found.conservative
        chosen = representative_estimate(found)
        if chosen is not None and chosen.bounded:
            out["ope/less_error"] = chosen.value - chosen.standard_error
        if "far" in found.support:
            out["ope/unsupported"] = found.support["far"].share
        return out
