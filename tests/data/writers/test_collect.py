"""Collection: what is written is what happened, and reads back as episodes."""

from __future__ import annotations

import math
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
import torch
from minari.dataset.minari_storage import MinariStorage

from lightning_offrl.data.readers import load
from lightning_offrl.data.writers.collect import Collected, collect, collect_arrays
from lightning_offrl.envs import play
from lightning_offrl.envs.controllers import behaviors, pendulum
from lightning_offrl.envs.make import environment_spec, make_environment
from lightning_offrl.errors import InputError


@pytest.fixture(autouse=True)
def few_reference_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(play, "REFERENCE_EPISODES", 3)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


@pytest.fixture
def collected(root: Path) -> Collected:
    return collect("Pendulum-v1", "test/pendulum-v0", episodes=8, seed=3)


def test_the_dataset_holds_whole_episodes(collected: Collected) -> None:
    dataset = minari.load_dataset("test/pendulum-v0")
    episodes = list(dataset.iterate_episodes())
    assert len(episodes) == 8 and dataset.env_spec.id == "Pendulum-v1"
    for episode, total in zip(episodes, collected.returns, strict=True):
        assert len(episode.observations) == 201 and len(episode.actions) == 200
        assert not episode.terminations.any()
        assert episode.truncations.tolist() == [False] * 199 + [True]
        assert episode.rewards.sum() == pytest.approx(total)
        assert episode.infos["behavior_log_prob"].shape == (200,)
    counts = {name: collected.names.count(name) for name in set(collected.names)}
    assert counts == {
        "random": 3,
        "controller reversed, quality 0.6": 1,
        "controller, quality 0.4": 2,
        "controller, quality 0.9": 2,
    }
    for name in counts:
        assert name in dataset.storage.metadata["description"] and name in collected.table
    assert "8 were truncated" in collected.table


def test_logged_densities_are_those_of_the_behavior(collected: Collected) -> None:
    spec = environment_spec(make_environment("Pendulum-v1"))
    by_name = {behavior.name: behavior for _, behavior in behaviors("Pendulum-v1", spec)}
    for episode, name in zip(minari.load_dataset("test/pendulum-v0"), collected.names, strict=True):
        for t in (0, 57, 199):
            expected = by_name[name].log_prob(episode.observations[t], episode.actions[t])
            assert episode.infos["behavior_log_prob"][t] == pytest.approx(expected, abs=1e-12)


def test_reads_back_through_load(collected: Collected, tmp_path: Path) -> None:
    episodes = load("test/pendulum-v0", cache_dir=tmp_path / "cache")
    assert episodes.environment == "Pendulum-v1" and episodes.references == pytest.approx(collected.references)
    assert episodes.n_episodes == 8 and len(episodes) == 1600
    np.testing.assert_allclose(episodes.returns(), collected.returns, rtol=1e-5)
    data = episodes.data
    assert data["next", "truncated"].sum() == 8 and data["next", "terminated"].sum() == 0
    assert data["action"].abs().max() <= 1.0
    raw = np.concatenate([e.infos["behavior_log_prob"] for e in minari.load_dataset("test/pendulum-v0")])
    # The density of a scaled action is half range times that of the action: + log 2.
    np.testing.assert_allclose(data["behavior_log_prob"].numpy(), raw + math.log(2.0), rtol=1e-5, atol=1e-5)
    assert not episodes.notes


def test_arrays_in_memory_are_the_same_episodes(collected: Collected, tmp_path: Path) -> None:
    stored = load("test/pendulum-v0", cache_dir=tmp_path / "cache")
    direct = load(collect_arrays("Pendulum-v1", episodes=8, seed=3))
    for key in ("observation", "action", ("next", "reward"), ("next", "observation"), "behavior_log_prob"):
        torch.testing.assert_close(direct.data[key], stored.data[key])
    assert direct.references == pytest.approx(stored.references) and direct.environment == "Pendulum-v1"


def test_discrete_actions(root: Path, tmp_path: Path) -> None:
    done = collect("CartPole-v1", "test/cart-v0", episodes=6, quality=[0, 0.9])
    assert done.references == (pytest.approx(done.references[0]), 500.0)
    episodes = load("test/cart-v0", cache_dir=tmp_path / "cache")
    assert episodes.data["action"].dtype == torch.int64
    ended = int(episodes.data["next", "terminated"].sum())
    assert 1 <= ended <= 6 and ended + int(episodes.data["next", "truncated"].sum()) == 6
    p = episodes.data["behavior_log_prob"].exp()
    values = torch.tensor([0.05, 0.5, 0.95])
    assert (p[:, None] - values).abs().amin(-1).max() < 1e-6


def test_seeds(root: Path) -> None:
    a = collect("Pendulum-v1", "test/a-v0", episodes=2, quality=0.5, seed=1)
    b = collect("Pendulum-v1", "test/b-v0", episodes=3, quality=0.5, seed=1)
    c = collect("Pendulum-v1", "test/c-v0", episodes=2, quality=0.5, seed=2)
    assert a.returns.tolist() == b.returns[:2].tolist() != c.returns.tolist()


def test_a_policy_in_place_of_the_controller(root: Path) -> None:
    done = collect("Pendulum-v1", "test/p-v0", episodes=2, quality=1.0, noise=0.0, policy=lambda o: -pendulum(o))
    assert set(done.names) == {"policy, quality 1"} and "no behavior log density" in done.table
    assert done.returns.mean() < -1000
    episode = minari.load_dataset("test/p-v0")[0]
    assert not episode.infos


def test_an_exported_policy(root: Path, tmp_path: Path) -> None:
    from lightning_offrl.algorithms.bc import BC
    from lightning_offrl.policy import export_policy, load_policy

    algorithm = BC(environment_spec(make_environment("Pendulum-v1")), hidden=(8,))
    policy = load_policy(export_policy(algorithm, tmp_path / "policy.pt"))
    done = collect("Pendulum-v1", "test/bc-v0", episodes=1, quality=1.0, policy=policy)
    episode = minari.load_dataset("test/bc-v0")[0]
    with torch.no_grad():
        intended = 2.0 * algorithm.eval().act(torch.from_numpy(episode.observations[:-1])).numpy()
    assert np.abs(episode.actions - intended).mean() < 0.3  # the noise has standard deviation 0.2
    assert len(done.returns) == 1
    with pytest.raises(InputError, match="the policy was trained on"):
        collect("CartPole-v1", "test/bc2-v0", episodes=1, quality=1.0, policy=policy)


@pytest.mark.parametrize("name", ["x/name-v0", "name", "test/name", "test/na me-v0", "", "../up-v0"])
def test_bad_ids_write_nothing(root: Path, name: str) -> None:
    with pytest.raises(InputError, match="is not a dataset id"):
        collect("Pendulum-v1", name, episodes=1)
    assert not list(root.iterdir())
    minari.list_local_datasets()


def test_existing_ids_need_overwrite(collected: Collected) -> None:
    with pytest.raises(InputError, match="already exists .*--overwrite"):
        collect("Pendulum-v1", "test/pendulum-v0", episodes=1)
    again = collect("Pendulum-v1", "test/pendulum-v0", episodes=2, quality=0.0, overwrite=True)
    assert len(list(minari.load_dataset("test/pendulum-v0"))) == 2
    assert [p.name for p in again.path.parent.iterdir() if p.is_dir()] == ["pendulum-v0"]


def test_a_failed_overwrite_keeps_the_old_dataset(collected: Collected, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(MinariStorage, "update_metadata", fail)
    with pytest.raises(KeyboardInterrupt):
        collect("Pendulum-v1", "test/pendulum-v0", episodes=2, quality=0.0, overwrite=True)
    assert len(list(minari.load_dataset("test/pendulum-v0"))) == 8
    assert [path.name for path in collected.path.parent.iterdir() if path.is_dir()] == ["pendulum-v0"]


@pytest.mark.parametrize(
    ("environment", "arguments", "message"),
    [
        ("Pendlum-v1", {}, "nearest: Pendulum-v1"),
        ("Pendulum-v1", {"episodes": 0}, "at least 1 episode"),
        ("Pendulum-v1", {"quality": 2.0}, "numbers from 0"),
        ("Pendulum-v1", {"policy": "nothing.pt"}, "got str; read a file with lightning_offrl.load_policy"),
    ],
)
def test_bad_input(root: Path, environment: str, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        collect(environment, "test/x-v0", **arguments)
    assert not list(root.iterdir())


def test_an_unsupported_space_is_a_sentence(root: Path) -> None:
    class Odd(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 1, (1,))
        action_space = gymnasium.spaces.MultiDiscrete([2, 2])

    gymnasium.register("Odd-v0", entry_point=Odd)
    try:
        with pytest.raises(InputError, match="MultiDiscrete is not supported"):
            collect("Odd-v0", "test/odd-v0", episodes=1)
    finally:
        del gymnasium.registry["Odd-v0"]
