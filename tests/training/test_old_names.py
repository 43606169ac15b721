"""Files and scripts of version 0.1 go on working: what `training/old_names.py` promises.

``fixtures/v0_1_0`` was written by that version: policies of every algorithm, runs with checkpoints, a cache, a
configuration. Tests that count warnings run in a process of their own, because a name is told once per process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import lightning_offrl
from lightning_offrl.cli import main
from lightning_offrl.data.readers import cache
from lightning_offrl.envs.gridworld import GridWorld
from lightning_offrl.envs.make import environment_name, make_environment
from lightning_offrl.errors import InputError
from lightning_offrl.policy import export_policy, load_policy
from lightning_offrl.training import old_names
from lightning_offrl.training.files import read_checkpoint

OLD = Path(__file__).parents[1] / "fixtures" / "v0_1_0"
RECORDED = json.loads((OLD / "actions.json").read_text())
RUNS = sorted(path.name for path in (OLD / "trained").iterdir())


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def warnings_of(statements: list[str], cwd: Path | None = None) -> list[list[str]]:
    """Messages of the FutureWarnings of each statement; all run, twice each, in one fresh process.

    Between two statements it forgets which old names were told, and the modules that stand for old ones.
    """
    code = """
import json, sys, warnings
from lightning_offrl.training import old_names
answers = []
for statement in json.load(sys.stdin):
    old_names.told.clear()
    for name in [name for name, module in sys.modules.items() if type(module).__name__ == "_OldModule"]:
        del sys.modules[name]
        parent, _, leaf = name.rpartition(".")
        vars(sys.modules.get(parent, old_names)).pop(leaf, None)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            exec(statement, {})
    answers.append([str(one.message) for one in told if one.category is FutureWarning])
print("ANSWERS", json.dumps(answers))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(statements),
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(OLD.parents[2])},
    )
    assert done.returncode == 0, done.stderr
    answers: list[list[str]] = json.loads(done.stdout.rpartition("ANSWERS ")[2])
    return answers


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(RECORDED["actions"]))
def test_an_old_policy_acts_as_recorded(name: str) -> None:
    policy = load_policy(OLD / "policies" / f"{name}.pt")
    got = policy.act(np.array(RECORDED["observations"], dtype=np.float32))
    np.testing.assert_allclose(got, RECORDED["actions"][name], rtol=0, atol=1e-6)  # float32 sums differ by CPU


def test_the_fixtures_have_every_algorithm_of_then() -> None:
    assert len(RECORDED["actions"]) == 20 == len(list((OLD / "policies").glob("*.pt")))


def test_an_old_policy_written_again_holds_no_old_name(tmp_path: Path) -> None:
    path = export_policy(load_policy(OLD / "policies" / "CQL.pt").algorithm, tmp_path / "policy.pt")
    content = torch.load(path, weights_only=True)
    names = {*content["hyper_parameters"], *(key.partition(".")[0] for key in content["state_dict"])}
    assert not names & {*old_names.KEYWORDS, *old_names.STATE} and content["algorithm"] == "CQL"


def equal(one, other, path=""):
    """Largest difference of all numbers of two structures of the same shape; keys and other values are equal."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        return max([0.0, *(equal(one[key], other[key], f"{path}/{key}") for key in one)])
    if isinstance(one, list | tuple):
        assert len(one) == len(other), path
        return max([0.0, *(equal(a, b, f"{path}/{i}") for i, (a, b) in enumerate(zip(one, other, strict=True)))])
    if isinstance(one, torch.Tensor):
        assert one.shape == other.shape and one.dtype == other.dtype, path
        return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0
    if isinstance(one, float):
        return abs(one - other)
    assert one == other, path
    return 0.0


@pytest.mark.parametrize("name", RUNS)
def test_an_old_checkpoint_is_resumed_to_where_the_old_run_ended(name: str, tmp_path: Path, monkeypatch) -> None:
    """In float64: the same numbers on every CPU up to the order of sums."""
    shutil.copytree(OLD / "trained" / name, tmp_path / "run")
    for data in OLD.glob("*.npz"):
        shutil.copy(data, tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/checkpoints/last.ckpt").unlink()
    step = "run/checkpoints/step=10.ckpt"
    assert main(["fit", "--ckpt_path", step, "--data.cache_dir", "cache"]) == 0
    got = read_checkpoint("run/checkpoints/last.ckpt")
    want = read_checkpoint(OLD / "trained" / name / "checkpoints/last.ckpt")
    assert got["offrl"]["updates"] == 20 and got["callbacks"].keys() == want["callbacks"].keys()
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "hyper_parameters"):
        assert equal(got[part], want[part], part) <= 1e-12
    before = (OLD / "trained" / name / "metrics.csv").read_text().splitlines()
    after = Path("run/metrics.csv").read_text().splitlines()
    assert after[0] == before[0] and len(after) == len(before)


def test_an_old_checkpoint_loads_without_a_trainer() -> None:
    kind = lightning_offrl.IQL
    path = OLD / "trained/IQL/checkpoints/last.ckpt"
    module = kind.load_from_checkpoint(path, weights_only=True)
    assert module.hparams["normalize_observations"] is True and bool(module.normalizer.fitted)
    fresh = kind(module.spec, hidden=(4, 4)).double()
    fresh.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    assert equal(dict(fresh.state_dict()), dict(module.double().state_dict())) <= 1e-6


def test_an_old_configuration_trains(tmp_path: Path, monkeypatch, capsys) -> None:
    shutil.copy(OLD / "box.npz", tmp_path)
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.max_steps", "2", "--run_dir", "run", "--data.cache_dir", "cache"]
    assert main(["fit", "--config", str(OLD / "config.yaml"), *options]) == 0, capsys.readouterr().err
    written = Path("run/config.yaml").read_text()
    assert "normalize_observations: true" in written and "PolicyShiftMonitor" in written
    assert "reward: standardize" in written and "behavior: none" in written
    assert not [name for name in (*old_names.KEYWORDS, "ShiftCallback", "standardise") if f"{name}:" in written]


@pytest.mark.parametrize("name", ["box", "discrete"])
def test_an_old_cache_opens_without_its_source(name: str, tmp_path: Path) -> None:
    """Its reader was "npz-1". Readers of another version find no such entry and read the source again."""
    shutil.copytree(OLD / "cache", tmp_path / "cache")
    source = OLD / f"{name}.npz"
    episodes = cache.cached([source], lambda: pytest.fail("the source was read"), "npz-1", tmp_path / "cache")
    read = lightning_offrl.load_dataset(source, use_cache=False)
    assert episodes.fingerprint == read.fingerprint and episodes.spec == read.spec and len(episodes) == 240
    for key in read.data.keys(True, True):
        assert torch.equal(episodes.data[key], read.data[key]), key
    assert lightning_offrl.load_dataset(source, cache_dir=tmp_path / "cache").fingerprint == read.fingerprint


@pytest.mark.parametrize("entry", ["lightning_offrl.envs.gridworld:GridWorld", "lightning_offrl.envs.sepsis:Sepsis"])
@pytest.mark.parametrize("trusted", [False, True])
def test_environments_in_old_datasets_are_made(entry: str, trusted: bool) -> None:
    grid = "gridworld" in entry
    spec = {
        "id": "offrl/GridWorld-v0" if grid else "offrl/Sepsis-v0", "entry_point": entry,
        "reward_threshold": None, "nondeterministic": False, "max_episode_steps": 30, "order_enforce": True,
        "disable_env_checker": False, "kwargs": {"layout": "open"} if grid else {}, "additional_wrappers": [],
        "vector_entry_point": None,
    }  # fmt: skip
    env = make_environment(json.dumps(spec), trusted=trusted)
    assert type(env.unwrapped).__name__ == entry.partition(":")[2] and env.spec.max_episode_steps == 30
    if grid:
        assert isinstance(env.unwrapped, GridWorld) and "open" in environment_name(json.dumps(spec))


# -- one warning -----------------------------------------------------------------------------------------------------

IMPORTS = {
    "from lightning_offrl.export.policy import load_policy": "lightning_offrl.policy",
    "from lightning_offrl.data.sources import load": "lightning_offrl.data.readers",
    "from lightning_offrl.data.sources.logs.mapping import read_map": "lightning_offrl.data.logs.mapping",
    "import lightning_offrl.data.sources as s; s.load; s.load; s.locate": "lightning_offrl.data.readers",
    "from lightning_offrl.data import sources; sources.load": "lightning_offrl.data.readers",
    "from lightning_offrl import ShiftCallback": "lightning_offrl.PolicyShiftMonitor",
    "import lightning_offrl; lightning_offrl.ShiftCallback": "lightning_offrl.PolicyShiftMonitor",
    "from lightning_offrl.callbacks.diagnose import ShiftCallback": "callbacks.policy_shift.PolicyShiftMonitor",
    "from lightning_offrl.callbacks.safe_stop import SafeStop": "callbacks.graceful_stop.GracefulStop",
    "from lightning_offrl.fitting import fit_alone": "fit_without_trainer",
    "from lightning_offrl.algorithm import OfflineAlgorithm": "lightning_offrl.training.algorithm",
    "from lightning_offrl.algorithms.cql import CQL": "lightning_offrl.algorithms.conservative.cql",
    "from lightning_offrl.ope.policies import Discrete": "lightning_offrl.ope.policies.target.Discrete",
    "from lightning_offrl.ope.selection import compare": "lightning_offrl.ope.selection.ranking.compare",
    "from lightning_offrl.ope.direct import model_rollouts": "ope.direct.model_based.model_rollouts",
    "from lightning_offrl.ope.behaviour import fit_behaviour": "lightning_offrl.ope.policies.behavior.fit_behavior",
    "from lightning_offrl.envs.gridworld import HORIZON": "lightning_offrl.envs.gridworld.environment.HORIZON",
    "from lightning_offrl.diagnostics.support import neighbour_support": "diagnostics.support.neighbor_support",
    "from lightning_offrl.report.dataset import examine": "lightning_offrl.reports.dataset.measure.measure",
    "from lightning_offrl.ope.evaluation import Evaluation": "lightning_offrl.ope.result.OPEResult",
    "from lightning_offrl.envs.sepsis import sepsis_id": "lightning_offrl.envs.sepsis.registration.sepsis_id",
}


def test_every_old_import_works_with_one_warning() -> None:
    for statement, told in zip(IMPORTS, warnings_of(list(IMPORTS)), strict=True):
        assert len(told) == 1 and IMPORTS[statement] in told[0] and "until version" in told[0], (statement, told)


MAKE = """
from lightning_offrl import IQL, TD3BC, CQL
spec = {"observation_shape": [3], "action_kind": "box", "action_size": 1, "action_low": [-1.0], "action_high": [1.0]}
"""
MINE = """
from abc import ABC
class Mine(IQL, ABC):
    acting = ("normaliser", "policy")
    def act(self, observation):
        return self.policy(self.normaliser(observation)).mode
import torch, inspect
one = Mine(spec, hidden=(4,), normalise_observations=False)
assert Mine.acting == ("normalizer", "policy")
assert one.act(torch.zeros(2, 3)).shape == (2, 1) and "expectile" in one.hparams
assert "expectile" in inspect.signature(Mine).parameters and "self" not in inspect.signature(Mine).parameters
"""
FILE = f"import lightning_offrl; lightning_offrl.load_policy({str(OLD / 'policies/CQL.pt')!r})"
LOG = """
import torch
from lightning_offrl import Episodes, evaluate_offline, fqe, load_dataset
from lightning_offrl.ope.policies.target import Discrete
from lightning_offrl.ope.direct.dice import dice
policy = Discrete(lambda states: torch.full((len(states), 2), 0.5))
steps = torch.arange(80)
arrays = dict(observations=torch.eye(4)[steps % 4], actions=steps % 2, rewards=steps % 3, terminated=steps % 4 == 3,
              truncated=torch.zeros(80, dtype=torch.bool),
              behavior_log_prob=torch.full((80,), 0.5).log())
log = load_dataset(arrays)
"""
KEYWORDS = {
    "assert TD3BC(spec, hidden=(4,), normalise_observations=False).hparams['normalize_observations'] is False": 1,
    "assert IQL(spec, hidden=(4,), normaliser_epsilon=0.1).normalizer.epsilon == 0.1": 1,
    "assert CQL(spec, hidden=(4,), regulariser='rho').hparams['regularizer'] == 'rho'": 1,
    "IQL(spec, hidden=(4,)).normaliser": 1,
    "IQL(spec, hidden=(4,), normalize_observations=True)": 0,
    "from lightning_offrl import PolicyShiftMonitor as P; assert P(behaviour='none').behavior == 'none'": 1,
    f"{LOG}assert evaluate_offline(policy, log, discount=0.9, behaviour=policy, estimators=['is']).rows": 1,
    f"{LOG}fqe(policy, log, discount=0.9, updates=2, hidden=(4,), critics=1)": 1,
    f"{LOG}dice(policy, log, discount=0.9, updates=20, hidden=(4,), dual_regulariser=0.5)": 2,
    f"{LOG}assert Episodes.from_arrays(**arrays).fingerprint == log.fingerprint": 1,
    MINE: 2,  # normaliser, and normalise_observations
    FILE: 1,
}


def test_old_keywords_algorithms_and_files_work_with_one_warning_for_each_name() -> None:
    answers = dict(zip(KEYWORDS, warnings_of([f"{MAKE}{statement}" for statement in KEYWORDS]), strict=True))
    assert {statement: len(told) for statement, told in answers.items()} == KEYWORDS, answers
    assert "CQL.pt has names of an earlier version" in answers[FILE][0]
    assert "regulariser is now regularizer" in answers[FILE][0]


def test_both_names_of_a_keyword_are_refused() -> None:
    spec = load_policy(OLD / "policies/IQL.pt").spec
    with pytest.raises(TypeError, match="normalise_observations is the old name of normalize_observations"):
        lightning_offrl.IQL(spec, normalise_observations=True, normalize_observations=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'normalized_observations'"):
        lightning_offrl.IQL(spec, normalized_observations=True)


def test_names_of_today_say_nothing(tmp_path: Path) -> None:
    code = f"""
import glob, shutil, time
from lightning_offrl.cli import main
shutil.copy({str(OLD / "box.npz")!r}, "box.npz")
more = ["--trainer.max_steps", "2", "--name", str(time.time_ns()), "--data.cache_dir", "cache"]
more += ["--data.reward", "standardize"]
more += ["--model.normalize_observations", "true", "--model.hidden", "[4,4]", "--trainer.accelerator", "cpu"]
more += ["--trainer.callbacks+=PolicyShiftMonitor"]
more += ["--trainer.callbacks.behavior=none", "--trainer.callbacks.vae=false"]
assert main(["fit", "--model", "IQL", "--data.source", "box.npz", *more]) == 0
from lightning_offrl import load_policy
from lightning_offrl.ope.policies import target
from lightning_offrl.ope.direct import fqe
from lightning_offrl.envs import gridworld, sepsis
load_policy(glob.glob("runs/*/policy.pt")[0])
"""
    assert warnings_of([code], cwd=tmp_path) == [[]]


# -- the command line ------------------------------------------------------------------------------------------------


def test_old_options_and_values_are_translated(monkeypatch) -> None:
    monkeypatch.setattr(old_names, "told", set())
    words = [
        "--config", "iql", "--model.normalise_observations=true", "--model.init_args.normaliser_epsilon", "0.1",
        "--data.reward", "standardise", "--trainer.callbacks+=ShiftCallback", "--trainer.callbacks.behaviour", "none",
        "--trainer.logger=lightning_offrl.loggers.MetricsCSV", "--name", "standardise", "--behaviour=fit",
        "--trainer.callbacks", "[{class_path: lightning_offrl.callbacks.pace.Pace, init_args: {advise: false}}]",
        "--model.init_args", '{"regulariser": "rho"}', "--run_dir", "ShiftCallback",
    ]  # fmt: skip
    with pytest.warns(FutureWarning, match="standardise is now standardize") as told:
        got = old_names.command_line(words)
    assert len(told) == 1
    assert got == [
        "--config", "iql", "--model.normalize_observations=true", "--model.init_args.normalizer_epsilon", "0.1",
        "--data.reward", "standardize", "--trainer.callbacks+=PolicyShiftMonitor",
        "--trainer.callbacks.behavior", "none",
        "--trainer.logger=lightning_offrl.loggers.MetricsCSV", "--name", "standardise", "--behavior=fit",
        "--trainer.callbacks",
        '[{"class_path": "lightning_offrl.callbacks.throughput.ThroughputMonitor", "init_args": {"advise": false}}]',
        "--model.init_args", '{"regularizer": "rho"}', "--run_dir", "ShiftCallback",
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert old_names.command_line(got) == got and old_names.command_line(words) == got


def test_arguments_of_classes_of_others_keep_their_names() -> None:
    theirs = {"class_path": "my.Callback", "init_args": {"behaviour": 1, "normalise_observations": 2}}
    assert old_names.configuration({"trainer": {"callbacks": [theirs]}}) == {"trainer": {"callbacks": [theirs]}}
    model = old_names.configuration({"model": theirs})["model"]["init_args"]
    assert model == {"behaviour": 1, "normalize_observations": 2}  # the one that every algorithm takes


def test_the_whole_configuration_of_an_old_run_is_translated() -> None:
    for name in RUNS:
        content = yaml.safe_load((OLD / "trained" / name / "config.yaml").read_text())
        text = yaml.safe_dump(old_names.configuration(content))
        assert not [old for old in (*old_names.KEYWORDS, "ShiftCallback", "standardise") if f"{old}:" in text]


def test_mistakes_name_what_there_is_today(capsys) -> None:
    assert main(["fit", "--model", "IQL", "--model.normalise_observation", "true", "--data.source", "x.npz"]) == 2
    assert "normalize_observations" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError, match="lightning_offrl.data.readers.nothing"):
        __import__("lightning_offrl.data.sources.nothing")
    with pytest.raises(ImportError, match="nothing"):
        exec("from lightning_offrl.ope.policies import nothing")


# -- the table -------------------------------------------------------------------------------------------------------


def test_every_module_in_the_table_is_there_today() -> None:
    from importlib.util import find_spec

    for old, new in old_names.MODULES.items():
        assert find_spec(f"lightning_offrl.{new}") is not None, f"{old} -> {new}"
    for old, new in old_names.ELSEWHERE.items():
        assert find_spec(f"lightning_offrl.{new.rpartition('.')[0]}") is not None, f"{old} -> {new}"


def test_a_damaged_file_is_still_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.pt"
    torch.save({"offrl_policy": 1, "hyper_parameters": ["normalise_observations"], "state_dict": None}, path)
    with pytest.raises(InputError, match="hyper_parameters are not a dictionary"):
        load_policy(path)
