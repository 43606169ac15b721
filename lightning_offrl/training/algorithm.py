"""`OfflineAlgorithm`: the update loop that every page shares.

It does five things: run K updates per Lightning step, count ``updates``, `minimize`, keep target networks, and log.
Everything else of an algorithm is on its page.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import torch
import torch.distributed
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_offrl.batch import TRANSITION, Key, Spec, check, check_observation
from lightning_offrl.errors import InputError
from lightning_offrl.networks.encoders import Encoder
from lightning_offrl.networks.normalizer import Normalizer
from lightning_offrl.rng import RandomStreams, mix
from lightning_offrl.training import checkpoint as checkpoints
from lightning_offrl.training.algorithm_names import algorithm_name
from lightning_offrl.training.compile.choose import CompileChoice
from lightning_offrl.training.matmul_precision import MatmulPrecision
from lightning_offrl.training.metrics import RunningMean, plain_numbers
from lightning_offrl.training.old_names import TakesOldNames
from lightning_offrl.training.optimizers import OptimizerSet

_NOT_SO_HERE = (
    "The number of training batches",  # counts blocks of K updates as batches
    "Total length of `list` across ranks is zero",  # nothing held out
    "Using ModelCheckpoint with manual optimization",  # asks for the state before a step; ours are after whole updates
)


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
        name = type(self).__name__
        if spec["action_kind"] != self.action_kind:
            kinds = {"box": "continuous (Box)", "discrete": "discrete"}
            raise InputError(
                f"{name} learns from {kinds[self.action_kind]} actions, but this data has {kinds[spec['action_kind']]} "
                f"ones; choose {self.counterpart or 'an algorithm'} for {kinds[spec['action_kind']]} actions"
            )
        if seeds < 1:
            raise InputError(f"model.seeds must be at least 1, got {seeds}")
        if seeds > 1 and encoder is not None:
            raise InputError(
                f"model.seeds={seeds} cannot stack a custom encoder: train one process per seed, or leave it out"
            )
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
        self._optimizer_set = OptimizerSet(clip_grad_norm, bool(self.lead))
        self.compile_choice = CompileChoice(compile, matmul_precision)
        """Plain or compiled, chosen when training starts."""
        self._evaluating = False
        self._checked = False
        self._hooks: list[Callable[[OfflineAlgorithm], None]] = []
        self._window, self._held_out = RunningMean(), RunningMean()
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
        module = modules[0]
        if seeds > 1:
            singles = [dict(m.named_parameters()) for m in modules]
            for key in singles[0]:
                owner, _, leaf = key.rpartition(".")
                stacked = torch.stack([single[key].detach() for single in singles])
                setattr(module.get_submodule(owner), leaf, nn.Parameter(stacked))
        return module

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
        self._optimizer_set.optimizers = dict(optimizers)
        self._optimizer_set.schedulers = [make(optimizers[name]) for name, make in (schedules or {}).items()]
        return list(optimizers.values()), [{"scheduler": s, "interval": "step"} for s in self._schedulers]

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
        return self._evaluating or (self.updates + 1) % period == 0

    def global_mean(self, x: Tensor) -> Tensor:
        """Mean over the batch ``[*lead, B]`` to ``[*lead]``, over all ranks and without gradient."""
        mean = x.detach().mean(-1)
        if self._optimizer_set.world > 1:
            torch.distributed.all_reduce(mean)
            mean = mean / self._optimizer_set.world
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
        if self._evaluating:
            return
        if not self._optimizers:
            self.configure_optimizers()
        self._optimizer_set.minimize(losses)

    @property
    def _optimizers(self) -> dict[str, Optimizer]:
        return self._optimizer_set.optimizers

    @property
    def _schedulers(self) -> list[LRScheduler]:
        return self._optimizer_set.schedulers

    def _parameters_of(self, name: str) -> list[Tensor]:
        return self._optimizer_set.parameters(name)

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
        if self._optimizer_set.scaler is not None:
            self._optimizer_set.scaler.update()
        for scheduler in self._schedulers:
            scheduler.step()
        self.updates += 1
        if self._trainer is not None:
            progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
            progress.increment_ready()
            progress.increment_completed()
        for hook in self._hooks[self.compile_choice.traced_hooks :]:
            hook(self)
        return metrics

    def prepare(self, block: TensorDictBase) -> TensorDictBase:
        """Normalize the observations of a block ``[K, *lead, B]``; cast it where parameters are float64."""
        if not block.batch_size:  # Lightning's double precision rebuilds the block without its batch size
            action = block["action"]
            size = action.shape[:-1] if self.action_kind == "box" else action.shape
            block = TensorDict(block.to_dict(), batch_size=size)
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
        trainer: Any = self.trainer
        every = trainer.log_every_n_steps
        for batch in block.unbind(0):
            self._window.add(self.gradient_update(batch))
            if (every > 0 and self.updates % every == 0) or self.updates == trainer.max_steps:
                self._log_window()
        # Lightning's own log axis counts batches; this makes it count updates (it adds one after the step)
        trainer.fit_loop.epoch_loop._batches_that_stepped = self.updates - 1

    def validation_step(self, block: TensorDictBase, batch_idx: int) -> None:
        """The losses of a held-out block ``[K, *lead, B]`` at the current parameters, without a step."""
        self._evaluating = True
        try:
            for i, batch in enumerate(self.prepare(block).unbind(0)):
                self.draws.begin(self.updates, stream=1 + batch_idx + i, device=self.device)
                self._held_out.add(self.losses_of(batch))
        finally:
            self._evaluating = False

    def on_validation_epoch_end(self) -> None:
        """Log the mean losses of the held-out episodes as ``val/...``."""
        means = self._held_out.means()
        if means and not self.trainer.sanity_checking:
            self.log_now(plain_numbers("val", means, self.lead, self._optimizer_set.world))

    def _log_window(self) -> None:
        means = self._window.means()
        if means:
            values = plain_numbers("train", means, self.lead, self._optimizer_set.world)
            broken = [name for name, value in values.items() if value != value or abs(value) == float("inf")]
            if broken:
                rank_zero_warn(
                    f"{', '.join(broken)} is not finite at update {self.updates}: the run has diverged; lower the "
                    "learning rates, clip gradients (model.clip_grad_norm) or look at the rewards' scale"
                )
            self.log_now(values)

    def log_now(self, metrics: Mapping[str, float]) -> None:
        """Write metrics to all loggers with step = gradient updates, and make them available to ``monitor=``."""
        for logger in self.loggers:
            logger.log_metrics(dict(metrics), step=self.updates)
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})

    # -- binding to Lightning ----------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Compare with the data, fit the normalizer, and see that what the trainer was told can be done."""
        for said in _NOT_SO_HERE:
            warnings.filterwarnings("ignore", message=said)
        trainer: Any = self.trainer
        data: Any = getattr(trainer, "datamodule", None)
        if data is not None and getattr(data, "spec", self.spec) != self.spec:
            raise InputError(
                "the data has other spaces than the algorithm was built for: "
                f"{checkpoints.spec_difference(data.spec, self.spec)}; "
                "build the algorithm with this data's spec, or pass the data it was trained with"
            )
        wanted = bool(self.hparams["normalize_observations"])
        if stage == "fit" and wanted and not self.normalizer.fitted:
            if not hasattr(data, "observation_statistics"):
                raise InputError(
                    "normalize_observations needs the statistics of the data: fit with an OfflineDataModule, or call "
                    "algorithm.normalizer.fit(...) first"
                )
            self.normalizer.fit(data.observation_statistics())
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            from lightning_offrl.training.files import AtomicCheckpointIO

            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_fit_start(self) -> None:
        """Learn this process's place, the gradient scaler, and who wants to hear of every update."""
        trainer: Any = self.trainer
        self._optimizer_set.world = self.draws.world = trainer.world_size
        self.draws.rank = trainer.global_rank
        self._optimizer_set.scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._hooks = [c.on_update_end for c in trainer.callbacks if hasattr(c, "on_update_end")]
        self._checked = False
        batch_size = getattr(getattr(trainer, "datamodule", None), "batch_size", 256)
        self.compile_choice.begin(self, trainer.max_steps, self._hooks, batch_size)

    def on_fit_end(self) -> None:
        """Leave a module that can be used without a trainer."""
        self.compile_choice.end()
        self._optimizer_set.world = self.draws.world = 1
        self.draws.rank, self._optimizer_set.scaler, self._hooks = 0, None, []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not save: the clock, what was learnt from, and with which versions."""
        checkpoint["offrl"] = {
            **checkpoints.describe(algorithm_name(self), self.spec, self._data_facts()),
            "updates": self.updates,
            "optimizers": list(self._optimizers),
            "compiled": self.compile_choice.compiled is not None,
            "pending": self._window.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse what cannot be continued, say what differs, and set the clock when a run is resumed."""
        saved = checkpoints.verify(checkpoint, algorithm_name(self), self.spec, self.draws.seeds)
        if self._trainer is None:  # weights alone, for fine-tuning or export: the clock starts at zero
            return
        for difference in checkpoints.differences(saved, self._data_facts()):
            rank_zero_warn(difference)
        if self.trainer.precision == "64-true":
            self.double()  # Lightning does so after it has copied the weights, which would round them to float32
        self.updates = saved["updates"]
        self.compile_choice.was_compiled = saved.get("compiled")
        self._window.load_state_dict(saved["pending"], self.device)
        self._saved_optimizers = saved["optimizers"]

    def _data_facts(self) -> dict[str, Any] | None:
        data: Any = getattr(self._trainer, "datamodule", None)
        return data.describe() if hasattr(data, "describe") else None

    def on_train_start(self) -> None:
        """Optimizer states are restored in order: refuse a checkpoint whose optimizers were others."""
        saved = getattr(self, "_saved_optimizers", None)
        if saved is not None and saved != list(self._optimizers):
            raise InputError(f"the checkpoint has the optimizers {saved}, this algorithm {list(self._optimizers)}")

    def check_observation(self, observation: Any, size: tuple[int, ...]) -> None:
        """Raise `InputError` if raw observations have not the shape ``[*size, *spec]``."""
        check_observation(observation, self.spec, size)
