"""Policies as files: they act as the algorithm did, alone, and say what is wrong with what they are given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from lightning_offrl.algorithms import all_algorithms
from lightning_offrl.algorithms.bc import BC
from lightning_offrl.algorithms.discrete.dqn import DQN
from lightning_offrl.algorithms.iql import IQL
from lightning_offrl.data.datamodule import OfflineDataModule
from lightning_offrl.errors import InputError
from lightning_offrl.policy import Policy, export_policy, load_policy
from lightning_offrl.training.algorithm import OfflineAlgorithm
from lightning_offrl.training.saved import read_saved

SPEC = {
    "observation_shape": [3],
    "action_kind": "box",
    "action_size": 2,
    "action_low": [-2.0, 0.0],
    "action_high": [2.0, 1.0],
}
CONTINUOUS = [kind for kind in all_algorithms().values() if kind.action_kind == "box"]


def build(kind: type[OfflineAlgorithm], **options) -> OfflineAlgorithm:
    algorithm = kind(SPEC, hidden=(16, 16), **options)
    statistics = {(): (torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([0.5, 1.0, 2.0]).double())}
    algorithm.normalizer.fit(statistics)
    return algorithm.eval()


def expected(algorithm: OfflineAlgorithm, observation: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        scaled = algorithm.act(torch.as_tensor(observation, dtype=torch.float32)).double().numpy()
    low, high = np.array(SPEC["action_low"]), np.array(SPEC["action_high"])
    return low + (scaled + 1) / 2 * (high - low)


@pytest.mark.parametrize("kind", CONTINUOUS, ids=lambda kind: kind.__name__)
def test_round_trip(kind: type[OfflineAlgorithm], tmp_path: Path) -> None:
    algorithm = build(kind)
    state = {key: value.clone() for key, value in algorithm.state_dict().items()}
    policy = load_policy(export_policy(algorithm, tmp_path / "policy.pt"))
    observation = np.random.default_rng(0).normal(size=(5, 3))
    action = policy.act(observation)
    assert action.shape == (5, 2) and action.dtype == np.float32
    np.testing.assert_allclose(action, expected(algorithm, observation), rtol=1e-6, atol=1e-6)
    assert all(torch.equal(state[key], value) for key, value in algorithm.state_dict().items())
    held = {name for name, _ in policy.algorithm.named_children()}
    assert held == set(kind.acting)
    assert not policy.algorithm.training and not any(p.requires_grad for p in policy.algorithm.parameters())
    assert [p.name for p in tmp_path.iterdir()] == ["policy.pt"]


def test_the_file_holds_no_critics(tmp_path: Path) -> None:
    keys = read_saved(export_policy(build(IQL), tmp_path / "policy.pt")).state
    assert {key.split(".")[0] for key in keys} == {"normalizer", "policy"}


def test_forms_of_an_observation(tmp_path: Path) -> None:
    policy = load_policy(export_policy(build(BC), tmp_path / "policy.pt"))
    one = [0.1, -0.4, 2.0]
    action = policy.act(one)
    assert action.shape == (2,)
    for form in (np.array(one), np.array(one, np.float32), torch.tensor(one), tuple(one)):
        np.testing.assert_array_equal(policy.act(form), action)
    assert policy.act(np.tile(one, (4, 5, 1))).shape == (4, 5, 2)
    assert policy.act(np.zeros((0, 3))).shape == (0, 2)
    assert policy.spec == SPEC and "BC" in repr(policy)


@pytest.mark.parametrize("kind", CONTINUOUS, ids=lambda kind: kind.__name__)
def test_stacked_seeds_are_exported_one_by_one(kind: type[OfflineAlgorithm], tmp_path: Path) -> None:
    stacked = build(kind, seeds=3, seed=5)
    observation = np.random.default_rng(0).normal(size=(3, 4, 3))
    acted = expected(stacked, observation)
    for i in range(3):
        policy = load_policy(export_policy(stacked, tmp_path / f"{i}.pt", seed_index=i))
        np.testing.assert_allclose(policy.act(observation[i]), acted[i], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            policy.act(observation[i]), expected(build(kind, seed=5 + i), observation[i]), rtol=1e-5, atol=1e-6
        )
        assert policy.info["seed"] == 5 + i
    with pytest.raises(InputError, match="3 stacked seeds: choose one with seed_index, from 0 to 2"):
        export_policy(stacked, tmp_path / "x.pt")
    with pytest.raises(InputError, match="seed_index 3 is out of range"):
        export_policy(stacked, tmp_path / "x.pt", seed_index=3)


def fit(tmp_path: Path, arrays, **options) -> tuple[OfflineAlgorithm, Path]:
    data = OfflineDataModule({**arrays, "name": "toy", "environment": "Toy-v0"}, batch_size=16)
    algorithm = BC(data.spec, hidden=(8,), **options)
    trainer = L.Trainer(
        max_steps=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(algorithm, data)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    return algorithm.eval(), tmp_path / "x.ckpt"


def test_a_checkpoint_is_a_policy_too(tmp_path: Path, arrays) -> None:
    algorithm, path = fit(tmp_path, arrays)
    exported = export_policy(algorithm, tmp_path / "policy.pt")
    observation = np.random.default_rng(0).normal(size=(5, 3))
    with torch.no_grad():
        action = algorithm.act(torch.as_tensor(observation, dtype=torch.float32)).numpy()
    for file in (path, exported):
        policy = load_policy(file)
        np.testing.assert_allclose(policy.act(observation), action, rtol=1e-5, atol=1e-6)
        assert policy.info["updates"] == 3 and policy.info["algorithm"] == "BC"
        assert policy.info["data"]["name"] == "toy" and len(policy.info["data"]["fingerprint"]) >= 16


def test_a_checkpoint_of_stacked_seeds(tmp_path: Path, arrays) -> None:
    algorithm, path = fit(tmp_path, arrays, seeds=2)
    observation = np.random.default_rng(0).normal(size=(4, 3))
    with torch.no_grad():
        action = algorithm.act(torch.as_tensor(observation, dtype=torch.float32).expand(2, 4, 3)).numpy()
    np.testing.assert_allclose(load_policy(path, seed_index=1).act(observation), action[1], rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="2 stacked seeds"):
        load_policy(path)


class Flat(nn.Module):
    """Picture and state to features."""

    def __init__(self, features: int = 6) -> None:
        super().__init__()
        self.linear = nn.Linear(4 * 4 * 1 + 2, features)

    def forward(self, observation):
        picture = observation["camera"].flatten(-3).float() / 255.0
        return self.linear(torch.cat([picture, observation["state"]], -1))


def test_dictionary_observations_with_a_custom_encoder(tmp_path: Path) -> None:
    spec = {**SPEC, "observation_shape": {"camera": [4, 4, 1], "state": [2]}}
    algorithm = BC(spec, hidden=(8,), encoder=Flat()).eval()
    path = export_policy(algorithm, tmp_path / "policy.pt")
    with pytest.raises(InputError, match="trained with a custom encoder"):
        load_policy(path)
    with pytest.raises(InputError, match="encoder differs"):
        load_policy(path, encoder=Flat(7))
    policy = load_policy(path, encoder=Flat())
    rng = np.random.default_rng(0)
    many = {"camera": rng.integers(0, 255, (5, 4, 4, 1), dtype=np.uint8), "state": rng.normal(size=(5, 2))}
    actions = policy.act(many)
    assert actions.shape == (5, 2)
    first = {key: value[0] for key, value in many.items()}
    np.testing.assert_allclose(policy.act(first), actions[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"observation lacks \['state'\]"):
        policy.act({"camera": first["camera"]})
    with pytest.raises(InputError, match="different leading dimensions"):
        policy.act({"camera": first["camera"], "state": many["state"]})
    with pytest.raises(InputError, match=r"observation.camera has shape \[4, 4, 3\]"):
        policy.act({"camera": np.zeros((4, 4, 3), np.uint8), "state": first["state"]})


class Table(OfflineAlgorithm):
    """A discrete policy: the action is the largest entry of one linear layer."""

    action_kind = "discrete"

    def __init__(self, spec, *, scale: float = 1.0, **common) -> None:
        super().__init__(spec, **common)
        self.policy = self.network(lambda: nn.Linear(spec["observation_shape"][0], spec["action_size"]))
        self.log_alpha = nn.Parameter(torch.zeros(()))

    def act(self, observation):
        return self.policy(self.normalizer(observation)).argmax(-1)


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests are not importable by name, so the class is put into a module that is."""
    import types

    module = types.ModuleType("my_algorithms")
    module.Table = Table
    monkeypatch.setitem(sys.modules, "my_algorithms", module)
    monkeypatch.setattr(Table, "__module__", "my_algorithms")


def test_discrete_actions_and_observations(importable: None, tmp_path: Path) -> None:
    spec = {"observation_shape": [4], "action_kind": "discrete", "action_size": 3}
    algorithm = Table(spec)
    policy = load_policy(export_policy(algorithm, tmp_path / "policy.pt"))
    with torch.no_grad():
        wanted = algorithm.act(torch.eye(4)).tolist()
    assert [policy.act(i) for i in range(4)] == wanted and type(policy.act(2)) is int
    assert policy.act(np.int64(3)) == wanted[3]
    many = policy.act(np.eye(4))
    assert many.tolist() == wanted and many.dtype == np.int64
    for wrong in (4, -1, 0.5):
        with pytest.raises(InputError, match="is not an index below 4"):
            policy.act(wrong)


def test_masks_of_legal_actions(tmp_path: Path) -> None:
    """One observation or several; numbers or flags; in a dict observation; and what is refused."""
    spec = {"observation_shape": {"x": [3]}, "action_kind": "discrete", "action_size": 4}
    page = DQN(spec, hidden=(8,))
    with torch.no_grad():
        page.q.mlp.linear[-1].bias.copy_(torch.tensor([0.0, 1e3, 3e3, 2e3]))
    policy = load_policy(export_policy(page, tmp_path / "policy.pt"))
    one = {"x": np.zeros(3)}
    assert policy.act(one) == 2
    assert policy.act(one, [1, 1, 0, 1]) == 3 and policy.act({**one, "action_mask": np.array([1, 1, 0, 0])}) == 1
    assert policy.act({**one, "action_mask": [1, 1, 0, 0]}, [1, 0, 0, 0]) == 0, "what is given counts"
    several = {"x": np.zeros((2, 3, 3))}
    masks = np.ones((2, 3, 4), dtype=bool)
    masks[1, 2, 2:] = False
    assert policy.act(several, masks).tolist() == [[2, 2, 2], [2, 2, 1]]
    for mask, said in (
        ([1, 1], r"of shape \[4\], one flag for every action, got int64 of shape \[2\]"),
        ([1, 1, 2, 0], "true or false"),
        ([0, 0, 0, 0], "forbids every action; at least one must be legal"),
    ):
        with pytest.raises(InputError, match=said):
            policy.act(one, mask)
    with pytest.raises(InputError, match="this policy's are continuous: leave it out"):
        load_policy(export_policy(build(BC), tmp_path / "bc.pt")).act([0.0, 0.0, 0.0], [1, 1])
    page.act = lambda observation: torch.zeros(1)  # a page of one's own that knows nothing of masks
    with pytest.raises(InputError, match="DQN cannot be told which actions are legal: give its act"):
        Policy(page, spec, {}).act(one, [1, 1, 1, 1])


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros(4), "has 4 features but the policy was trained on 3"),
        (np.zeros((5, 2)), "has 2 features but the policy was trained on 3"),
        ([0.0, float("nan"), 0.0], "NaN or infinite"),
        ({"state": np.zeros(3)}, "is a dictionary, the policy was trained on arrays"),
        ("north", "must be numbers"),
        ([[0.0, 1.0], [2.0]], "must be numbers"),
    ],
)
def test_bad_observations(tmp_path: Path, observation, message: str) -> None:
    policy = load_policy(export_policy(build(BC), tmp_path / "policy.pt"))
    with pytest.raises(InputError, match=message):
        policy.act(observation)


def altered(path: Path, **changes) -> Path:
    content = torch.load(path, weights_only=True)
    content.update(changes)
    torch.save(content, path)
    return path


def test_bad_files(tmp_path: Path) -> None:
    good = export_policy(build(BC), tmp_path / "policy.pt")
    data = good.read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(data[: len(data) // 2])
    noise = tmp_path / "noise.pt"
    noise.write_bytes(b"hello")
    other = tmp_path / "other.pt"
    torch.save({"weights": torch.zeros(3)}, other)
    objects = tmp_path / "objects.pt"
    torch.save({"x": Path("a")}, objects)

    def copy(name: str, **changes) -> Path:
        target = tmp_path / name
        target.write_bytes(data)
        return altered(target, **changes)

    weights = torch.load(good, weights_only=True)["state_dict"]
    fewer = {key: value for key, value in weights.items() if "weight" not in key}
    for path, message in [
        (tmp_path / "none.pt", "no policy at"),
        (cut, "damaged or was cut short"),
        (noise, "damaged or was cut short"),
        (other, r"neither a policy nor a checkpoint of lightning_offrl \(it has weights\)"),
        (objects, "holds Python objects"),
        (copy("new.pt", offrl_policy=99), "has format 99, this version reads up to 2"),
        (
            copy("gone.pt", algorithm="no_such_package.Algo"),
            "no_such_package.Algo, which is not of lightning_offrl.*add --import no_such_package",
        ),
        (
            copy("name.pt", algorithm="lightning_offrl.algorithms.bc.BCC"),
            "BCC, which this version of lightning_offrl does not have",
        ),
        (copy("kind.pt", algorithm="collections.OrderedDict"), "is not an algorithm of lightning_offrl"),
        (copy("args.pt", hyper_parameters={"spec": SPEC, "wings": 2}), "does not take the arguments"),
        (copy("size.pt", hyper_parameters={"spec": SPEC, "hidden": (4,)}), "do not fit BC"),
        (copy("fewer.pt", state_dict=fewer), "do not fit BC"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            load_policy(path)
        assert "\n" not in str(caught.value), path


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = export_policy(build(BC, seed=1), tmp_path / "policy.pt")
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(InputError, match="No space left on device.*unharmed"):
        export_policy(build(BC, seed=2), path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_arguments_that_cannot_be_loaded_are_refused_when_written(importable: None, tmp_path: Path) -> None:
    spec = {"observation_shape": [4], "action_kind": "discrete", "action_size": 3}
    with pytest.raises(InputError, match="not plain values"):
        export_policy(Table(spec, scale=Path("x")), tmp_path / "policy.pt")
    assert not list(tmp_path.iterdir())


def test_float64_policies_keep_their_precision(tmp_path: Path) -> None:
    algorithm = build(BC).double()
    policy = load_policy(export_policy(algorithm, tmp_path / "policy.pt"))
    observation = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = algorithm.act(torch.as_tensor(observation, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(policy.act_scaled(torch.as_tensor(observation)).numpy(), wanted, rtol=1e-12)


def test_acts_in_a_fresh_process_without_the_random_state_moving(tmp_path: Path) -> None:
    algorithm = build(IQL)
    path = export_policy(algorithm, tmp_path / "policy.pt")
    code = (
        "import torch, lightning_offrl\n"
        "before = torch.get_rng_state()\n"
        f"policy = lightning_offrl.load_policy({str(path)!r})\n"
        "action = policy.act([1.0, 2.0, 3.0])\n"
        "assert torch.equal(before, torch.get_rng_state())\n"
        "print(*action.tolist())\n"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    wanted = expected(algorithm, np.array([[1.0, 2.0, 3.0]]))[0]
    np.testing.assert_allclose([float(x) for x in out.split()], wanted, rtol=1e-5)
