"""Making a Gymnasium environment from its id, with a sentence for each way that can fail."""

from __future__ import annotations

import difflib
import importlib.util
import json
import warnings
from typing import Any

from lightning_offrl.batch import Spec, make_spec
from lightning_offrl.errors import InputError

_EXTRAS = {"mujoco": "mujoco", "pygame": "classic-control", "box2d": "box2d", "ale": "atari", "toy_text": "toy-text"}


def make_environment(environment: str, *, render_mode: str | None = None) -> Any:
    """One environment, wrapped as Gymnasium registers it (so with its time limit).

    Args:
        environment: a Gymnasium id (``"Pendulum-v1"``, ``"offrl/GridWorld-v0"``, or ``"package:Name-v0"`` to import
            ``package`` first), or the JSON of an ``EnvSpec`` as Minari stores it.
        render_mode: passed on; ``"rgb_array"`` for pictures.

    Raises:
        InputError: the id is unknown (naming the nearest ones), or what the environment needs is not installed.
    """
    import gymnasium
    from gymnasium import error
    from gymnasium.envs.registration import EnvSpec

    from lightning_offrl.envs import gridworld, sepsis  # noqa: F401  # importing registers the package's environments

    if not isinstance(environment, str) or not environment:
        raise InputError(f"an environment is given by its Gymnasium id, such as Pendulum-v1; got {environment!r}")
    extra: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is out of date.*")
            spec = EnvSpec.from_json(environment) if environment.startswith("{") else environment
            return gymnasium.make(spec, **extra)
    except InputError:
        raise
    except error.UnregisteredEnv as problem:
        raise InputError(_unknown(environment)) from problem
    except error.DependencyNotInstalled as problem:
        raise InputError(_missing(environment, problem)) from problem
    except ModuleNotFoundError as problem:
        package = environment.split(":", 1)[0] if ":" in environment else ""
        if package and importlib.util.find_spec(package.split(".", 1)[0]) is None:
            raise InputError(
                f"environment {environment!r}: there is no package {package!r} to import; install it or correct the "
                "part before the colon"
            ) from problem
        raise InputError(_missing(environment, problem)) from problem
    except ImportError as problem:
        raise InputError(_missing(environment, problem)) from problem
    except Exception as problem:
        if render_mode is not None:
            raise InputError(cannot_draw(environment, problem)) from problem
        # An environment's own constructor may raise anything; the cause stays attached.
        raise InputError(
            f"environment {environment!r} could not be made ({type(problem).__name__}: {problem}); "
            "try gymnasium.make with the same id"
        ) from problem


def environment_name(environment: str) -> str:
    """A short name for texts and titles: the id, or what a specification in JSON says in a few words.

    >>> environment_name("Pendulum-v1")
    'Pendulum-v1'
    >>> environment_name('{"id": "Hopper-v5", "kwargs": {"reset_noise_scale": 0.1}}')
    'Hopper-v5 (reset_noise_scale 0.1)'
    """
    if not environment.startswith("{"):
        return environment
    from lightning_offrl.envs.gridworld import ENTRY_POINT, grid_name

    spec = json.loads(environment)
    arguments = spec.get("kwargs") or {}
    if spec.get("entry_point") == ENTRY_POINT:
        return grid_name(arguments, spec.get("max_episode_steps"))
    words = [f"{key} {value}" for key, value in arguments.items() if len(str(value)) <= 30]
    return f"{spec['id']} ({', '.join(words)})" if words else str(spec["id"])


def environment_spec(environment: Any) -> Spec:
    """`batch.make_spec` of an environment that was made."""
    return make_spec(environment.observation_space, environment.action_space)


def check_match(policy: Spec, environment: Spec, name: str) -> None:
    """Compare the spaces a policy was trained for with an environment's.

    Raises:
        InputError: naming both sides of the first difference. Bounds of actions may differ: the policy's actions are
            put into its own units and clipped to the environment's Box.
    """
    for key, what in (("observation_shape", "observations of shape"), ("action_kind", "actions of kind")):
        if policy[key] != environment[key]:
            raise InputError(
                f"{name} has {what} {environment[key]}, the policy was trained on {policy[key]}; "
                "name the environment that the data came from"
            )
    if policy["action_size"] != environment["action_size"]:
        noun = "actions" if policy["action_kind"] == "discrete" else "action dimensions"
        raise InputError(
            f"{name} has {environment['action_size']} {noun}, the policy was trained on {policy['action_size']}; "
            "name the environment that the data came from"
        )


def cannot_draw(environment: str, problem: Exception) -> str:
    """The sentence for an environment that runs but has nothing to draw with, which fails in many different ways."""
    first = (str(problem).splitlines() or [""])[0]
    return (
        f"{environment_name(environment)} cannot be drawn here ({type(problem).__name__}: {first}); for MuJoCo set "
        "MUJOCO_GL=egl or MUJOCO_GL=osmesa and install that library, for classic control install "
        '"gymnasium[classic-control]"'
    )


def _unknown(environment: str) -> str:
    import gymnasium

    known = sorted(gymnasium.registry)
    bare = environment.rsplit(":", 1)[-1]
    near = difflib.get_close_matches(bare, known, n=3, cutoff=0.6)
    if not near:
        lower = {name.lower(): name for name in known}
        near = [lower[name] for name in difflib.get_close_matches(bare.lower(), list(lower), n=3, cutoff=0.5)]
    hint = f"nearest: {', '.join(near)}" if near else "gymnasium.pprint_registry() lists those that are installed"
    return (
        f"Gymnasium knows no environment {environment!r} ({hint}); "
        "for one of another package write package:Name-v0, so that the package is imported"
    )


def _missing(environment: str, problem: Exception) -> str:
    text = str(problem).lower()
    extra = next((extra for word, extra in _EXTRAS.items() if word in text), None)
    if "gymnasium-robotics" in text:
        advice = "use the version v5 of the environment"
    elif extra:
        advice = f'install it with pip install "gymnasium[{extra}]"'
    else:
        advice = "install what it names"
    return f"environment {environment!r} needs a package that is not installed ({problem}); {advice}"
