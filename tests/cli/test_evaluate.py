"""``offrl evaluate``: the table, the film, and what is said when something is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lightning_offrl.algorithms.bc import BC
from lightning_offrl.cli.evaluate import evaluate_checkpoint
from lightning_offrl.envs.make import environment_spec, make_environment
from lightning_offrl.envs.rollout import evaluate
from lightning_offrl.errors import InputError
from lightning_offrl.policy import export_policy, load_policy


class Data:
    """What an algorithm's trainer knows of its data."""

    environment = "Pendulum-v1"

    def describe(self):
        return {
            "name": "toy",
            "fingerprint": "f" * 32,
            "environment": self.environment,
            "references": [-1200.0, -200.0],
        }


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    algorithm = BC(environment_spec(make_environment("Pendulum-v1")), hidden=(8,))
    algorithm.__dict__["_trainer"] = type("T", (), {"datamodule": Data()})()
    return export_policy(algorithm, tmp_path / "policy.pt")


def test_the_table(policy: Path) -> None:
    text = evaluate_checkpoint(policy, episodes=3, seed=40)
    seen = evaluate(load_policy(policy).act_scaled, "Pendulum-v1", episodes=3, seed=40)
    for i, value in enumerate(seen.returns):
        score = (value + 1200.0) / 10.0
        assert f"{40 + i:>12}  {value:10.2f}  {score:7.1f}     200  truncated" in text
    assert f"return {seen.mean:.2f} +- {seen.standard_error:.2f}" in text
    assert f"score  {(seen.mean + 1200) / 10:.1f} +- {seen.standard_error / 10:.1f}" in text
    assert "BC, 0 updates on toy, in Pendulum-v1" in text


def test_the_film_shows_the_median_episode(policy: Path, tmp_path: Path) -> None:
    text = evaluate_checkpoint(policy, episodes=3, seed=40, video=tmp_path / "a.gif")
    returns = evaluate(load_policy(policy).act_scaled, "Pendulum-v1", episodes=3, seed=40).returns
    middle = int(np.argsort(returns)[1])
    assert f"seed {40 + middle} (return {returns[middle]:.2f}, 201 frames)" in text
    assert (tmp_path / "a.gif").stat().st_size > 1000


def test_a_film_that_fails_leaves_the_table(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dark(*args, **kwargs):
        raise InputError("Pendulum-v1 cannot be drawn here")

    monkeypatch.setattr("lightning_offrl.envs.video.record", dark)
    text = evaluate_checkpoint(policy, episodes=1, video=tmp_path / "a.gif")
    assert "no video: Pendulum-v1 cannot be drawn here" in text and "return " in text


def test_sentences(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="as .gif or .mp4"):
        evaluate_checkpoint(policy, video="film.avi")
    with pytest.raises(InputError, match="CartPole-v1 has observations of shape"):
        evaluate_checkpoint(policy, "CartPole-v1")
    with pytest.raises(InputError, match="no policy at"):
        evaluate_checkpoint(tmp_path / "none.ckpt")
    bare = export_policy(BC(environment_spec(make_environment("Pendulum-v1")), hidden=(8,)), tmp_path / "bare.pt")
    with pytest.raises(InputError, match="name one with --environment"):
        evaluate_checkpoint(bare)
    assert "unknown data" in evaluate_checkpoint(bare, "Pendulum-v1", episodes=1)
