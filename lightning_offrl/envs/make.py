"""Making a Gymnasium environment from its id, with a sentence for each way that can fail."""

from __future__ import annotations

import difflib
import importlib.util
import json
import re
import sys
import warnings
from typing import Any

from lightning_offrl.batch import Spec
from lightning_offrl.envs.spaces import make_spec
from lightning_offrl.errors import InputError

_NAME_IT = "; if you trust it, name it yourself: --environment {} (while training: EvaluateEnv's environment)"
_CODE_OR_PATH = re.compile(
    r"(^|_)(file|filename|filepath|path|dir|directory|folder|xml|module|class|entry|wrapper|import|callable|fn|code)s?($|_)"
    r"|^(id|env|environment|env_id|make_env|env_kwargs|vector_kwargs|max_episode_steps|disable_env_checker)$",
    re.IGNORECASE,
)
"""Names of arguments that a file may not give: what they hold is opened, imported or called, or is Gymnasium's own."""
_OTHERS_CODE = re.compile(r"GymV\d+Environment|compatib", re.IGNORECASE)
_EXTRAS = {"mujoco": "mujoco", "pygame": "classic-control", "box2d": "box2d", "ale": "atari", "toy_text": "toy-text"}


def make_environment(environment: str, *, trusted: bool = False, render_mode: str | None = None) -> Any:
    """One environment, wrapped as Gymnasium registers it (so with its time limit).

    Args:
        environment: a Gymnasium id (``"Pendulum-v1"``, ``"offrl/GridWorld-v0"``), or the JSON of an ``EnvSpec`` as
            Minari stores it.
        trusted: the user named this environment, not a file: it may be ``"package:Name-v0"``, which imports
            ``package``, and a JSON may name its own constructor, wrappers and any arguments. Otherwise the environment
            is made by its id from Gymnasium's registry, with the plain arguments and the time limit of the JSON, and
            nothing is imported or called that the text names.
        render_mode: passed on; ``"rgb_array"`` for pictures.

    Raises:
        InputError: the id is unknown (naming the nearest ones), what the environment needs is not installed, or the
            text asks for more than a file may.
    """
    import gymnasium
    from gymnasium import error
    from gymnasium.envs.registration import EnvSpec

    from lightning_offrl.envs import gridworld, sepsis  # noqa: F401  # importing registers the package's environments

    if not isinstance(environment, str) or not environment:
        raise InputError(f"an environment is given by its Gymnasium id, such as Pendulum-v1; got {environment!r}")
    extra: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    spec: Any = environment
    if not trusted:
        spec, arguments = _of_a_file(environment)
        extra = {**arguments, **extra}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is out of date.*")
            if trusted and environment.startswith("{"):
                spec = EnvSpec.from_json(environment)
            return gymnasium.make(spec, **extra)
    except InputError:
        raise
    except error.UnregisteredEnv as problem:
        raise InputError(_unknown(environment)) from problem
    except error.DependencyNotInstalled as problem:
        raise InputError(_missing(environment, problem)) from problem
    except ModuleNotFoundError as problem:
        package = environment.split(":", 1)[0] if ":" in environment and environment[0] != "{" else ""
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


def _of_a_file(environment: str) -> tuple[str, dict[str, Any]]:
    """Id and arguments for ``gymnasium.make`` of an environment that a file names; see `make_environment`.

    Raises:
        InputError: for anything but a registered id with plain arguments.
    """
    import gymnasium

    spec: dict[str, Any] = {"id": environment}
    if environment.startswith("{"):
        try:
            spec = json.loads(environment)
            name = spec["id"]
            if not isinstance(name, str):
                raise TypeError(f"its id is a {type(name).__name__}")
        except (ValueError, KeyError, TypeError, RecursionError) as problem:
            raise InputError(
                f"the environment's specification is not the JSON of a Gymnasium EnvSpec ({problem}); "
                "name the environment with --environment"
            ) from problem
    name = spec["id"]
    package, _, bare = name.rpartition(":")
    if package in sys.modules and bare in gymnasium.registry:  # imported already, and not because a file says so
        name = bare
    registered = gymnasium.registry.get(name)
    if registered is None:
        raise InputError(f"{_unknown(name, by_a_file=True)}{_NAME_IT.format(name if package else f'package:{name}')}")
    arguments = spec.get("kwargs") or {}
    entry = spec.get("entry_point")
    reason = None
    if entry is not None and entry != registered.entry_point:
        reason = f"names {entry!r} to make it with, which is not how Gymnasium has registered it"
    elif spec.get("additional_wrappers"):
        reason = "asks for wrappers around it"
    elif _OTHERS_CODE.search(name):
        reason = "is a door to environments of another package"
    else:
        reason = _not_plain(arguments)
    if reason is not None:
        raise InputError(
            f"the file's environment {name} {reason}; a file may only give a registered id and plain arguments"
            f"{_NAME_IT.format(name)}"
        )
    arguments = {key: value for key, value in arguments.items() if key != "render_mode"}
    steps = spec.get("max_episode_steps")
    if steps is None:
        return name, arguments
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"max_episode_steps of the file's environment {name} must be a whole number above 0")
    return name, {**arguments, "max_episode_steps": steps}


def may_be_made(environment: str) -> bool:
    """Whether `make_environment` would make, by its id, what a file names; nothing is made to find out."""
    from lightning_offrl.envs import gridworld, sepsis  # noqa: F401  # importing registers the package's environments

    try:
        return bool(_of_a_file(environment))
    except InputError:
        return False


def _not_plain(value: Any, key: str = "") -> str | None:
    """The fault of an environment's arguments that come from a file, or None."""
    if key and _CODE_OR_PATH.search(key):
        return f"has the argument {key!r}, which may name a file or code"
    if isinstance(value, dict):
        found = (_not_plain(inner, str(name)) for name, inner in value.items())
        return next((reason for reason in found if reason is not None), None)
    if not key:
        return f"has arguments of type {type(value).__name__}"
    if isinstance(value, list):
        return next((reason for inner in value if (reason := _not_plain(inner, key)) is not None), None)
    if isinstance(value, str) and any(sign in value for sign in "/\\:"):
        return f"has the argument {key!r} = {value[:40]!r}, which may name a file or code"
    return None


def environment_name(environment: str) -> str:
    """A short name for texts and titles: the id, or what a specification in JSON says in a few words.

    >>> environment_name("Pendulum-v1")
    'Pendulum-v1'
    >>> environment_name('{"id": "Hopper-v5", "kwargs": {"reset_noise_scale": 0.1}}')
    'Hopper-v5 (reset_noise_scale 0.1)'
    """
    if not isinstance(environment, str) or not environment.startswith("{"):
        return str(environment)
    from lightning_offrl.envs.gridworld.environment import ENTRY_POINT, grid_name

    try:
        spec = json.loads(environment)
        arguments = dict(spec.get("kwargs") or {})
        if spec.get("entry_point") == ENTRY_POINT:
            return grid_name(arguments, spec.get("max_episode_steps"))
        words = [f"{key} {value}" for key, value in arguments.items() if len(str(value)) <= 30]
        return f"{spec['id']} ({', '.join(words)})" if words else str(spec["id"])
    except (InputError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # a file may say anything
        return f"a specification that cannot be read ({environment[:40]}...)"


def environment_spec(environment: Any) -> Spec:
    """`spaces.make_spec` of an environment that was made."""
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


def _unknown(environment: str, *, by_a_file: bool = False) -> str:
    import gymnasium

    known = sorted(gymnasium.registry)
    bare = environment.rsplit(":", 1)[-1]
    near = difflib.get_close_matches(bare, known, n=3, cutoff=0.6)
    if not near:
        lower = {name.lower(): name for name in known}
        near = [lower[name] for name in difflib.get_close_matches(bare.lower(), list(lower), n=3, cutoff=0.5)]
    hint = f"nearest: {', '.join(near)}" if near else "gymnasium.pprint_registry() lists those that are installed"
    if by_a_file:
        return f"Gymnasium knows no environment {environment!r} ({hint}), and files do not have packages imported"
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
