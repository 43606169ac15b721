"""`OfflineAlgorithm`: the update loop that every page shares.

It does five things: run K updates per Lightning step, count ``updates``, `minimize`, keep target networks, and log.
Everything else of an algorithm is on its page.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import torch
import torch.distributed
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_offrl.batch import TRANSITION, Key, Spec, check
from lightning_offrl.errors import InputError
from lightning_offrl.networks.encoders import Encoder
from lightning_offrl.networks.mlp import stack_parameters
from lightning_offrl.networks.normalizer import Normalizer
from lightning_offrl.rng import RandomStreams, mix
from lightning_offrl.training import checkpoint as checkpoints
from lightning_offrl.training.algorithm_names import algorithm_name
from lightning_offrl.training.compile.choose import CompileChoice
from lightning_offrl.training.cpu import MatmulPrecision
from lightning_offrl.training.lightning_binding import LightningBinding, count_update, set_log_axis, with_batch_size
from lightning_offrl.training.metrics import RunningMean, plain_numbers, warn_if_diverged
from lightning_offrl.training.old_code import TakesOldNames
from lightning_offrl.training.optimizers import OptimizerSet


class OfflineAlgorithm(TakesOldNames, pl.LightningModule):
    """Base of every algorithm: a page writes ``__init__``, ``update``, ``act``, ``configure_optimizers``.

    A *step* is one gradient update, everywhere: ``max_steps``, ``trainer.global_step``, log axes, checkpoint names,
    periods and schedules. Batches hold raw observations; `normalizer` is applied once per block before ``update`` and
    inside ``act``.

    Args:
        spec: the spaces, ``OfflineDataModule.spec``; on the command line it is linked from the data.
        encoder: maps an observation to ``[B, features]``; each network trains its own copy. None concatenates vectors.
        normalize_observations: standardize observations with statistics of the train split.
        normalizer_epsilon: added to the standard deviation (TD3+BC's code: 1e-3).
        clip_grad_norm: largest gradient norm per optimizer and seed, one number or a dict by optimizer name; None: off.
        seeds: train this many independent runs in one pass; run i is the single run with ``seed + i``.
        seed: initial values, and noise inside updates.
        compile: make the whole update one compiled graph: true, false, or "auto", which does where the run is long
            enough to repay some 15 seconds of compiling. What cannot be compiled trains without, and one line says why.
        matmul_precision: of float32 products while training, as in ``torch.set_float32_matmul_precision``: "highest";
            "medium" multiplies in bfloat16 where a CPU has matrix units for it; "auto" is "highest", but by the faster
            library on CPUs where "medium" is no less exact.

    Raises:
        InputError: if the actions are of a kind that the algorithm cannot learn from, or ``seeds`` > 1 with an encoder.
    """

    needs: ClassVar[tuple[Key, ...]] = TRANSITION
    """Batch keys that ``update`` reads; the data module prepares no others."""
    action_kind: ClassVar[str] = "box"
    counterpart: ClassVar[str | None] = None
    """Name of the algorithm for the other kind of actions, where there is one."""
    acting: ClassVar[tuple[str, ...]] = ("normalizer", "policy")
    """Submodules that ``act`` uses: what an exported policy holds."""
    remedy: ClassVar[str | None] = None
    """What to turn when the policy leaves the data, as advice names it: "raise model.weight"."""

    def __init__(
        self,
        spec: Spec,
        *,
        encoder: nn.Module | None = None,
        normalize_observations: bool = False,
        normalizer_epsilon: float = 1e-3,
        clip_grad_norm: float | dict[str, float] | None = None,
        seeds: int = 1,
        seed: int = 0,
        compile: bool | Literal["auto"] = "auto",
        matmul_precision: MatmulPrecision = "auto",
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.save_hyperparameters(ignore=["encoder", "compile", "matmul_precision"])
        if spec["action_kind"] != self.action_kind:
            kinds = {"box": "continuous (Box)", "discrete": "discrete"}
            mine, given = kinds[self.action_kind], kinds[spec["action_kind"]]
            raise InputError(
                f"{type(self).__name__} learns from {mine} actions, but this data has {given} ones; choose "
                f"{self.counterpart or 'an algorithm'} for {given} actions"
            )
        if seeds < 1:
            raise InputError(f"model.seeds must be at least 1, got {seeds}")
        if seeds > 1 and encoder is not None:
            raise InputError(f"model.seeds={seeds} cannot stack a custom encoder: train one process per seed")
        self.spec: Spec = spec
        self.lead: tuple[int, ...] = (seeds,) if seeds > 1 else ()
        self.draws = RandomStreams(seed, seeds)
        self.targets: dict[str, str] = {}
        """Target networks: attribute name of the target to that of its source."""
        self.updates = 0
        """Gradient updates made so far."""
        self.normalizer = Normalizer(spec, normalizer_epsilon)
        self._encoder = (encoder,)  # in a tuple: each network registers a copy, this one is not trained
        self._built = 0
        self.optimizer_set = OptimizerSet(clip_grad_norm, bool(self.lead))
        """The optimizers, their schedules, and how they step."""
        self.compile_choice = CompileChoice(compile, matmul_precision)
        """Plain or compiled, chosen when training starts."""
        self.evaluating = False
        """True while losses are only evaluated: `minimize` then does nothing."""
        self._checked = False
        self.after_update: list[Callable[[OfflineAlgorithm], None]] = []
        """Called in order after every gradient update: the ``on_update_end`` of the trainer's callbacks."""
        self._train_means, self._val_means = RunningMean(), RunningMean()
        self._saved_optimizers: list[str] | None = None
        self.binding_attributes = frozenset(vars(self))
        """Names of what this class keeps, as opposed to what a page adds."""

    # -- what a page writes ------------------------------------------------------------------------------------------

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """One gradient update in the paper's order.

        Args:
            batch: size ``[*lead, B]``, observations normalized.

        Returns:
            Metrics as tensors of shape ``[*lead]``, without ``.item()``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define update(batch)")

    def act(self, observation: Any) -> Tensor:
        """Greedy actions for raw observations ``[*lead, B, ...]``.

        A page of discrete actions may take ``action_mask``, bool ``[*lead, B, n]``, as a second argument; evaluation
        and exported policies pass it where the environment says what is legal.

        Returns:
            ``[*lead, B, A]`` in [-1, 1], or ``[*lead, B]`` int64 where actions are discrete.
        """
        raise NotImplementedError(f"{type(self).__name__} must define act(observation)")

    # -- building blocks for pages -----------------------------------------------------------------------------------

    def encoder(self) -> Encoder:
        """A fresh encoder for one network."""
        return Encoder(self.spec, self._encoder[0])

    def network(self, build: Callable[[], nn.Module]) -> Any:
        """Build a network once per stacked seed, each from its own seed's stream, with parameters stacked in front.

        Args:
            build: makes the network for one seed; every parameter gets a leading S when seeds are stacked.
        """
        seeds, modules = self.draws.seeds, []
        for i in range(seeds):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(mix(self.draws.seed + i, self._built, 0x1417))
                modules.append(build())
        self._built += 1
        return stack_parameters(modules) if seeds > 1 else modules[0]

    def target_of(self, name: str) -> Any:
        """A frozen copy of the network ``self.<name>``, to be assigned to ``self.<name>_target``; callbacks move it."""
        target = copy.deepcopy(getattr(self, name)).requires_grad_(False)
        self.targets[f"{name}_target"] = name
        return target

    def adam(self, module: nn.Module | Iterable[nn.Parameter], learning_rate: float, **options: Any) -> Optimizer:
        """Fused Adam over a network's parameters, or over the given ones."""
        parameters = list(module.parameters() if isinstance(module, nn.Module) else module)
        return torch.optim.Adam(parameters, lr=learning_rate, fused=True, **options)

    def named_optimizers(
        self, schedules: Mapping[str, Callable[[Optimizer], LRScheduler]] | None = None, **optimizers: Optimizer
    ) -> Any:
        """What ``configure_optimizers`` returns: optimizers by the names that `minimize` uses.

        Args:
            schedules: by optimizer name, makes its learning-rate schedule; stepped once per gradient update.
            **optimizers: one per loss.
        """
        self.optimizer_set.optimizers = dict(optimizers)
        self.optimizer_set.schedulers = [make(optimizers[name]) for name, make in (schedules or {}).items()]
        return list(optimizers.values()), [{"scheduler": s, "interval": "step"} for s in self.optimizer_set.schedulers]

    def default_callbacks(self, *callbacks: pl.Callback) -> list[pl.Callback]:
        """What ``configure_callbacks`` returns: the page's callbacks, but for those whose kind the user gave."""
        given = self.trainer.callbacks if self._trainer is not None else []  # type: ignore[attr-defined]
        return [mine for mine in callbacks if not any(isinstance(theirs, type(mine)) for theirs in given)]

    @property
    def total_updates(self) -> int:
        """Planned length of the run in gradient updates (``trainer.max_steps``), the horizon of schedules.

        Raises:
            InputError: if the run has no length.
        """
        steps = self.trainer.max_steps if self._trainer is not None else -1
        if steps < 1:
            raise InputError("a learning-rate schedule over the run needs its length: set trainer.max_steps")
        return steps

    def cosine(self, optimizer: Optimizer) -> LRScheduler:
        """Cosine decay to zero over the run's ``max_steps`` gradient updates."""
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.total_updates)

    def due(self, period: int) -> bool:
        """Whether this update, counted from 1, is a multiple of ``period``; true when losses are only evaluated."""
        return self.evaluating or (self.updates + 1) % period == 0

    def global_mean(self, x: Tensor) -> Tensor:
        """Mean over the batch ``[*lead, B]`` to ``[*lead]``, over all ranks and without gradient."""
        mean = x.detach().mean(-1)
        if self.optimizer_set.world > 1:
            torch.distributed.all_reduce(mean)
            mean = mean / self.optimizer_set.world
        return mean

    def minimize(self, **losses: Tensor) -> None:
        """Step the named optimizers on their losses; the only door to gradients.

        Gradients reach the parameters of the loss's own optimizer and nobody else's, are averaged over ranks, unscaled,
        and clipped per seed. Several losses in one call are differentiated first and stepped after. When losses are
        only evaluated (validation), nothing happens.

        Args:
            **losses: scalars, by optimizer name. With stacked seeds, the sum over seeds.

        Raises:
            InputError: if there is no optimizer of that name.
        """
        if self.evaluating:
            return
        if not self.optimizers_by_name:
            self.configure_optimizers()
        self.optimizer_set.minimize(losses)

    @property
    def optimizers_by_name(self) -> dict[str, Optimizer]:
        """The optimizers that `minimize` steps; empty before ``configure_optimizers``."""
        return self.optimizer_set.optimizers

    # -- the loop ----------------------------------------------------------------------------------------------------

    def losses_of(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """``update`` with its metrics cut from the graph; the function that can be traced as a whole."""
        return {name: value.detach() for name, value in self.update(batch).items()}

    def gradient_update(self, batch: TensorDictBase) -> Mapping[str, Tensor]:
        """One whole gradient update: losses, optimizers, schedules, counters, targets.

        Args:
            batch: size ``[*lead, B]``, observations already normalized (see `prepare`).
        """
        self.draws.begin(self.updates, device=self.device)
        metrics = self.compile_choice.losses_and_steps(self, batch)
        if self.optimizer_set.scaler is not None:
            self.optimizer_set.scaler.update()
        for scheduler in self.optimizer_set.schedulers:
            scheduler.step()
        self.updates += 1
        if self._trainer is not None:
            count_update(self.trainer)
        for hook in self.after_update[self.compile_choice.traced_hooks :]:
            hook(self)
        return metrics

    def prepare(self, block: TensorDictBase) -> TensorDictBase:
        """Normalize the observations of a block ``[K, *lead, B]``; cast it where parameters are float64."""
        if not block.batch_size:
            block = with_batch_size(block, self.action_kind)
        dtype = next(self.parameters()).dtype
        if dtype == torch.float64:
            block = block.apply(lambda x: x.to(dtype) if x.dtype == torch.float32 else x)
        block = block.clone(recurse=False)
        for key in ("observation", ("next", "observation")):
            value = block.get(key, None)
            if value is not None:
                block.set(key, self.normalizer(value))
        return block

    def training_step(self, block: TensorDictBase, batch_idx: int) -> None:
        """K gradient updates on a block ``[K, *lead, B]``."""
        block = self.prepare(block)
        if not self._checked:
            check(block, self.spec, self.needs)
            self._checked = True
        self.compile_choice.begin_block()
        trainer, every = self.trainer, self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        for batch in block.unbind(0):
            self._train_means.add(self.gradient_update(batch))
            if (every > 0 and self.updates % every == 0) or self.updates == trainer.max_steps:
                self._log_train_means()
        set_log_axis(trainer, self.updates)

    def validation_step(self, block: TensorDictBase, batch_idx: int) -> None:
        """The losses of a held-out block ``[K, *lead, B]`` at the current parameters, without a step."""
        self.evaluating = True
        try:
            for i, batch in enumerate(self.prepare(block).unbind(0)):
                self.draws.begin(self.updates, stream=1 + batch_idx + i, device=self.device)
                self._val_means.add(self.losses_of(batch))
        finally:
            self.evaluating = False

    def on_validation_epoch_end(self) -> None:
        """Log the mean losses of the held-out episodes as ``val/...``."""
        means = self._val_means.means()
        if means and not self.trainer.sanity_checking:
            self.log_now(plain_numbers("val", means, self.lead, self.optimizer_set.world))

    def _log_train_means(self) -> None:
        means = self._train_means.means()
        if means:
            values = plain_numbers("train", means, self.lead, self.optimizer_set.world)
            warn_if_diverged(values, self.updates)
            self.log_now(values)

    def log_now(self, metrics: Mapping[str, float]) -> None:
        """Write metrics to all loggers with step = gradient updates, and make them available to ``monitor=``."""
        for logger in self.loggers:
            logger.log_metrics(dict(metrics), step=self.updates)
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})

    # -- binding to Lightning ----------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Compare with the data, fit the normalizer, and see that what the trainer was told can be done."""
        data: Any = getattr(self.trainer, "datamodule", None)
        checkpoints.same_spaces(getattr(data, "spec", self.spec), self.spec)
        if stage == "fit" and self.hparams["normalize_observations"] and not self.normalizer.fitted:
            if not hasattr(data, "observation_statistics"):
                raise InputError(
                    "normalize_observations needs the statistics of the data: fit with an OfflineDataModule, or call "
                    "algorithm.normalizer.fit(...) first"
                )
            self.normalizer.fit(data.observation_statistics())
        LightningBinding.attach(self.trainer)

    def on_fit_start(self) -> None:
        """Note the place of this process, the gradient scaler, and what follows every update."""
        trainer: Any = self.trainer
        self.optimizer_set.world = self.draws.world = trainer.world_size
        self.draws.rank = trainer.global_rank
        self.optimizer_set.scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.after_update = [c.on_update_end for c in trainer.callbacks if hasattr(c, "on_update_end")]
        self._checked = False
        batch_size = getattr(getattr(trainer, "datamodule", None), "batch_size", 256)
        self.compile_choice.begin(self, trainer.max_steps, self.after_update, batch_size)

    def on_fit_end(self) -> None:
        """Leave a module that can be used without a trainer."""
        self.end_training()

    def end_training(self) -> None:
        """Undo `on_fit_start`; `LightningBinding` calls it where training ends by an exception."""
        self.compile_choice.end()
        self.optimizer_set.world = self.draws.world = 1
        self.draws.rank, self.optimizer_set.scaler, self.after_update = 0, None, []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not save: the count of updates, the data, and the versions of libraries."""
        checkpoint["offrl"] = {
            **checkpoints.describe(algorithm_name(self), self.spec, self.data_facts()),
            "updates": self.updates,
            "optimizers": list(self.optimizers_by_name),
            "compiled": self.compile_choice.compiled is not None,
            "pending": self._train_means.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that cannot be continued, warn of differences, and set the count of updates."""
        saved = checkpoints.verify(checkpoint, algorithm_name(self), self.spec, self.draws.seeds)
        if self._trainer is None:  # weights alone, for fine-tuning or export: the clock starts at zero
            return
        for difference in checkpoints.differences(saved, self.data_facts()):
            rank_zero_warn(difference)
        if self.trainer.precision == "64-true":
            self.double()  # Lightning does so after it has copied the weights, which would round them to float32
        self.updates = saved["updates"]
        self.compile_choice.was_compiled = saved.get("compiled")
        self._train_means.load_state_dict(saved["pending"], self.device)
        self._saved_optimizers = saved["optimizers"]

    def data_facts(self) -> dict[str, Any] | None:
        """Name, fingerprint and settings of the data that it is trained on; None without a data module."""
        data: Any = getattr(self._trainer, "datamodule", None)
        return data.describe() if hasattr(data, "describe") else None

    def on_train_start(self) -> None:
        """Optimizer states are restored in order: refuse a checkpoint whose optimizers were others."""
        saved, mine = self._saved_optimizers, list(self.optimizers_by_name)
        if saved is not None and saved != mine:
            raise InputError(f"the checkpoint has the optimizers {saved}, this algorithm {mine}")
