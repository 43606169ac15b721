r"""A monitor of distribution shift, and of whether values can be believed, while training.

    offrl fit --config iql --data.source hopper.hdf5 \
        --trainer.callbacks+=PolicyShiftMonitor --trainer.callbacks.every=20000

and from Python ``L.Trainer(callbacks=[PolicyShiftMonitor(every=20_000)])``. In a configuration file::

    trainer:
      callbacks:
        - class_path: PolicyShiftMonitor
          init_args: {every: 20000, stop_on_divergence: true}
"""

from __future__ import annotations

import time
from dataclasses import fields, replace
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from tensordict import TensorDictBase
from torch import Tensor

from lightning_offrl.callbacks.evaluate_env import random_state_kept
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.returns import monte_carlo_return
from lightning_offrl.diagnostics.diagnosis import CLOSER, Diagnosis, as_text
from lightning_offrl.diagnostics.panel import ShiftPanel
from lightning_offrl.diagnostics.values import (
    disagreement,
    initial_value,
    offline_online_gap,
    q_bounds,
    q_calibration,
    q_drift,
    q_gap,
    value_range,
)
from lightning_offrl.envs.action_masks import takes_mask
from lightning_offrl.envs.rollout import Evaluator
from lightning_offrl.errors import InputError
from lightning_offrl.ope.policies import masked as legal
from lightning_offrl.ope.policies.behavior import fit_behavior
from lightning_offrl.ope.policies.target import TargetPolicy
from lightning_offrl.ope.policies.trained import from_algorithm
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.old_code import takes_old_keywords

DIVERGED = "q_outside"
"""The alarm that stops a run with ``stop_on_divergence``."""
FINISHED = ("q_slope", "q_drift", "v0")
"""Diagnoses of a finished critic: cautions at most while training goes on."""
BEHAVIOR_UPDATES = 1_000
_FIRST_STATES = 2_000
_SEEN = 0.01  # share of an endless return that may be missing behind the cut of an episode


class PolicyShiftMonitor(Callback):
    """Measures during training how far the policy has left the data, and whether its values can be believed.

    Logged under ``shift/``, in bits, shares, or the units of Q (transformed rewards):

    * ``support_knn``, ``support_vae``: the share of the policy's actions that are like those of the log;
    * ``kl_bits_step``, ``kl_bits_traj`` (and ``kl_bits_limit``, what importance sampling with so many episodes bears),
      ``kl_bits_knn``, ``kl_bits_classifier``; ``tv``, ``auc``; ``mmd2``, ``mmd_p``; ``surprisal_bits``,
      ``surprisal_beyond``; ``ratio_max``, ``ratio_q999``, ``ess``, ``ess_share``, ``ess_share_step``;
    * ``disagreement``; ``q_mean``, ``q_outside``, ``q_slope``, ``q_offset``, ``q_gap``, ``q_gap_sd``, ``q_drift``,
      ``v0``, ``v0_over_best``; with ``episodes`` > 0 ``online_gap`` and ``online_gap_se``;
    * ``alarms``, the number of alarms, and ``seconds``, the time that the diagnosis took.

    A number that does not apply (the divergence of a deterministic policy) is not logged. An alarm is reported once,
    with what to change, as a warning and by W&B where it is a logger, and again if it comes back. Calibration and drift
    of Q, and V(s0), are no alarms before the last update: an unfinished critic is wrong. The policy is diagnosed as it
    acts; divergence and weights are of the density it was trained with. Of several stacked seeds the first is
    diagnosed. Where the log (or the environment) has masks of legal actions, the policy receives them. Training is not
    disturbed: no random state that it uses is moved. With several processes, rank 0 computes.

    Args:
        every: The period in gradient updates; 0 diagnoses after the last update only.
        behavior: "fit" estimates the behavior policy from the data (seconds, once), for divergence, surprisal and
            weights; "none" leaves these out, except weights where the log has probabilities. From Python, also the
            true behavior policy, a `TargetPolicy`.
        states: The number of logged steps that are used.
        vae: Whether a VAE is trained for the support of continuous actions (seconds, once).
        episodes: The number of episodes played in the data's environment for the offline-online gap; 0 plays none.
        environment: The Gymnasium id of the environment; None takes that of the data.
        stop_on_divergence: Whether training ends when Q has left its bounds (those of discounted rewards, and 0, where
            untrained critics begin) or is not finite.
        seed: The seed of all random numbers here; episode i is reset with ``1000 + seed + i``.

    Raises:
        InputError: An argument makes no sense.
    """

    @takes_old_keywords
    def __init__(
        self,
        every: int = 10_000,
        behavior: Literal["fit", "none"] | Any = "fit",
        states: int = 3_000,
        vae: bool = True,
        episodes: int = 0,
        environment: str | None = None,
        stop_on_divergence: bool = False,
        seed: int = 0,
    ) -> None:
        if every < 0 or states < 100 or episodes < 0:
            raise InputError(
                f"PolicyShiftMonitor needs every >= 0, states >= 100 and episodes >= 0, got {every}, {states} and "
                f"{episodes}"
            )
        if isinstance(behavior, str) and behavior not in ("fit", "none"):
            raise InputError(f"PolicyShiftMonitor.behavior is 'fit', 'none' or a policy, got {behavior!r}")
        self.every, self.behavior, self.states, self.vae = every, behavior, states, vae
        self.episodes, self.environment, self.seed = episodes, environment, seed
        self.stop_on_divergence = stop_on_divergence
        self.last: list[Diagnosis] = []
        """The latest diagnoses; `diagnosis.as_text` prints them."""
        self.alarms: set[str] = set()
        self._mean_q: list[tuple[int, float]] = []
        """The mean Q at numbers of updates."""
        self._at = -1
        self._panel: ShiftPanel | None = None
        self._evaluator: Evaluator | None = None

    # -- Lightning's hooks -------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the environment before any training."""
        if stage != "fit" or self.episodes == 0 or not trainer.is_global_zero:
            return
        identifier = self.environment or getattr(getattr(trainer, "datamodule", None), "environment", None)
        if identifier is None:
            raise InputError(
                "PolicyShiftMonitor.episodes asks for the offline-online gap, but the data does not name its "
                "environment; give PolicyShiftMonitor.environment, a Gymnasium id"
            )
        self._evaluator = Evaluator(identifier, self.episodes, spec=cast(OfflineAlgorithm, pl_module).spec)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Diagnose when the period is full, and after the last update."""
        updates = cast(OfflineAlgorithm, pl_module).updates
        if (self.every > 0 and updates % self.every == 0) or updates == trainer.max_steps:
            self._diagnose_and_log(trainer, cast(OfflineAlgorithm, pl_module), final=updates == trainer.max_steps)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Diagnose what a run that ended otherwise has reached."""
        if cast(OfflineAlgorithm, pl_module).updates > 0:
            self._diagnose_and_log(trainer, cast(OfflineAlgorithm, pl_module), final=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the environments and drop the data."""
        if self._evaluator is not None:
            self._evaluator.close()
        self._evaluator = self._panel = None

    def state_dict(self) -> dict[str, Any]:
        """The records of Q and the alarms that were reported."""
        return {"looks": [list(record) for record in self._mean_q], "alarms": sorted(self.alarms), "at": self._at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from these records."""
        self._mean_q = [(int(updates), float(q)) for updates, q in state_dict["looks"]]
        self.alarms, self._at = set(state_dict["alarms"]), int(state_dict["at"])

    # -- diagnosing --------------------------------------------------------------------------------------------------

    def _diagnose_and_log(self, trainer: Trainer, module: OfflineAlgorithm, final: bool) -> None:
        if self._at == module.updates:
            return
        self._at = module.updates
        found: tuple[dict[str, float], list[str], bool] | None = None
        if trainer.is_global_zero:
            began = time.perf_counter()
            self.last = self._diagnose(trainer, module)
            early = [not final and one.name in FINISHED and one.level == "alarm" for one in self.last]
            self.last = [replace(d, level="caution") if soft else d for d, soft in zip(self.last, early, strict=True)]
            metrics = {key: value for one in self.last for key, value in one.metrics().items()}
            alarms = [one.name for one in self.last if one.level == "alarm"]
            metrics["shift/alarms"], metrics["shift/seconds"] = float(len(alarms)), time.perf_counter() - began
            found = metrics, alarms, DIVERGED in alarms
        metrics, alarms, diverged = cast(
            tuple[dict[str, float], list[str], bool], trainer.strategy.broadcast(found, src=0)
        )
        module.log_now(metrics)
        if trainer.is_global_zero:
            self._report(trainer, module)
        self.alarms = set(alarms)
        if diverged and self.stop_on_divergence:
            trainer.should_stop = True
            rank_zero_warn(
                f"training ends after update {module.updates:,}: its values have diverged (PolicyShiftMonitor)"
            )

    def _report(self, trainer: Trainer, module: OfflineAlgorithm) -> None:
        for one in self.last:
            if one.level != "alarm" or one.name in self.alarms:
                continue
            text = f"update {module.updates:,}: {one.reading}. Try: {one.remedy}"
            rank_zero_warn(f"shift/{one.name}, {text}")
            for logger in trainer.loggers:
                alert = getattr(getattr(logger, "experiment", None), "alert", None)
                if callable(alert):
                    alert(title=f"shift/{one.name}", text=text)

    def _diagnose(self, trainer: Trainer, module: OfflineAlgorithm) -> list[Diagnosis]:
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "train"):
            raise InputError("PolicyShiftMonitor compares with the data: fit with an OfflineDataModule")
        modes = [(part, part.training) for part in module.modules()]
        module.eval()
        try:
            with random_state_kept(module.device), torch.no_grad():
                panel = self._prepare(data.train)
                one = _FirstSeed(module)
                policy = from_algorithm(one)
                found = panel.diagnose(policy, self._density(one))
                found += self._values(data, one, policy, panel)
        finally:
            for part, training in modes:
                part.training = training
        closer = module.remedy or CLOSER
        return [replace(d, remedy=d.remedy.replace(CLOSER, closer)) for d in found]

    def _prepare(self, episodes: Episodes) -> ShiftPanel:
        if self._panel is None:
            behavior: TargetPolicy | None = None if isinstance(self.behavior, str) else self.behavior
            if self.behavior == "fit":
                behavior = fit_behavior(
                    episodes, updates=BEHAVIOR_UPDATES, hidden=(64, 64), components=2, seed=self.seed
                )
            self._panel = ShiftPanel(episodes, behavior, states=self.states, vae=self.vae, seed=self.seed)
        return self._panel

    @staticmethod
    def _density(one: _FirstSeed) -> TargetPolicy | None:
        """The density that a continuous policy was trained with; discrete policies are diagnosed as they act."""
        if one.spec["action_kind"] == "discrete":
            return None
        try:
            return from_algorithm(one, stochastic=True)
        except InputError:
            return None

    def _values(self, data: Any, one: _FirstSeed, policy: TargetPolicy, panel: ShiftPanel) -> list[Diagnosis]:
        if getattr(one.module, "q", None) is None:
            return []
        episodes, steps = panel.episodes, panel.steps
        discount = float(data.discount)
        scale, shift = data.reward_transform
        reward = episodes.data["next", "reward"].double() * scale + shift
        terminated = episodes.data["next", "terminated"]
        at_data = one.q(steps.observation, steps.action)
        at_policy = one.q(steps.observation, steps.with_actions(policy, self.seed).chosen)
        endless = None if discount < 1.0 else int(episodes.length.max())
        low, high = value_range(reward, discount, ends=bool(terminated.any()), longest=endless)
        bounds = q_bounds(torch.cat([at_data, at_policy]), min(low, 0.0), max(high, 0.0))
        self._mean_q.append((one.module.updates, float(at_data.mean())))

        togo = monte_carlo_return(reward, episodes.start, episodes.length, discount)
        end = episodes.end_index()
        left = discount ** (end[steps.rows] - steps.rows + 1).double()
        whole = terminated[end[steps.rows]] | (left < _SEEN)
        returns = togo[episodes.start]
        first = episodes.start[:_FIRST_STATES]
        v0 = self._v(one, policy, episodes.data["observation"][first], legal.legal_actions(episodes, first))
        found = [
            disagreement(at_policy, at_data),
            bounds,
            q_calibration(at_data.mean(0)[whole], togo[steps.rows[whole]]),
            q_gap(at_policy.mean(0), at_data.mean(0), float(returns.std()) if len(returns) > 1 else 0.0),
            q_drift(*zip(*self._mean_q, strict=True)),
            initial_value(v0, returns),
        ]
        if self._evaluator is not None:
            found.append(self._gap(one, policy, discount, scale, shift))
        return found

    def _gap(self, one: _FirstSeed, policy: TargetPolicy, discount: float, scale: float, shift: float) -> Diagnosis:
        """V(s0) less what lies behind the time limit, against the discounted return of the same episodes."""
        assert self._evaluator is not None

        def act(observation: Any, action_mask: Tensor | None = None) -> Tensor:
            return legal.sample(policy, observation, 1, torch.Generator(), action_mask)[0]

        seen = self._evaluator.run(act, seed=1000 + self.seed, discount=discount)
        length = torch.as_tensor(seen.lengths).double()
        steps = length if discount == 1.0 else (1.0 - discount**length) / (1.0 - discount)
        online = scale * torch.as_tensor(seen.returns) + shift * steps
        behind = torch.where(torch.as_tensor(seen.terminated), 0.0, discount**length)
        first, last = (self._v(one, policy, *at) for at in ((seen.first, seen.first_mask), (seen.last, seen.last_mask)))
        offline = first - behind * last
        return offline_online_gap(offline, online, tail=float(behind.mean()))

    @staticmethod
    def _v(one: _FirstSeed, policy: TargetPolicy, observation: Any, mask: Tensor | None) -> Tensor:
        """Mean of the critics at the policy's actions, ``[B]``."""
        return one.q(observation, legal.sample(policy, observation, 1, torch.Generator(), mask)[0]).mean(0)

    def summary(self) -> str:
        """The latest diagnoses as text."""
        return as_text(self.last)


class _FirstSeed:
    """An algorithm as `from_algorithm` takes it; of stacked seeds, the first."""

    def __init__(self, module: OfflineAlgorithm) -> None:
        self.module, self.spec, self.parameters = module, module.spec, module.parameters
        self.stacked = bool(module.lead)
        self.normalizer = self._lifted
        self.policy = self._policy if getattr(module, "policy", None) is not None else None
        tensors = [p for p in module.parameters() if p.is_floating_point()]
        self._device: torch.device = tensors[0].device
        self._dtype: torch.dtype = tensors[0].dtype

    def act(self, observation: Any, action_mask: Tensor | None = None) -> Tensor:
        """Greedy actions ``[B, ...]``."""
        told = action_mask is not None and takes_mask(self.module.act)
        mask = {"action_mask": self._lift(action_mask)} if told else {}
        return self._first(self.module.act(self._lift(observation), **mask))

    def _policy(self, observation: Any) -> Any:
        """The density of continuous actions, with the dimension of seeds taken away."""
        found = cast(Any, self.module).policy(observation)
        if not self.stacked or isinstance(found, Tensor):
            return found
        return type(found)(*(getattr(found, field.name)[0] for field in fields(found)))

    def q(self, observation: Any, action: Tensor) -> Tensor:
        """Every critic at raw observations, ``[N, B]`` float64 on the CPU."""
        critics = cast(Any, self.module).q
        features = self._lifted(self._moved(observation))
        if self.spec["action_kind"] == "discrete":
            values = self._first(critics(features))
            index = action.to(values.device).expand(values.shape[:-1]).unsqueeze(-1)
            return values.gather(-1, index).squeeze(-1).double().cpu()
        return self._first(critics(features, self._lift(action.to(self._device, self._dtype)))).double().cpu()

    def _lifted(self, observation: Any) -> Any:
        return self.module.normalizer(self._lift(observation))

    def _lift(self, observation: Any) -> Any:
        if not self.stacked:
            return observation
        size = (self.module.lead[0], *observation.shape)
        return observation.expand(*size) if isinstance(observation, Tensor | TensorDictBase) else observation

    def _first(self, value: Tensor) -> Tensor:
        return value[0] if self.stacked else value

    def _moved(self, observation: Any) -> Any:
        def move(leaf: Tensor) -> Tensor:
            return leaf.to(self._device, self._dtype if leaf.is_floating_point() else leaf.dtype)

        return observation.apply(move) if isinstance(observation, TensorDictBase) else move(observation)
