"""Environments that cannot be made: each with its sentence."""

from __future__ import annotations

import gymnasium
import pytest

from lightning_offrl.envs.make import check_match, environment_spec, make_environment
from lightning_offrl.errors import InputError


def fails(problem: Exception):
    def entry(**kwargs):
        raise problem

    return entry


@pytest.fixture(autouse=True)
def broken():
    problems = {
        "NoPygame-v0": gymnasium.error.DependencyNotInstalled("pygame is not installed"),
        "NoMujoco-v0": ImportError("No module named 'mujoco'"),
        "Odd-v0": RuntimeError("the moon is full"),
    }
    for name, problem in problems.items():
        gymnasium.register(name, entry_point=fails(problem))
    yield
    for name in problems:
        del gymnasium.registry[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Pendulm-v1", r"no environment 'Pendulm-v1' \(nearest: Pendulum-v1"),
        ("pendulum-v1", "nearest: Pendulum-v1"),
        ("Pendulum-v7", "nearest: Pendulum-v1"),
        ("Zzzzqqq-v0", "pprint_registry"),
        ("nosuchpackage:Foo-v0", "no package 'nosuchpackage' to import"),
        ("HalfCheetah-v2", "use the version v5"),
        ("NoPygame-v0", r'pip install "gymnasium\[classic-control\]"'),
        ("NoMujoco-v0", r'pip install "gymnasium\[mujoco\]"'),
        ("Odd-v0", "RuntimeError: the moon is full"),
        ("", "given by its Gymnasium id"),
    ],
)
def test_sentences(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_environment(name, trusted=True)
    assert "\n" not in str(caught.value)


def test_makes_ids_and_stored_specifications() -> None:
    env = make_environment("Pendulum-v1")
    again = make_environment(env.spec.to_json())
    assert again.spec.id == "Pendulum-v1" and again.spec.max_episode_steps == 200
    assert environment_spec(again)["action_high"] == [2.0]


def test_check_match_names_both_sides() -> None:
    pendulum = environment_spec(make_environment("Pendulum-v1"))
    cartpole = environment_spec(make_environment("CartPole-v1"))
    check_match(pendulum, {**pendulum, "action_high": [3.0]}, "Wider-v0")  # other bounds are no obstacle
    with pytest.raises(InputError, match=r"observations of shape \[4\], the policy was trained on \[3\]"):
        check_match(pendulum, cartpole, "CartPole-v1")
    with pytest.raises(InputError, match="actions of kind discrete, the policy was trained on box"):
        check_match({**pendulum, "observation_shape": [4]}, cartpole, "CartPole-v1")
    with pytest.raises(InputError, match="2 actions, the policy was trained on 3"):
        check_match({**cartpole, "action_size": 3}, cartpole, "CartPole-v1")
