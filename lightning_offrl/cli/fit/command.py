"""``offrl fit``: Lightning's command line with sizes taken from the data, one directory per run, and short errors."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks import ProgressBar as AnyProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_offrl.algorithms import all_algorithms
from lightning_offrl.callbacks.checkpoint import Checkpoint
from lightning_offrl.callbacks.evaluate_env import EvaluateEnv  # noqa: F401 (likewise)
from lightning_offrl.callbacks.evaluate_ope import EvaluateOPE  # noqa: F401 (likewise)
from lightning_offrl.callbacks.export import ExportPolicy
from lightning_offrl.callbacks.graceful_stop import GracefulStop
from lightning_offrl.callbacks.policy_shift import PolicyShiftMonitor  # noqa: F401 (imported so that its short name resolves)
from lightning_offrl.callbacks.progress import ProgressBar
from lightning_offrl.callbacks.summary import RunSummary
from lightning_offrl.callbacks.throughput import ThroughputMonitor
from lightning_offrl.cli.fit import processes, run_directory
from lightning_offrl.cli.fit import words as fit_words
from lightning_offrl.cli.fit.explain import explain, inner_sentence
from lightning_offrl.cli.fit.resume import CommandLineDecides, warn_of_changes
from lightning_offrl.cli.fit.words import say
from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.errors import InputError
from lightning_offrl.loggers import MetricsCSV
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.algorithm_names import algorithm_name, module_to_import
from lightning_offrl.training.files import write_atomically

LITERATURE_UPDATES = 1_000_000
VALIDATE_EVERY = 5_000
_PACKAGE = Path(__file__).resolve().parents[2]
_NOISE = ("does not have many workers", "Total length of .* across ranks", "isinstance\\(treespec", "log_every_n_steps")
_DESCRIPTION = """Train an algorithm on a dataset. The options are those of the classes: --model.help IQL shows those of
an algorithm, --print_config the whole configuration. --import my_module imports a module of yours first. Every period
and length is counted in gradient updates."""


def main(words: list[str]) -> int | None:
    """Run ``offrl fit``.

    Args:
        words: The options as on the command line.

    Raises:
        InputError: There is a mistake in the options, the data or the checkpoint.
    """
    if os.getcwd() not in sys.path:  # a person's own algorithm or encoder beside the data
        sys.path.append(os.getcwd())
    with _our_voice():
        cli = FitCLI(fit_words.prepare(words))
        if cli.config.processes > 1:
            return processes.run(words, cli.config)
        with _threads(cli.config.threads):
            cli.train()
    return None


class _FitParser(LightningArgumentParser):
    """A parser that raises one sentence in place of jsonargparse's report."""

    words: list[str] = []

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise `InputError`; nested parsers, whose reports go into the outer one's, keep their own way."""
        if not self.exit_on_error:
            super().error(message, ex)
        options = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        raise InputError(explain(message, options, fit_words.chosen_algorithm(self.words))) from None


class FitCLI(LightningCLI):
    """Parses, builds model, data and trainer, and knows the run directory.

    Args:
        words: The options, as `fit_words.prepare` returns them.
    """

    def __init__(self, words: list[str]) -> None:
        all_algorithms()  # short names resolve for imported classes only
        _FitParser.words = words
        fit_words.refuse_linked(words)
        super().__init__(
            model_class=OfflineAlgorithm,
            datamodule_class=OfflineDataModule,
            subclass_mode_model=True,
            seed_everything_default=0,
            save_config_callback=SaveRunConfig,
            trainer_defaults={"max_steps": LITERATURE_UPDATES, "enable_model_summary": False, "log_every_n_steps": 500},
            parser_class=_FitParser,
            parser_kwargs={"prog": "offrl fit", "description": _DESCRIPTION},
            run=False,  # one verb: no parsers for validate, test, predict; and no merging of checkpoints' arguments
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=words,
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The seed is always a number, so that every run can be repeated."""
        parser.add_argument(
            "--seed_everything", type=int, default=0, help="The seed of all random numbers; --seed is understood."
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The run's directory and start, and the links from data to model."""
        for option, text in {
            "--name": "The name that stands in the run directory in place of the time.",
            "--run_dir": "The directory of the run; runs/... if not given.",
            "--ckpt_path": "The checkpoint to resume from; 'last' is that of the run directory.",
        }.items():
            parser.add_argument(option, type=str | None, default=None, help=text)
        parser.add_argument(
            "--threads",
            type=int | None,
            default=None,
            help="The number of CPU threads; null takes OMP_NUM_THREADS, or else 1. Two threads make compiled updates "
            "1.3 to 1.7 times as fast on a machine with nothing else to do; where cores are shared they wait for one "
            "another and lose most of it.",
        )
        parser.add_argument(
            "--processes",
            type=int,
            default=1,
            help="The number of runs to train at once, each with a process, a thread and a seed of its own "
            "(seed_everything, seed_everything + 1, ...), in seed0, seed1, ... of the run directory. At the end a "
            "table over the seeds is printed. With fewer free cores than seeds, model.seeds is faster: it stacks them "
            "in one process.",
        )
        parser.link_arguments("data.spec", "model.init_args.spec", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("seed_everything", "model.init_args.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Lightning's own warns when called from Python, as tests and the quickstart do."""
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        """Refuse settings of the trainer that would mean something else here, and choose the directory."""
        trainer = self.config.trainer
        if trainer.gradient_clip_val is not None or trainer.gradient_clip_algorithm is not None:
            raise InputError(
                "trainer.gradient_clip_val cannot know which of several optimizers it is for: use "
                "--model.clip_grad_norm 1.0, which clips per optimizer (and per seed)"
            )
        if trainer.accumulate_grad_batches != 1:
            raise InputError("trainer.accumulate_grad_batches has no meaning here: raise --data.batch_size instead")
        if trainer.max_epochs is not None or trainer.min_epochs is not None:
            raise InputError("there are no epochs here: give the length as --trainer.max_steps, in gradient updates")
        if trainer.default_root_dir is not None:
            raise InputError("trainer.default_root_dir is the run's directory here: give it as --run_dir")
        if self.config.threads is not None and self.config.threads < 1:
            raise InputError(f"--threads must be at least 1, got {self.config.threads}")
        if trainer.max_steps == 0 or trainer.max_steps < -1:
            raise InputError(f"trainer.max_steps counts gradient updates and must be positive, got {trainer.max_steps}")
        if self.config.processes < 1:
            raise InputError(f"--processes must be at least 1, got {self.config.processes}")
        if self.config.data.validation_fraction > 0.0 and trainer.val_check_interval is None:
            trainer.val_check_interval = VALIDATE_EVERY
        elif self.config.data.validation_fraction <= 0.0 and trainer.val_check_interval is not None:
            raise InputError(
                "trainer.val_check_interval has nothing to validate on: hold out episodes with "
                "--data.validation_fraction 0.1"
            )
        if self.config.processes > 1:  # each one looks after its own
            return
        self.run_dir, self.checkpoint = run_directory.choose(
            run_dir=self.config.run_dir,
            name=self.config.name,
            ckpt_path=self.config.ckpt_path,
            algorithm=self.config.model.class_path.rpartition(".")[2],
            source=self.config.data.source,
        )

    def instantiate_classes(self) -> None:
        """Instantiate as Lightning does, and raise the errors of constructors without jsonargparse's wrapping."""
        if self.config.processes > 1:
            return
        try:
            super().instantiate_classes()
        except InputError:
            raise
        except MisconfigurationException as error:
            raise InputError(str(error)) from error
        except ValueError as error:
            if "Does not validate against" not in str(error):
                raise
            raise InputError(inner_sentence(str(error))) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer that lives in the run directory, with the callbacks and loggers that every run has."""
        trainer = super().instantiate_trainer(default_root_dir=str(self.run_dir), **kwargs)
        for logger in trainer.loggers:
            if hasattr(logger, "use_run_dir"):
                logger.use_run_dir(str(self.run_dir))
        return trainer

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        given = config.get("callbacks") or []
        given = given if isinstance(given, list) else [given]
        if not config.get("fast_dev_run"):
            wanted: list[tuple[type, Callback, bool]] = [
                (ModelCheckpoint, Checkpoint(), config.get("enable_checkpointing") is not False),
                (AnyProgressBar, ProgressBar(), config.get("enable_progress_bar") is not False),
                (ExportPolicy, ExportPolicy(), True),
                (
                    ThroughputMonitor,
                    ThroughputMonitor(advise=self.config.threads is None and not os.environ.get("OMP_NUM_THREADS")),
                    True,
                ),
                (GracefulStop, GracefulStop(), True),
                (RunSummary, RunSummary(), True),
                (CommandLineDecides, CommandLineDecides(), True),
            ]
            given += [new for kind, new, use in wanted if use and not any(isinstance(old, kind) for old in given)]
            loggers = config.get("logger")
            if loggers is not False:
                loggers = loggers if isinstance(loggers, list) else [] if loggers in (None, True) else [loggers]
                has_csv = any(isinstance(logger, MetricsCSV) for logger in loggers)
                config["logger"] = loggers if has_csv else [MetricsCSV(), *loggers]
        config["callbacks"] = given
        return super()._instantiate_trainer(config, callbacks)

    def train(self) -> None:
        """Fit, from the checkpoint if one was given.

        Raises:
            InputError: Something cannot be used, also what Lightning calls a misconfiguration.
        """
        trainer: Any = self.trainer
        model, data = self.model, self.datamodule
        if self.checkpoint is not None:
            now = yaml.safe_load(self.parser.dump(self.config, skip_none=False))["data"]
            warn_of_changes(self.checkpoint, dict(model.hparams), now)
        if trainer.is_global_zero:
            start = f" from {self.checkpoint}" if self.checkpoint else ""
            episodes = data.episodes
            say(f"{type(model).__name__} on {episodes.name}, {len(episodes):,} transitions: {self.run_dir}{start}")
        try:
            trainer.fit(model, datamodule=data, ckpt_path=self.checkpoint)
        except MisconfigurationException as error:
            raise InputError(str(error)) from error
        except SystemExit as end:
            if isinstance(end.__context__, KeyboardInterrupt):  # Lightning's way to end on a Ctrl-C before training
                raise KeyboardInterrupt from end
            raise
        if trainer.is_global_zero and not trainer.fast_dev_run:
            policy = f"{self.run_dir}/policy.pt"
            following = f"offrl evaluate {self.run_dir}/checkpoints/last.ckpt"
            if data.environment is None and isinstance(data.source, str):  # a log: there is nothing to play
                following = f"offrl ope --policy {policy} --data {data.source}"
            if (module := module_to_import(algorithm_name(model))) is not None:
                following += f" --import {module}"
            say(f"done: {policy}; next: {following}")


class SaveRunConfig(SaveConfigCallback):
    """Writes the resolved configuration into the run directory, and hands it to loggers that keep one.

    What belongs to this one run (its directory, the checkpoint it started from) is left out, so that
    ``offrl fit --config runs/NAME/config.yaml`` starts a new run. One that a resumed run replaces by another is kept
    under a number.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write nothing yet: a run that cannot start should leave no file."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``config.yaml``."""
        if not trainer.is_global_zero or self.already_saved:
            return
        self.already_saved = True
        config = self.config.clone()
        config.name = config.run_dir = config.ckpt_path = None
        text = self.parser.dump(config, skip_none=False)
        path = Path(trainer.default_root_dir) / self.config_filename
        if path.exists() and path.read_text(encoding="utf-8") != text:
            number = sum(1 for _ in path.parent.glob("config-*.yaml")) + 1
            path.rename(path.with_name(f"config-{number}.yaml"))
        write_atomically(path, text.encode(), what="the configuration")
        for logger in trainer.loggers:
            logger.log_hyperparams({"config": yaml.safe_load(text)})


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    """Run on ``wanted`` CPU threads, and put the process's number back afterwards."""
    before = torch.get_num_threads()
    if wanted is not None or not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(wanted or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _our_voice() -> Iterator[None]:
    """Show messages and warnings as one line each, without Lightning's greetings and general hints."""
    voice = _Voice()
    handlers = [h for name in ("lightning.pytorch", "lightning.fabric") for h in logging.getLogger(name).handlers]
    with warnings.catch_warnings():
        for text in _NOISE:
            warnings.filterwarnings("ignore", message=f".*{text}")
        if not os.environ.get("OFFRL_DEBUG"):
            warnings.showwarning = lambda message, *rest, **more: say(f"warning: {' '.join(str(message).split())}")
        for handler in handlers:
            handler.addFilter(voice)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(voice)


class _Voice(logging.Filter):
    """Prints those messages of Lightning's loggers that come from this package or are warnings."""

    def filter(self, record: logging.LogRecord) -> bool:
        if _PACKAGE in Path(record.pathname).parents or record.levelno >= logging.WARNING:
            say(" ".join(record.getMessage().split()))
        return False
