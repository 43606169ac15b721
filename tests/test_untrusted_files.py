"""Files of strangers: what they name is not run or imported, and what sizes they claim are not built.

Each file here is an attack through one door, given to the command that a user would type. It must be refused, or read
without what it asks for, and the canary must not sing: `canary.py` and the shell command both write a file when run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
import torch

from lightning_offrl import BC, InputError, load_dataset, load_policy
from lightning_offrl.algorithms import all_algorithms
from lightning_offrl.cli import main
from lightning_offrl.envs.gridworld.environment import grid_id
from lightning_offrl.envs.make import make_environment
from lightning_offrl.envs.sepsis.registration import sepsis_id
from lightning_offrl.policy import export_policy

SPEC = {
    "observation_shape": [3],
    "action_kind": "box",
    "action_size": 1,
    "action_low": [-2.0],
    "action_high": [2.0],
}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty current folder with a canary that can be imported; at the end it must not have sung."""
    (tmp_path / "canary.py").write_text("open('SUNG', 'w').close()\ndef sing(**_): pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("OFFRL_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    assert not (tmp_path / "SUNG").exists() and "canary" not in sys.modules


@pytest.fixture
def offrl(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process; gives its exit status, output and one sentence of error."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(list(words))
        out = capsys.readouterr()
        assert "Traceback" not in out.err
        if status == 2:
            assert out.err.count("\n") == 1 and out.err.startswith("offrl: error: ")
        return status, out.out, out.err

    return run


def attack(**changes: Any) -> str:
    """The JSON of an EnvSpec that runs a shell command where it is made as it says."""
    spec = json.loads(gymnasium.spec("Pendulum-v1").to_json())
    spec |= {"entry_point": "os:system", "kwargs": {"command": "touch SUNG"}}
    return json.dumps(spec | changes)


WRAPPED = attack(
    entry_point=gymnasium.spec("Pendulum-v1").entry_point,
    kwargs={},
    additional_wrappers=[{"name": "Sing", "entry_point": "canary:sing", "kwargs": {}}],
)
ATTACKS = {
    "shell": attack(),
    "unregistered": attack(id="Evil-v0"),
    "entry": attack(entry_point="canary:sing", kwargs={}),
    "wrapper": WRAPPED,
    "import": "canary:Evil-v0",
    "import of a known name": "canary:Pendulum-v1",
    "import in JSON": attack(id="canary:Evil-v0", entry_point=None),
    "not JSON": "{",
    "not a specification": '{"id": 3}',
    "deep": '{"id": ' + "[" * 100_000,
}


def arrays(episodes: int = 6, length: int = 10) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    steps = episodes * length
    ends = np.tile(np.arange(length) == length - 1, episodes)
    walk = rng.normal(size=(episodes, length + 1, 3)).astype("float32")
    return {
        "observations": walk[:, :-1].reshape(steps, 3),
        "next_observations": walk[:, 1:].reshape(steps, 3),
        "actions": rng.uniform(-1, 1, size=(steps, 1)).astype("float32"),
        "rewards": rng.normal(size=steps).astype("float32"),
        "terminals": np.zeros(steps, dtype=bool),
        "timeouts": ends,
    }


def d4rl(path: Path, environment: str) -> str:
    with h5py.File(path, "w") as file:
        for key, value in arrays().items():
            file[key] = value
        file["metadata/env_id"] = environment
    return str(path)


def minari_dataset(folder: Path, **metadata: Any) -> str:
    """A Minari dataset in a folder, with changed metadata; None removes an entry."""
    from lightning_offrl.data.writers.convert import convert

    convert(arrays(), "test/plain-v0", overwrite=True)
    path = folder / "minari" / "test" / "plain-v0" / "data" / "metadata.json"
    content = json.loads(path.read_text()) | metadata
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return "test/plain-v0"


def policy_file(path: Path, **changes: Any) -> str:
    export_policy(BC(SPEC, hidden=(8,)), path)
    content = torch.load(path, weights_only=True)
    torch.save(content | changes, path)
    return str(path)


# -- environments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTACKS)
def test_what_a_file_may_not_name_is_not_made(folder: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        make_environment(ATTACKS[name])
    assert "--environment" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"xml_file": "/tmp/evil.xml"},
        {"g": "../evil"},
        {"g": "canary:sing"},
        {"g": {"deep": ["canary:sing"]}},
        {"env_id": "x"},
        {"vector_kwargs": {}},
        ["g"],
        "g",
    ],
)
def test_arguments_that_may_name_files_or_code_are_refused(folder: Path, arguments: Any) -> None:
    spec = json.loads(gymnasium.spec("Pendulum-v1").to_json()) | {"kwargs": arguments}
    with pytest.raises(InputError, match="has (the argument|arguments of type).*--environment Pendulum-v1"):
        make_environment(json.dumps(spec))


@pytest.mark.parametrize("name", ["GymV21Environment-v0", "GymV26Environment-v0"])
def test_doors_to_environments_of_others_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="door to environments of another package"):
        make_environment(name)


def test_what_a_file_may_name_is_made_by_its_id(folder: Path) -> None:
    spec = json.loads(gymnasium.spec("Pendulum-v1").to_json())
    spec |= {"kwargs": {"g": 5.0, "render_mode": "human"}, "max_episode_steps": 50}
    made = make_environment(json.dumps(spec))
    assert made.unwrapped.g == 5.0 and made.spec.max_episode_steps == 50 and made.unwrapped.render_mode is None
    assert make_environment(made.spec.to_json()).unwrapped.g == 5.0
    assert make_environment(grid_id("cliff", max_episode_steps=7)).spec.max_episode_steps == 7
    assert make_environment(sepsis_id(missing=0.1)).unwrapped.missing == 0.1


@pytest.mark.parametrize("name", ATTACKS)
def test_looking_at_a_d4rl_file_makes_no_environment(folder: Path, offrl: Run, name: str) -> None:
    file = d4rl(folder / "log.hdf5", ATTACKS[name])
    status, out, _ = offrl("data", "show", file)
    assert status == 0 and "60 transitions" in out
    status, out, _ = offrl("data", "convert", file, "test/out-v0")
    assert status == 0 and "environment was left out" in " ".join(out.split())


def test_looking_makes_no_environment_at_all(folder: Path, offrl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*words: Any, **more: Any) -> None:
        raise AssertionError(f"made {words}")

    file = d4rl(folder / "log.hdf5", "Pendulum-v1")
    np.savez(folder / "log.npz", environment="Pendulum-v1", **arrays())
    dataset = minari_dataset(folder, env_spec=gymnasium.spec("Pendulum-v1").to_json())
    monkeypatch.setattr(gymnasium, "make", make)
    for source in (file, str(folder / "log.npz"), dataset):
        assert offrl("data", "show", source)[0] == 0
        assert offrl("data", "report", source, "--report", str(folder / "page.html"))[0] == 0
        assert load_dataset(source).environment == "Pendulum-v1"


def test_bounds_that_only_the_environment_knows_come_by_converting(folder: Path, offrl: Run) -> None:
    wide = arrays() | {"actions": 2.0 * arrays()["actions"]}
    np.savez(folder / "log.npz", environment="Pendulum-v1", **wide)
    status, _, err = offrl("data", "show", "log.npz")
    assert status == 2 and "offrl data convert FILE log/data-v0" in err
    assert offrl("data", "convert", "log.npz", "log/data-v0")[0] == 0
    assert load_dataset("log/data-v0").spec["action_high"] == [2.0]


@pytest.mark.parametrize("name", ATTACKS)
def test_npz(folder: Path, offrl: Run, name: str) -> None:
    np.savez(folder / "log.npz", environment=ATTACKS[name], **arrays())
    assert offrl("data", "show", "log.npz")[0] == 0
    assert offrl("data", "convert", "log.npz", "test/out-v0")[0] == 0


def test_npz_of_pickles(folder: Path, offrl: Run) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return __import__("os").system, ("touch SUNG",)

    np.savez(folder / "log.npz", **(arrays() | {"rewards": np.array([Bomb()], dtype=object)}))
    status, _, err = offrl("data", "show", "log.npz")
    assert status == 2 and "cannot be read as an .npz of numeric arrays" in err
    torch.save({"offrl_policy": 1, "x": Bomb()}, folder / "policy.pt")
    status, _, err = offrl("evaluate", "policy.pt")
    assert status == 2 and "holds Python objects" in err


@pytest.mark.parametrize("key", ["env_spec", "eval_env_spec"])
def test_minari(folder: Path, offrl: Run, key: str) -> None:
    for spec in (attack(), WRAPPED):
        dataset = minari_dataset(folder, **{key: spec})
        assert offrl("data", "show", dataset)[0] == 0
        assert offrl("data", "convert", dataset, "test/out-v0", "--overwrite")[0] == 0


@pytest.mark.parametrize("key", ["action_space", "observation_space"])
def test_minari_without_a_space(folder: Path, offrl: Run, key: str) -> None:
    dataset = minari_dataset(folder, env_spec=attack(), **{key: None})
    status, _, err = offrl("data", "show", dataset)
    assert status == 2 and f"does not store its {key}, and no environment is made" in err


def test_map(folder: Path, offrl: Run) -> None:
    (folder / "log.csv").write_text("id,t,a,x,r\n" + "".join(f"1,{t},{t % 2},0.5,1\n" for t in range(9)))
    text = (
        "episode: id\ntime: t\nobservation: [x]\naction: {column: a, categories: [0, 1]}\nreward: r\n"
        "last_row: terminated\nenvironment: NAME\n"
    )
    for name in ("shell", "import", "wrapper"):
        (folder / "map.yaml").write_text(text.replace("NAME", json.dumps(ATTACKS[name])))
        status, _, err = offrl("data", "import", "log.csv", "--map", "map.yaml")
        assert status == 2 and "--environment" in err


@pytest.mark.parametrize("name", ATTACKS)
def test_environment_of_a_policy(folder: Path, offrl: Run, name: str) -> None:
    info = {"updates": 0, "data": {"name": "x", "environment": ATTACKS[name]}}
    status, _, err = offrl("evaluate", policy_file(folder / "policy.pt", info=info), "--video", "film.gif")
    assert status == 2 and "--environment" in err


# -- algorithms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("canary.sing", "add --import canary (in Python: import canary first)"),
        ("canary", "does not have"),
        ("os.system", "is not an algorithm of lightning_offrl"),
        ("lightning_offrl.canary.sing", "add --import lightning_offrl.canary"),
        ("lightning_offrl.algorithms.canary.Sing", "does not have"),
        ("__main__.Mine", "a class of the script that trained it"),
        ("", "does not say which algorithm"),
        (3, "does not say which algorithm"),
    ],
)
@pytest.mark.parametrize("kind", ["policy", "checkpoint"])
def test_algorithms_are_not_imported(folder: Path, offrl: Run, kind: str, name: Any, sentence: str) -> None:
    if kind == "policy":
        path = policy_file(folder / "policy.pt", algorithm=name)
    else:
        page = BC(SPEC, hidden=(8,))
        mark = {"format": 1, "algorithm": name, "spec": SPEC, "data": None, "versions": {}, "updates": 0}
        path = str(folder / "last.ckpt")
        hyper = dict(page.hparams)
        torch.save({"offrl": mark, "state_dict": page.state_dict(), "hyper_parameters": hyper}, path)
    status, _, err = offrl("evaluate", path, "--environment", "Pendulum-v1")
    assert status == 2 and sentence in err
    data = d4rl(folder / "log.hdf5", "Pendulum-v1")
    status, _, err = offrl("ope", "--policy", path, "--data", data)
    assert status == 2 and sentence in err


def test_a_lazy_module_is_not_asked(folder: Path) -> None:
    """A module's own ``__getattr__`` may import what it is asked for."""
    lazy = type(sys)("lazy_module")
    lazy.__getattr__ = lambda name: __import__("canary")  # type: ignore[method-assign]
    sys.modules["lazy_module"] = lazy
    try:
        with pytest.raises(InputError, match="has no class of that name"):
            load_policy(policy_file(folder / "policy.pt", algorithm="lazy_module.Mine"))
    finally:
        del sys.modules["lazy_module"]


@pytest.mark.parametrize("name", sorted(all_algorithms()))
def test_files_hold_public_names_and_old_ones_load(folder: Path, name: str) -> None:
    kind = all_algorithms()[name]
    spec = SPEC if kind.action_kind == "box" else {**SPEC, "action_kind": "discrete", "action_size": 3}
    spec = spec if kind.action_kind == "box" else {k: v for k, v in spec.items() if "low" not in k and "high" not in k}
    page = kind(spec, seed=3)
    path = export_policy(page, folder / "policy.pt")
    content = torch.load(path, weights_only=True)
    assert content["algorithm"] == name
    observation = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    wanted = load_policy(path).act(observation)
    old = content | {"offrl_policy": 1, "algorithm": f"{kind.__module__}.{kind.__qualname__}"}
    torch.save(old, path)
    again = load_policy(path)
    np.testing.assert_array_equal(again.act(observation), wanted)
    with torch.no_grad():
        np.testing.assert_array_equal(
            again.act_scaled(torch.from_numpy(observation)), page.eval().act(torch.from_numpy(observation))
        )
    assert type(again.algorithm) is kind and again.info["algorithm"] == name


# -- sizes -----------------------------------------------------------------------------------------------------------


def huge(rows: int, columns: int) -> torch.Tensor:
    """A tensor that claims a shape and holds one number."""
    return torch.zeros(1).expand(rows, columns)


def test_huge_sizes_are_not_built(folder: Path, offrl: Run) -> None:
    path = folder / "policy.pt"
    content = torch.load(policy_file(path), weights_only=True)
    state, hyper = content["state_dict"], content["hyper_parameters"]
    first = next(key for key in state if key.endswith("weight"))
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "hidden": ({"hyper_parameters": hyper | {"hidden": [200_000, 200_000]}}, "do not fit BC"),
        "claimed": ({"state_dict": state | {first: huge(10**6, 10**6)}}, "claims shape"),
        "type": ({"hyper_parameters": hyper | {"hidden": "wide"}}, "does not take the arguments"),
        "number": ({"hyper_parameters": hyper | {"hidden": [1e30]}}, "does not take the arguments"),
        "seed": ({"hyper_parameters": hyper | {"seed": "x"}}, "its seed is 'x'"),
        "actions": ({"spec": SPEC | {"action_size": 10**12}}, "its spec does not describe"),
        "other spec": ({"spec": SPEC | {"observation_shape": [10**12]}}, "spec among its hyper_parameters"),
        "state": ({"state_dict": [1]}, "state_dict is not a dictionary"),
        "updates": ({"info": {"updates": "many"}}, "number of updates is 'many'"),
        "references": ({"info": {"data": {"references": ["a", "b"]}}}, "reference returns are not two numbers"),
    }
    big = SPEC | {"observation_shape": [10**12]}
    cases["both specs"] = ({"spec": big, "hyper_parameters": hyper | {"spec": big}}, "do not fit BC")
    many = {key: value for key, value in SPEC.items() if "low" not in key and "high" not in key}
    many |= {"action_kind": "discrete", "action_size": 10**12}
    discrete = {"spec": many, "hyper_parameters": {"spec": many, "hidden": [8]}, "algorithm": "DiscreteBC"}
    cases["many actions"] = (discrete, "do not fit DiscreteBC")
    for name, (changes, sentence) in cases.items():
        torch.save(content | changes, path)
        status, _, err = offrl("evaluate", str(path), "--environment", "Pendulum-v1")
        assert status == 2 and sentence in err, (name, err)


def test_seeds_that_are_not_there(folder: Path, offrl: Run) -> None:
    page = BC(SPEC, hidden=(8,))
    mark = {"format": 1, "algorithm": "BC", "spec": SPEC, "data": None, "versions": {}, "updates": 0}
    for seeds in (10**9, "two", -1, True):
        hyper = dict(page.hparams) | {"seeds": seeds}
        torch.save({"offrl": mark, "state_dict": page.state_dict(), "hyper_parameters": hyper}, folder / "x.ckpt")
        status, _, err = offrl("evaluate", "x.ckpt", "--environment", "Pendulum-v1")
        assert status == 2 and "seeds, but no weight has that many" in err


def test_samples_that_no_weight_bounds(folder: Path, offrl: Run) -> None:
    kind = all_algorithms()["BCQ"]
    path = export_policy(kind(SPEC, hidden=(8,), vae_hidden=(8,)), folder / "policy.pt")
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["act_samples"] = 10**9
    torch.save(content, path)
    status, _, err = offrl("evaluate", str(path), "--environment", "Pendulum-v1")
    assert status == 2 and "act_samples is '1000000000', not a number from 1 to 100,000" in err


def test_gaussian_description(folder: Path, offrl: Run) -> None:
    weights = {"layers.0.weight": torch.zeros(4, 3), "mean.weight": torch.zeros(1, 4), "mean.bias": torch.zeros(1)}
    weights["layers.0.bias"] = torch.zeros(4)
    net = {"obs_dim": 3, "act_dim": 1, "hidden": [4], "activation": "tanh", "head": "mean", "norm": False}
    about = {"name": "g", "dist": "tanh_normal", "std": 0.5, "std_scale": 1.0, "eps_uniform": 0.1, "net": net}
    torch.save(weights, folder / "g.pt")
    data = d4rl(folder / "log.hdf5", "Pendulum-v1")
    cases = [
        (about | {"net": net | {"act_dim": 10**12}}, "mean.weight must have shape [1000000000000, 4]"),
        (about | {"net": net | {"hidden": [200_000] * 3}}, "layers.0.weight must have shape [200000, 3]"),
        (about | {"net": net | {"hidden": "wide"}}, "whole numbers above 0"),
        (about | {"eps_uniform": "x"}, "eps_uniform must be a number"),
        ({"net": net}, "it lacks 'eps_uniform'"),
        ([], "an entry is of a wrong type"),
    ]
    for content, sentence in cases:
        (folder / "g.json").write_text(json.dumps(content))
        status, _, err = offrl("ope", "--policy", "g.json", "--data", data)
        assert status == 2 and sentence in err, err


def test_arrays_that_are_not_there(folder: Path, offrl: Run) -> None:
    d4rl(folder / "log.hdf5", "Pendulum-v1")
    with h5py.File(folder / "log.hdf5", "a") as file:
        del file["observations"]
        file.create_dataset("observations", shape=(10**9, 1000), dtype="float32", chunks=(1000, 1000))
    status, _, err = offrl("data", "show", "log.hdf5")
    assert status == 2 and "claims shape [1000000000, 1000], but 0 bytes are stored" in err


# -- an algorithm of one's own ---------------------------------------------------------------------------------------

MINE = '''
from lightning_offrl.algorithms.bc import BC


class Mine(BC):
    """Behavior cloning under another name."""
'''


def test_an_own_algorithm_from_training_to_evaluation(folder: Path, offrl: Run, monkeypatch) -> None:
    """Every command that a user types; each in a state as of a new process, where the module is not imported."""
    home = folder / "elsewhere"
    home.mkdir()
    (home / "my_module.py").write_text(MINE)
    d4rl(home / "log.hdf5", "Pendulum-v1")
    monkeypatch.chdir(home)
    path = list(sys.path)

    def fresh(*words: str) -> tuple[int, str, str]:
        sys.modules.pop("my_module", None)
        monkeypatch.setattr(sys, "path", list(path))
        return offrl(*words)

    run = ("--data.source", "log.hdf5", "--trainer.max_steps", "3", "--model.hidden", "[8]", "--run_dir", "run")
    status, _, err = fresh("fit", "--model", "my_module.Mine", *run)
    assert status == 0 and "--import my_module" in err.splitlines()[-1]
    assert torch.load("run/policy.pt", weights_only=True)["algorithm"] == "my_module.Mine"
    for file in ("run/policy.pt", "run/checkpoints/last.ckpt"):
        status, _, err = fresh("evaluate", file, "--episodes", "1")
        assert status == 2 and "if you trust the module, add --import my_module" in err
        assert "my_module" not in sys.modules
        status, out, _ = fresh("evaluate", file, "--episodes", "1", "--import", "my_module")
        assert status == 0 and out.startswith("Mine, 3 updates on log")
    ope = ("ope", "--policy", "run/policy.pt", "--data", "log.hdf5", "--direct", "lstd", "--refits", "2")
    assert fresh(*ope)[0] == 2
    assert fresh(*ope, "--import", "my_module")[0] in (0, 3, 4)
    select = ("select", "--policies", "run/policy.pt", "--data", "log.hdf5", "--direct", "lstd", "--refits", "2")
    assert fresh(*select)[0] == 2
    assert fresh(*select, "--import=my_module")[0] in (0, 3)
    collect = ("collect", "Pendulum-v1", "test/mine-v0", "--episodes", "2", "--policy", "run/policy.pt")
    assert fresh(*collect)[0] == 2
    assert fresh(*collect, "--import", "my_module")[0] == 0
    resume = ("fit", "--ckpt_path", "run/checkpoints/last.ckpt", "--trainer.max_steps", "4", "--import", "my_module")
    assert fresh(*resume)[0] == 0


def test_imports_that_fail(folder: Path, offrl: Run) -> None:
    (folder / "broken.py").write_text("1 / 0\n")
    (folder / "needy.py").write_text("import no_such_thing\n")
    path = policy_file(folder / "policy.pt")
    for name, sentence in (
        ("absent", "there is no module absent in this folder"),
        ("broken", "--import broken failed (ZeroDivisionError"),
        ("needy", "--import needy failed: No module named 'no_such_thing'"),
        ("broken2.py", "leave out the .py"),
    ):
        status, _, err = offrl("evaluate", path, "--import", name)
        assert status == 2 and sentence in err
        status, _, err = offrl("fit", "--import", name)
        assert status == 2 and sentence in err
    assert "needs the name of a module" in offrl("fit", "--import")[2]
