"""Shift and sanity of values inside a run: what is logged, alarms, stopping, and that training does not notice."""

from __future__ import annotations

import csv
import inspect
import math
import re
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import Logger

from lightning_offrl.algorithms import all_algorithms
from lightning_offrl.algorithms.bc import BC
from lightning_offrl.algorithms.conservative.cql import CQL
from lightning_offrl.algorithms.discrete.bcq import DiscreteBCQ
from lightning_offrl.algorithms.discrete.cql import DiscreteCQL
from lightning_offrl.algorithms.iql import IQL
from lightning_offrl.algorithms.td3_bc import TD3BC
from lightning_offrl.callbacks.policy_shift import PolicyShiftMonitor
from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.data.rewards import RewardTransform
from lightning_offrl.diagnostics.diagnosis import Diagnosis
from lightning_offrl.envs.gridworld.environment import GridWorld
from lightning_offrl.envs.rollout import Evaluator
from lightning_offrl.errors import InputError
from lightning_offrl.ope.policies.target import Tabular
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.target_update import SoftTargetUpdate
from tests.diagnostics.gaussian import policy

PLAIN: dict[str, Any] = {"behavior": "none", "vae": False, "states": 200}  # nothing is trained but a classifier


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small fits: what they find is tested where they are."""
    import lightning_offrl.callbacks.policy_shift as diagnose
    import lightning_offrl.diagnostics.panel as panel

    monkeypatch.setattr(diagnose, "BEHAVIOR_UPDATES", 40)
    told, vae = panel.distinguish, panel.VAESupport
    monkeypatch.setattr(panel, "distinguish", lambda *a, **k: told(*a, **{**k, "updates": 20}))
    monkeypatch.setattr(panel, "VAESupport", lambda *a, **k: vae(*a, **{**k, "updates": 20}))


class Recorder(Logger):
    """A logger with W&B's ``alert``."""

    name = version = "recorder"

    def __init__(self) -> None:
        super().__init__()
        self.alerts: list[dict[str, str]] = []
        self.rows: list[tuple[int, dict[str, float]]] = []

    @property
    def experiment(self) -> Any:
        return self

    def alert(self, **what: str) -> None:
        self.alerts.append(what)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((int(step or 0), dict(metrics)))


def fit(
    data: Any, *callbacks: Any, kind: Any = TD3BC, steps: int = 6, logger: Any = False, resume=None, **options: Any
):
    module = OfflineDataModule(data, batch_size=8, updates_per_step=1, discount=0.9)
    algorithm = kind(module.spec, **{"hidden": (8,), **options})
    trainer = L.Trainer(
        max_steps=steps, logger=logger, callbacks=list(callbacks), enable_progress_bar=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_model_summary=False, log_every_n_steps=1, accelerator="cpu",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(algorithm, module, ckpt_path=resume)
    return algorithm, trainer


def grid(episodes: int = 30) -> dict[str, Any]:
    world = GridWorld("open")
    return world.dataset(world.mdp.behavior_policy(0.5), episodes, horizon=25)


def shift(trainer: Any) -> dict[str, float]:
    return {k.removeprefix("shift/"): float(v) for k, v in trainer.callback_metrics.items() if k.startswith("shift/")}


ALWAYS = {
    "support_knn",
    "support_knn_own",
    "support_knn_error",
    "tv",
    "auc",
    "kl_bits_classifier",
    "mmd2",
    "mmd_p",
    "alarms",
    "seconds",
}
VALUES = {"q_mean", "q_low", "q_high", "q_outside", "q_slope", "q_offset", "q_correlation", "q_gap", "q_gap_positive"}
VALUES |= {"q_gap_sd", "v0", "v0_over_best", "return_mean", "return_best", "disagreement", "disagreement_beyond"}
SURPRISE = {"surprisal_bits", "surprisal_beyond", "surprisal_log_bits"}
BITS = {"kl_bits_traj", "kl_bits_step", "kl_bits_limit", "kl_bits_step_error"}
WEIGHTS = {"ess_share", "ess", "ess_share_step", "ratio_max", "ratio_q999"}
LEARNT = {"learnt_ess_share_step", "learnt_ratio_q999"}


@pytest.mark.parametrize(
    ("kind", "options", "arguments", "names"),
    [
        (TD3BC, {}, {}, ALWAYS | VALUES | SURPRISE | {"support_vae"}),
        (TD3BC, {}, PLAIN, ALWAYS | VALUES),
        (IQL, {}, {}, ALWAYS | VALUES | SURPRISE | BITS | WEIGHTS | {"support_vae"}),
        (CQL, {}, {"vae": False}, ALWAYS | VALUES | SURPRISE | BITS | WEIGHTS),
        (BC, {}, PLAIN, ALWAYS),
    ],
)
def test_what_is_logged_of_continuous_actions(arrays, kind, options, arguments, names) -> None:
    callback = PolicyShiftMonitor(every=3, **{"states": 200, **arguments})
    _, trainer = fit(arrays, callback, kind=kind, logger=(recorder := Recorder()), **options)
    logged = shift(trainer)
    drift = {"q_drift"} if kind is not BC else set()
    assert set(logged) - LEARNT == names | drift
    assert [step for step, row in recorder.rows if "shift/auc" in row] == [3, 6]
    assert logged["alarms"] == len([d for d in callback.last if d.level == "alarm"])
    assert all(math.isfinite(value) for value in logged.values())
    assert "auc" in callback.summary()


@pytest.mark.parametrize("kind", [DiscreteCQL, DiscreteBCQ])
def test_what_is_logged_of_discrete_actions(kind) -> None:
    world = GridWorld("open")
    behavior = Tabular(world.mdp.behavior_policy(0.5))
    callback = PolicyShiftMonitor(every=0, states=200, behavior=behavior)
    algorithm, trainer = fit(grid(), callback, kind=kind)
    logged = shift(trainer)
    wanted = ALWAYS | VALUES | SURPRISE | BITS | WEIGHTS
    one_critic = {"disagreement", "disagreement_beyond"}
    assert (
        set(logged) - LEARNT - {"q_slope", "q_offset", "q_correlation"} <= wanted and wanted - set(logged) <= one_critic
    )
    # Greedy of n actions against the known behavior: the divergence is a sum of -log2 pi_b(pi(s) | s).
    with torch.no_grad():
        acts = algorithm.eval().act(torch.as_tensor(world.observations))
    bits = -np.log2(world.mdp.behavior_policy(0.5)[np.arange(len(acts)), acts.numpy()])
    seen = grid()["infos/state"]
    assert logged["kl_bits_step"] == pytest.approx(bits[seen].mean(), rel=0.25)
    assert logged["surprisal_bits"] == pytest.approx(logged["kl_bits_step"] - logged["surprisal_log_bits"], abs=1e-5)


def test_values_by_hand() -> None:
    """Q, V and returns as the callback sees them, against the algorithm's own networks and sums of rewards."""
    callback = PolicyShiftMonitor(every=0, **{**PLAIN, "states": 10_000})
    algorithm, trainer = fit(grid(), callback, kind=DiscreteCQL, critics=2)
    logged, data = shift(trainer), trainer.datamodule.train
    with torch.no_grad():
        q = algorithm.eval().q(data.data["observation"])  # [2, T, 4]
    action = data.data["action"]
    taken = q.gather(-1, action.expand(2, -1).unsqueeze(-1)).squeeze(-1)
    best = q.mean(0).argmax(-1)
    greedy = q.gather(-1, best.expand(2, -1).unsqueeze(-1)).squeeze(-1)
    assert logged["q_gap"] == pytest.approx(float((greedy - taken).mean()), abs=1e-5)
    assert logged["q_mean"] == pytest.approx(float(torch.cat([taken, greedy]).mean()), abs=1e-5)
    assert logged["v0"] == pytest.approx(float(greedy.mean(0)[data.start].mean()), abs=1e-5)
    assert logged["disagreement"] == pytest.approx(
        float(greedy.std(0, correction=0).mean() / taken.std(0, correction=0).mean()), rel=1e-4
    )
    reward = data.data["next", "reward"].tolist()
    returns = [
        sum(0.9**t * reward[start + t] for t in range(length))
        for start, length in zip(data.start.tolist(), data.length.tolist(), strict=True)
    ]
    assert logged["return_best"] == pytest.approx(max(returns), abs=1e-4)
    assert logged["return_mean"] == pytest.approx(np.mean(returns), abs=1e-4)
    assert (logged["q_low"], logged["q_high"]) == pytest.approx((-10.0, 0.0))  # reward -1, or untrained


def test_the_first_of_stacked_seeds_is_diagnosed(arrays) -> None:
    for kind in (IQL, TD3BC):
        one, several = (PolicyShiftMonitor(every=0, states=150, vae=False) for _ in range(2))
        _, single = fit(arrays, one, kind=kind, steps=3, seed=5)
        _, stacked = fit(arrays, several, kind=kind, steps=3, seed=5, seeds=3)
        a, b = shift(single), shift(stacked)
        assert set(a) == set(b)
        for name in set(a) - {"seconds"}:
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-4), name


def test_training_does_not_notice(arrays) -> None:
    plain, _ = fit(arrays, steps=6)
    watched, _ = fit(arrays, PolicyShiftMonitor(every=2, states=150), steps=6)
    for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(a, b)
    assert watched.training == plain.training


def test_a_resumed_run_goes_on(arrays, tmp_path: Path) -> None:
    saving = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    first = PolicyShiftMonitor(every=2, **PLAIN)
    fit(arrays, first, saving, steps=4)
    second = PolicyShiftMonitor(every=2, **PLAIN)
    _, trainer = fit(arrays, second, ModelCheckpoint(dirpath=tmp_path), steps=6, resume=tmp_path / "last.ckpt")
    whole = PolicyShiftMonitor(every=2, **PLAIN)
    _, once = fit(arrays, whole, steps=6)
    assert [at for at, _ in second._mean_q] == [2, 4, 6] and second._mean_q == whole._mean_q
    for a, b in zip(trainer.lightning_module.parameters(), once.lightning_module.parameters(), strict=True):
        assert torch.equal(a, b)
    assert shift(trainer)["q_drift"] == shift(once)["q_drift"]


# -- alarms ----------------------------------------------------------------------------------------------------------


def alarming(monkeypatch: pytest.MonkeyPatch, *levels: str) -> None:
    """The n-th look finds ``q_outside`` at the n-th level."""
    left = list(levels)

    def found(self: Any, trainer: Any, module: Any) -> list[Diagnosis]:
        return [Diagnosis("q_outside", 0.5, left.pop(0), "half of it is outside", "calm it")]  # type: ignore[arg-type]

    monkeypatch.setattr(PolicyShiftMonitor, "_diagnose", found)


def test_an_alarm_is_told_when_it_comes_and_when_it_comes_back(arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    alarming(monkeypatch, "ok", "alarm", "alarm", "ok", "alarm", "alarm")
    recorder = Recorder()
    with pytest.warns(UserWarning, match="shift/q_outside, update 2: half of it is outside. Try: calm it") as said:
        module = OfflineDataModule(arrays, batch_size=8, updates_per_step=1)
        L.Trainer(max_steps=6, logger=recorder, callbacks=[PolicyShiftMonitor(every=1)], enable_progress_bar=False,
                  enable_checkpointing=False, enable_model_summary=False, accelerator="cpu",
        ).fit(TD3BC(module.spec, hidden=(8,)), module)  # fmt: skip
    assert [re.search(r"update (\d)", a["text"]).group(1) for a in recorder.alerts] == ["2", "5"]
    assert recorder.alerts[0]["title"] == "shift/q_outside" and "calm it" in recorder.alerts[0]["text"]
    assert len([w for w in said if "shift/q_outside" in str(w.message)]) == 2
    assert [row["shift/alarms"] for _, row in recorder.rows if "shift/alarms" in row] == [0, 1, 1, 0, 1, 1]


@pytest.mark.parametrize(("stop", "end"), [(True, 2), (False, 6)])
def test_divergence_stops_only_if_asked(arrays, tmp_path: Path, monkeypatch, stop: bool, end: int) -> None:
    alarming(monkeypatch, "caution", "alarm", "alarm", "alarm", "alarm", "alarm", "alarm")
    callback = PolicyShiftMonitor(every=1, stop_on_divergence=stop)
    algorithm, trainer = fit(arrays, callback, ModelCheckpoint(dirpath=tmp_path, save_last=True))
    assert algorithm.updates == end and (tmp_path / "last.ckpt").exists()


def test_real_divergence_is_an_alarm(arrays) -> None:
    """A learning rate of 100 sends Q out of all bounds within a few updates."""
    callback = PolicyShiftMonitor(every=5, stop_on_divergence=True, **PLAIN)
    algorithm, trainer = fit(arrays, callback, steps=400, learning_rate=100.0)
    assert algorithm.updates < 400 and "q_outside" in callback.alarms and shift(trainer)["q_outside"] > 0.01


@pytest.mark.parametrize(("learning_rate", "alarms"), [(3e-3, set()), (30.0, {"q_outside"})])
def test_silent_where_all_is_well(learning_rate: float, alarms: set[str], recwarn: pytest.WarningsRecorder) -> None:
    """One corridor, one log that mostly goes the only way there is: the same run, healthy and made to diverge."""
    world = GridWorld("corridor")
    behavior = world.mdp.behavior_policy(0.95)
    source = world.dataset(behavior, 150, horizon=25)
    callback = PolicyShiftMonitor(every=200, states=800, behavior=Tabular(behavior), vae=False)
    module = OfflineDataModule(source, batch_size=64, updates_per_step=50, discount=0.9)
    algorithm = DiscreteCQL(module.spec, hidden=(32,), weight=0.2, learning_rate=learning_rate, critics=2)
    trainer = L.Trainer(
        max_steps=600, logger=(recorder := Recorder()), callbacks=[callback, SoftTargetUpdate(tau=0.1)],
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(algorithm, module)
    told = {alert["title"].removeprefix("shift/") for alert in recorder.alerts}
    assert alarms <= told if alarms else told == set(), callback.summary()
    assert told == {str(w.message).partition(",")[0][6:] for w in recwarn if str(w.message).startswith("shift/")}


def test_remedies_name_arguments_that_exist() -> None:
    """What an algorithm says should be turned is an argument of it, or another algorithm."""
    pages = all_algorithms()
    told = {name: kind.remedy for name, kind in pages.items() if kind.remedy is not None}
    assert told["IQL"] == "lower model.inverse_temperature" and "BC" not in told
    for name, text in told.items():
        arguments = set()
        for kind in pages[name].__mro__:
            arguments |= set(inspect.signature(kind).parameters) if issubclass(kind, OfflineAlgorithm) else set()
        named = re.findall(r"model\.(\w+)", text) or re.findall(r"[A-Z]\w+", text)
        assert named and not set(named) - arguments - set(pages), f"{name} has no {named}"


def test_the_remedy_of_the_algorithm_is_reported(arrays) -> None:
    callback = PolicyShiftMonitor(every=0, **PLAIN)
    fit(arrays, callback, kind=IQL)
    assert any("lower model.inverse_temperature" in one.remedy for one in callback.last)


# -- offline and online ----------------------------------------------------------------------------------------------


def test_the_gap_is_the_sum_of_the_policys_own_errors() -> None:
    """V(s0) - gamma^L V(s_L) - discounted rewards of the played episode, in transformed rewards, step by step."""
    source = {**grid(40), "environment": "offrl/GridWorld-open-v0"}
    callback = PolicyShiftMonitor(every=0, episodes=3, **PLAIN)
    module = OfflineDataModule(source, batch_size=8, discount=0.9, reward=RewardTransform(2.0, 0.5), updates_per_step=1)
    algorithm = DiscreteCQL(module.spec, hidden=(8,))
    trainer = L.Trainer(max_steps=4, logger=False, callbacks=[callback], enable_progress_bar=False,
                        enable_checkpointing=False, enable_model_summary=False, accelerator="cpu")  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(algorithm, module)
    scale, move = module.reward_transform
    world, values = GridWorld("open"), []
    algorithm.eval()
    for episode in range(3):
        observation, _ = world.reset(seed=1000 + episode)
        total, t, ended, first = 0.0, 0, False, None
        while not ended and t < 100:
            with torch.no_grad():
                q = algorithm.q(torch.as_tensor(observation)[None]).mean(0)[0]
            first = float(q.max()) if first is None else first
            observation, reward, ended, _, _ = world.step(int(q.argmax()))
            total, t = total + 0.9**t * (scale * reward + move), t + 1
        with torch.no_grad():
            last = 0.0 if ended else float(algorithm.q(torch.as_tensor(observation)[None]).mean(0).max())
        values.append(first - 0.9**t * last - total)
    assert shift(trainer)["online_gap"] == pytest.approx(np.mean(values), abs=1e-4)
    with pytest.raises(InputError, match="does not name its environment"):
        fit({**grid(), "environment": None}, PolicyShiftMonitor(episodes=2), kind=DiscreteCQL)


def test_discounted_returns_and_ends_of_episodes() -> None:
    evaluator = Evaluator("offrl/GridWorld-corridor-v0", 2)
    right = evaluator.run(lambda o: torch.full((len(o),), 2), discount=0.5)
    assert right.returns.tolist() == [-(1 - 0.5**7) / 0.5] * 2 and right.lengths.tolist() == [7, 7]
    assert right.first.argmax(-1).tolist() == [0, 0] and right.last.argmax(-1).tolist() == [7, 7]
    evaluator.close()


# -- settings --------------------------------------------------------------------------------------------------------


def test_wrong_settings_are_refused(arrays) -> None:
    for arguments in ({"every": -1}, {"states": 5}, {"episodes": -1}):
        with pytest.raises(InputError, match="PolicyShiftMonitor needs"):
            PolicyShiftMonitor(**arguments)
    with pytest.raises(InputError, match="'fit', 'none' or a policy"):
        PolicyShiftMonitor(behavior="guess")
    single = {key: value[:20] for key, value in arrays.items()}
    with pytest.raises(InputError, match="has only one"):
        fit(single, PolicyShiftMonitor(**PLAIN))


def test_a_true_behavior_may_be_given(make_arrays) -> None:
    callback = PolicyShiftMonitor(every=0, behavior=policy(0.0, 2), vae=False, states=150)
    _, trainer = fit(make_arrays(), callback, kind=IQL)
    assert "kl_bits_traj" in shift(trainer)


def test_the_command_line_knows_it(tmp_path: Path, make_arrays) -> None:
    import h5py

    from lightning_offrl.cli import main

    with h5py.File(tmp_path / "toy.hdf5", "w") as file:
        for key, value in make_arrays().items():
            file[key] = value
    words = f"fit --model TD3BC --model.hidden [8] --data.source {tmp_path}/toy.hdf5 --trainer.max_steps 4"
    words += f" --trainer.log_every_n_steps 2 --run_dir {tmp_path}/run --trainer.callbacks+=PolicyShiftMonitor"
    words += " --trainer.callbacks.every=2 --trainer.callbacks.behavior=none --trainer.callbacks.states=100"
    words += " --trainer.callbacks.vae=false"
    assert main(words.split()) == 0
    with open(tmp_path / "run" / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row.get("shift/auc")]
    assert [row["step"] for row in rows] == ["2", "4"]
