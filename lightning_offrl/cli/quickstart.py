"""``offrl quickstart``: from nothing to three trained policies and a report on them, in two minutes on two cores.

It goes the way a user goes, through the same public functions: collect a dataset, make a data module, fit algorithms
with a Lightning ``Trainer``, export, load, act. The sizes are small and the settings chosen for Pendulum and few
updates; they are no benchmark.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_offrl.cli.parser import Parser
from lightning_offrl.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from lightning_offrl.callbacks.evaluate_env import EvaluateEnv
    from lightning_offrl.data.datamodule import OfflineDataModule
    from lightning_offrl.data.writers.collect import Collected
    from lightning_offrl.reports.quickstart import QuickstartResult, TrainedPolicy
    from lightning_offrl.training.algorithm import OfflineAlgorithm

ENVIRONMENT = "Pendulum-v1"
DATASET = "quickstart/pendulum-mixed-v0"
EVALUATION_SEED = 5_000
"""The seed of the final evaluation; the evaluations during training use other episodes."""
_MARK = ".offrl-quickstart"
_EVALUATIONS = 12


@dataclass(frozen=True)
class Recipe:
    """The training of one of the three algorithms, where it differs from the defaults (the authors' for MuJoCo)."""

    kind: str
    name: str
    folder: str
    color: str
    settings: dict[str, Any]
    tau: float | None = None
    period: int = 1

    def settings_in_words(self) -> str:
        """The differences from the defaults, as a list of words and numbers."""
        settings = self.settings | ({} if self.tau is None else {"target_rate": self.tau})
        return ", ".join(f"{key.replace('_', ' ')} {_value_in_words(value)}" for key, value in settings.items())


_SMALL = {"hidden": (64, 64), "learning_rate": 1e-3}
RECIPES = (
    Recipe("BC", "BC", "bc", "series-1", _SMALL),
    # Most of this data is bad, so imitation counts for less than in the paper.
    Recipe("TD3BC", "TD3+BC", "td3_bc", "series-2", {**_SMALL, "alpha": 10.0}, tau=0.02, period=2),
    Recipe(
        "IQL",
        "IQL",
        "iql",
        "series-3",
        {**_SMALL, "expectile": 0.9, "policy_schedule": "constant", "normalize_observations": True},
        tau=0.02,
    ),
)


def quickstart(
    run_dir: str | Path = "runs/quickstart",
    *,
    updates: int = 6_000,
    episodes: int = 20,
    dataset_episodes: int = 150,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> QuickstartResult:
    """Collect, train BC, TD3+BC and IQL, evaluate, and write a report.

    Args:
        run_dir: The folder that gets ``report.html``, ``report.png``, ``results.json``, the dataset (``data/``), and a
            folder per algorithm with its metrics and ``policy.pt``. An earlier quickstart there is replaced.
        updates: The number of gradient updates of each algorithm.
        episodes: The number of episodes of each evaluation.
        dataset_episodes: The number of episodes of the dataset, 200 steps each.
        seed: The seed of all random numbers.
        say: A function that is called with each line of progress.

    Returns:
        The content of the report.

    Raises:
        InputError: The folder holds something else, or a number is too small.
    """
    for name, value, least in (
        ("updates", updates, 1),
        ("episodes", episodes, 2),
        ("dataset_episodes", dataset_episodes, 4),
    ):
        if value < least:
            raise InputError(f"the quickstart needs {name} of at least {least}, got {value}")
    began = time.perf_counter()
    folder = _prepare(Path(run_dir))
    with _quiet_surroundings(folder):
        say(f"collecting {dataset_episodes} episodes of {ENVIRONMENT} by behaviors of mixed quality")
        from lightning_offrl.data.datamodule import OfflineDataModule
        from lightning_offrl.data.writers.collect import collect

        collected = collect(ENVIRONMENT, DATASET, episodes=dataset_episodes, seed=seed, overwrite=True)
        say(_indent(collected.table))
        data = OfflineDataModule(DATASET, discount=0.98, reward="iql-locomotion", seed=seed, cache_dir=folder / "cache")
        learned = []
        for recipe in RECIPES:
            say(f"training {recipe.name} for {updates:,} updates")
            one = _train(recipe, data, folder, updates, episodes, seed)
            learned.append(one)
            mean = sum(one.returns) / len(one.returns)
            say(f"  {one.seconds:.0f} s; mean return {mean:.0f} over {episodes} episodes")
        result = _result(data, collected, learned, updates, seed, time.perf_counter() - began, str(run_dir))
    _write(result, folder, say)
    return result


def main(words: Sequence[str]) -> int:
    """The command line of ``offrl quickstart``.

    Args:
        words: The words after the verb.

    Returns:
        The exit status, 0.
    """
    parser = Parser(
        prog="offrl quickstart",
        description="Collect a small mixed-quality Pendulum dataset, train BC, TD3+BC and IQL on it, and write a "
        "report.",
    )
    add = parser.add_argument
    add("--run_dir", default="runs/quickstart", help="The folder of all files; it replaces an earlier quickstart.")
    add("--updates", type=int, default=6_000, help="The number of gradient updates of each algorithm.")
    add("--episodes", type=int, default=20, help="The number of episodes of each evaluation.")
    add("--dataset_episodes", type=int, default=150, help="The number of episodes of the dataset, 200 steps each.")
    add("--seed", type=int, default=0, help="The seed of all random numbers.")
    quickstart(say=lambda line: print(line, flush=True), **vars(parser.parse_args(words)))
    return 0


def _prepare(folder: Path) -> Path:
    """An empty folder that is ours to write, made by removing what an earlier quickstart wrote and nothing else."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / _MARK).exists())):
        raise InputError(f"{folder} holds something that is not a quickstart's; choose another --run_dir")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()
    for name in ("data", "cache", *(recipe.folder for recipe in RECIPES)):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("report.html", "report.png", "results.json"):
        (folder / name).unlink(missing_ok=True)
    return folder.resolve()


@contextlib.contextmanager
def _quiet_surroundings(folder: Path) -> Iterator[None]:
    """Minari's datasets inside ``folder``, one thread, and none of Lightning's remarks; all put back afterwards."""
    import lightning.pytorch  # noqa: F401 (sets its loggers' levels when imported)
    import torch

    before, threads = os.environ.get("MINARI_DATASETS_PATH"), torch.get_num_threads()
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    os.environ["MINARI_DATASETS_PATH"] = str(folder / "data")
    (folder / "data").mkdir(exist_ok=True)
    torch.set_num_threads(1)  # the networks are small: a second thread only waits
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def _train(
    recipe: Recipe, data: OfflineDataModule, folder: Path, updates: int, episodes: int, seed: int
) -> TrainedPolicy:
    import lightning.pytorch as pl

    import lightning_offrl
    from lightning_offrl import EvaluateEnv, SoftTargetUpdate, load_policy
    from lightning_offrl.callbacks.export import ExportPolicy
    from lightning_offrl.callbacks.progress import ProgressBar
    from lightning_offrl.envs.rollout import evaluate
    from lightning_offrl.loggers.metrics_csv import MetricsCSV
    from lightning_offrl.reports.quickstart import TrainedPolicy

    began = time.perf_counter()
    every = _period(updates)
    algorithm: OfflineAlgorithm = getattr(lightning_offrl, recipe.kind)(data.spec, seed=seed, **recipe.settings)
    run = folder / recipe.folder
    evaluations = EvaluateEnv(episodes=episodes, every=every, at_start=True)
    callbacks: list[pl.Callback] = [evaluations, ExportPolicy()]
    if recipe.tau is not None:
        callbacks.append(SoftTargetUpdate(tau=recipe.tau, period=recipe.period))
    if sys.stderr.isatty():
        callbacks.append(ProgressBar())
    trainer = pl.Trainer(
        max_steps=updates,
        accelerator="cpu",
        devices=1,
        default_root_dir=run,
        logger=MetricsCSV(str(run)),
        callbacks=callbacks,
        log_every_n_steps=every,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
    )
    trainer.fit(algorithm, data)
    seconds = time.perf_counter() - began
    algorithm.eval()
    evaluation = evaluate(algorithm.act, ENVIRONMENT, episodes=episodes, seed=EVALUATION_SEED, spec=data.spec)
    policy = load_policy(run / "policy.pt")
    return TrainedPolicy(
        name=recipe.name,
        folder=recipe.folder,
        color=recipe.color,
        settings=recipe.settings_in_words(),
        returns=evaluation.returns.tolist(),
        curve=_curve(recipe, evaluations),
        seconds=seconds,
        angles=_pole_angles(policy.act),
        torques=_torques(policy.act),
    )


def _curve(recipe: Recipe, evaluations: EvaluateEnv) -> Any:
    from lightning_offrl.reports.compare_returns import standard_error
    from lightning_offrl.reports.plots import Curve

    points = [(point.updates, point.mean, standard_error(point.returns[0])) for point in evaluations.curve]
    updates, means, errors = (list(column) for column in zip(*points, strict=True))
    return Curve(recipe.name, updates, means, errors, recipe.color)


def _period(updates: int) -> int:
    """Gradient updates between evaluations: about a dozen in all, and a multiple of 50 so that blocks stay long."""
    period = updates / _EVALUATIONS
    return 50 * math.ceil(period / 50) if period >= 50 else max(1, math.floor(period))


def _pole_angles(act: Callable[[Any], Any]) -> list[float]:
    """Angle of the pole after each step of the first evaluation episode, radians, 0 upright."""
    import gymnasium

    env = gymnasium.make(ENVIRONMENT)
    observation, _ = env.reset(seed=EVALUATION_SEED)
    angles, ended = [math.atan2(observation[1], observation[0])], False
    while not ended:
        observation, _, terminated, truncated, _ = env.step(act(observation))
        angles.append(math.atan2(observation[1], observation[0]))
        ended = terminated or truncated
    env.close()
    return angles


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Edges of the cells of the maps: angle in radians, angular velocity in rad/s."""
    import numpy as np

    from lightning_offrl.reports.quickstart import SPEED_LIMIT

    return np.linspace(-np.pi, np.pi, 73), np.linspace(-SPEED_LIMIT, SPEED_LIMIT, 49)


def _torques(act: Callable[[Any], Any]) -> np.ndarray:
    """The policy's torque in the middle of every cell, N m, ``[H, W]``."""
    import numpy as np

    angle, speed = (0.5 * (edges[1:] + edges[:-1]) for edges in _grid())
    speeds, angles = np.meshgrid(speed, angle, indexing="ij")
    observations = np.stack([np.cos(angles), np.sin(angles), speeds], axis=-1).reshape(-1, 3).astype(np.float32)
    return np.asarray(act(observations)).reshape(angles.shape)


def _logged_torques(data: OfflineDataModule) -> np.ndarray:
    """Mean logged torque of every cell, N m, ``[H, W]``; nan where nothing was logged."""
    import numpy as np

    observation = data.episodes.data["observation"].numpy()
    torque = 2.0 * data.episodes.data["action"].numpy()[:, 0]
    angle, speed, edges = np.arctan2(observation[:, 1], observation[:, 0]), observation[:, 2], _grid()
    total, _, _ = np.histogram2d(speed, angle, bins=(edges[1], edges[0]), weights=torque)
    count, _, _ = np.histogram2d(speed, angle, bins=(edges[1], edges[0]))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _typical(data: OfflineDataModule) -> tuple[list[float], float]:
    """Angles and return of the episode whose return is nearest to the mean."""
    import numpy as np

    episodes = data.episodes
    returns = episodes.returns()
    index = int((returns - returns.mean()).abs().argmin())
    start, length = int(episodes.start[index]), int(episodes.length[index])
    observation = episodes.data["observation"][start : start + length].numpy()
    return np.arctan2(observation[:, 1], observation[:, 0]).tolist(), float(returns[index])


def _result(
    data: OfflineDataModule,
    collected: Collected,
    learned: list[TrainedPolicy],
    updates: int,
    seed: int,
    seconds: float,
    folder: str,
) -> QuickstartResult:
    import importlib.metadata
    import platform

    from lightning_offrl.reports.quickstart import QuickstartResult

    assert collected.references is not None  # Pendulum has a controller
    packages = ("lightning-offrl", "torch", "lightning", "gymnasium")
    return QuickstartResult(
        environment=ENVIRONMENT,
        dataset_id=DATASET,
        transitions=len(data.episodes),
        references=collected.references,
        returns=collected.returns.tolist(),
        behaviors=collected.names,
        typical=_typical(data),
        torques=_logged_torques(data),
        learned=learned,
        updates=updates,
        seed=seed,
        seconds=seconds,
        folder=folder,
        versions={"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}},
    )


def _write(result: QuickstartResult, folder: Path, say: Callable[[str], None]) -> None:
    from lightning_offrl.reports import html, theme
    from lightning_offrl.reports.quickstart import caveat, document, picture, text_table
    from lightning_offrl.training.files import write_atomically

    results = {
        "environment": result.environment,
        "dataset": {"id": result.dataset_id, "transitions": result.transitions, "returns": result.returns},
        "references": result.references,
        "updates": result.updates,
        "seed": result.seed,
        "seconds": result.seconds,
        "versions": result.versions,
        "policies": {
            one.name: {"settings": one.settings, "returns": one.returns, "seconds": one.seconds}
            for one in result.learned
        },
    }
    write_atomically(folder / "results.json", f"{json.dumps(results, indent=1)}\n".encode(), what="the results")
    theme.save(picture(result), folder / "report.png")
    report = html.write(folder / "report.html", document(result))
    say(f"\n{text_table(result)}\n")
    for sentence in [*result.comparison.sentences, caveat(result)]:
        say(sentence)
    say(f"\n{result.seconds:.0f} s; the report: {report}\n          the plot: {folder / 'report.png'}")


def _value_in_words(value: Any) -> str:
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    return "yes" if value is True else f"{value:g}" if isinstance(value, float) else str(value)


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
