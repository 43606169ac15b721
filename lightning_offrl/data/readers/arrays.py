"""Arrays in memory to `Episodes`: where every source ends up, and where everything is checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from tensordict import TensorDict
from torch import from_numpy

from lightning_offrl.batch import Spec, log_volume, nested
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers.borders import borders, close
from lightning_offrl.data.readers.checks import (
    array_leaves,
    as_arrays,
    check_finite,
    check_rows,
    column,
    count,
    ends_of,
    flags,
    take,
)
from lightning_offrl.data.readers.spaces import (
    OVERSHOOT,
    encode,
    environment_action_space,
    infer_action_space,
    infer_observation_space,
    scale,
    spaces_of,
)
from lightning_offrl.envs.spaces import make_spec, without_mask
from lightning_offrl.errors import InputError

# Accepted names of each array: ours, D4RL's, Minari's.
NAMES = {
    "observations": ("observations", "observation"),
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "terminated": ("terminated", "terminals", "terminations"),
    "truncated": ("truncated", "timeouts", "truncations"),
    "next_observations": ("next_observations", "next_observation"),
    "behavior_log_prob": ("behavior_log_prob", "infos/action_log_probs", "infos/behavior_log_prob"),
    "action_mask": ("action_mask", "action_masks", "infos/action_mask"),
    "next_action_mask": ("next_action_mask", "next_action_masks", "infos/next_action_mask"),
}
SETTINGS = ("observation_space", "action_space", "spec", "name", "environment", "references")
Ask = Literal["typed", "file", "nobody"]
"""Whether an environment is made to learn its action space. "typed": yes, the user named it; "file": yes, within what
files may name (see `lightning_offrl.envs.make.make_environment`); "nobody": no, as wherever data is only looked at."""
KNOWN = frozenset({*SETTINGS, *(alias for aliases in NAMES.values() for alias in aliases)})
"""All keys that mean something in a dictionary of arrays."""
REQUIRED = ("observations", "actions", "rewards", "terminated")


def from_arrays(
    arrays: Mapping[str, Any], *, name: str = "arrays", lengths: Any = None, ask: Ask = "typed", strict: bool = True
) -> Episodes:
    """Check flat arrays, find the episodes, scale the actions.

    An episode ends where a flag is set, where the stored next observation is not the following row's observation, and
    at the last row. Where both flags are set the terminal wins. An episode that ends with neither is kept as truncated
    where its last next observation is stored. Without ``next_observations`` the following row is taken, so the last row
    of every truncated or unmarked episode is dropped: its next observation is unknown. The notes of the result say how
    often each of this happened.

    Args:
        arrays: the arrays and settings below, by name; the arrays also by the other names in `NAMES`.
        name: of the dataset in messages and reports, where ``arrays`` holds no ``name``.
        lengths: ``[E]`` steps of each episode, where the source knows; flags inside an episode are then an error.
        ask: who named the environment, and so whether it may be made to learn its action space; see `Ask`.
        strict: refuse keys that mean nothing here, as they may be misspelt; keys with a slash (D4RL's ``infos/...``,
            ``metadata/...``) are always let through.

    These arrays are read:

    ``observations``        ``[T, ...]`` array, or nested dictionary of these; ``[T]`` integers with a Discrete space
    ``actions``             ``[T, A]`` numbers in the units of the environment, or ``[T]`` integers
    ``rewards``             ``[T]``
    ``terminated``          ``[T]`` flags of real ends
    ``truncated``           ``[T]`` flags of episodes cut from outside; without: found where ``next_observations`` jump
    ``next_observations``   as ``observations``
    ``behavior_log_prob``   ``[T]`` log density (mass) of the action, in the units of the environment
    ``action_mask``         ``[T, n]`` flags, set for every action that was legal; without: the entry ``action_mask`` of
                            dictionary observations, where discrete actions have one, else all are legal
    ``next_action_mask``    the same of the next observations; without: those of the following rows, and the last step
                            of an episode that did not end in a terminal state is dropped, because what was legal after
                            it is unknown

    These settings may stand beside them:

    ``observation_space``   Gymnasium space; without: a Box of the shape seen
    ``action_space``        Gymnasium space; without: that of the environment if it may be asked, else a Box with the
                            bounds [-1, 1] for floats, and for integers as many actions as the mask has, or were seen
    ``spec``                a `lightning_offrl.batch.Spec` in place of the two spaces
    ``name``                of the dataset
    ``environment``         Gymnasium id
    ``references``          the raw returns that score 0 and 100

    Raises:
        InputError: for a missing or unknown key, arrays that do not fit together, values that are not finite, and
            actions out of range.

    >>> import numpy as np
    >>> walk = {"observations": np.eye(3), "actions": np.zeros((3, 1)), "rewards": [0.0, 0.0, 1.0]}
    >>> from_arrays({**walk, "terminated": [False, False, True], "truncated": [False] * 3})
    Episodes('arrays', 1 episodes, 3 transitions)
    """
    found, settings = _named(arrays, name, strict)
    name = settings.get("name", name)
    notes: list[str] = []
    rows = _checked(found, settings, lengths, name)
    has_timeouts = rows.timeout is not None
    observation_space, action_space = _spaces(rows, settings, ask, name, notes)
    spec = make_spec(observation_space, action_space)
    rows.action = scale(rows.action, spec, rows.ends, name)
    rows.observation = encode(rows.observation, observation_space, "observations", rows.ends, name)
    if rows.following is not None:
        rows.following = encode(rows.following, observation_space, "next_observations", rows.ends, name)
    if rows.mask is not None or rows.next_mask is not None:
        from lightning_offrl.data.readers.action_masks import masks

        rows.mask, rows.next_mask = masks(rows.mask, rows.next_mask, rows.action, spec, rows.ends, name)
    if lengths is None:
        rows.ends = borders(rows.ends, rows.observation, rows.following, has_timeouts, name, notes)
    rows = _whole_episodes(rows, has_timeouts, name, notes)
    last = np.flatnonzero(rows.ends)
    length = np.diff(last, prepend=-1)
    return Episodes(
        data=_table(rows, spec),
        start=from_numpy(last - length + 1),
        length=from_numpy(length),
        spec=spec,
        name=name,
        environment=settings.get("environment"),
        references=_references(settings.get("references"), name),
        notes=notes,
    )


@dataclass
class _Rows:
    """One row for each step, ``[T, ...]``; ``ends`` is set at the last step of every episode, as far as is known."""

    observation: Any
    following: Any
    action: np.ndarray
    reward: np.ndarray
    log_prob: np.ndarray | None
    mask: Any
    next_mask: Any
    terminal: np.ndarray
    timeout: np.ndarray | None
    ends: np.ndarray


def _named(arrays: Mapping[str, Any], name: str, strict: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays by our names, and the settings that stand beside them."""
    found: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    known = {alias: key for key, aliases in NAMES.items() for alias in aliases}
    for given, value in arrays.items():
        if given in SETTINGS:
            settings[given] = value
        elif given not in known:
            if strict and "/" not in str(given):
                near = difflib.get_close_matches(str(given), [*known, *SETTINGS], 1)
                raise InputError(
                    f"{name} has the key {given!r}, which means nothing here"
                    + (f"; did you mean {near[0]!r}?" if near else f"; known are {sorted([*known, *SETTINGS])}")
                )
        elif known[given] in found:
            raise InputError(f"{name} gives {known[given]} twice, as {' and '.join(NAMES[known[given]])}; keep one")
        else:
            found[known[given]] = value
    missing = [" or ".join(NAMES[key]) for key in REQUIRED if found.get(key) is None]
    if missing:
        raise InputError(
            f"{name} lacks {'; '.join(missing)}: observations, actions, rewards and terminals are needed, it has "
            f"{sorted(map(str, arrays)) or 'nothing'}"
        )
    return found, settings


def _checked(found: dict[str, Any], settings: dict[str, Any], lengths: Any, name: str) -> _Rows:
    """The arrays as they came, once all have one finite row for each step."""
    reward = column(found["rewards"], "rewards", name)
    rows = len(reward)
    if rows == 0:
        raise InputError(f"{name} is empty: it has no transitions")
    if settings.get("spec") is not None:
        given = spaces_of(settings["spec"], found["observations"])
        settings["observation_space"], settings["action_space"] = given
    observation, following = as_arrays(found["observations"]), found.get("next_observations")
    following = None if following is None else as_arrays(following)
    action = as_arrays(found["actions"], "actions")
    if isinstance(action, dict):
        raise InputError(f"actions of {name} are a dictionary, but must be one array; put them side by side")
    masks = found.get("action_mask"), found.get("next_action_mask")
    if action.dtype.kind in "iub" and isinstance(observation, dict):
        from lightning_offrl.data.readers.action_masks import holds_mask

        if holds_mask(observation, settings.get("observation_space"), settings.get("action_space")):
            inside = (
                observation.pop("action_mask"),
                following.pop("action_mask", None) if isinstance(following, dict) else None,
            )
            masks = inside if masks[0] is None else masks
    log_prob = found.get("behavior_log_prob")
    log_prob = None if log_prob is None else column(log_prob, "behavior_log_prob", name)
    columns = [("rewards", reward), ("actions", action), *array_leaves(observation, "observations")]
    columns += [] if following is None else array_leaves(following, "next_observations")
    columns += [] if log_prob is None else [("behavior_log_prob", log_prob)]
    for label, one in columns:
        check_rows(one, label, rows, name)
    terminal, timeout = flags(found["terminated"], "terminated", rows, name), found.get("truncated")
    timeout = None if timeout is None else flags(timeout, "truncated", rows, name)
    # The borders that are known before the numbers are looked at, to say where a bad number is.
    ends = terminal.copy() if timeout is None else terminal | timeout
    if lengths is not None:
        ends = ends_of(np.asarray(lengths, dtype=np.int64), ends, name)
    for label, one in columns:
        check_finite(one, label, ends, name)
    return _Rows(observation, following, action, reward, log_prob, *masks, terminal, timeout, ends)


def _spaces(rows: _Rows, settings: dict[str, Any], ask: Ask, name: str, notes: list[str]) -> tuple[Any, Any]:
    """The two spaces: those given, else inferred; the observation's without a mask of legal actions."""
    observation_space, action_space = settings.get("observation_space"), settings.get("action_space")
    environment = settings.get("environment")
    if observation_space is None:
        observation_space = infer_observation_space(rows.observation, "observations", name)
    if action_space is None:
        known = None
        if environment is not None and ask != "nobody":
            known = environment_action_space(environment, trusted=ask == "typed")
        action_space = infer_action_space(rows.action, known, name, notes, rows.mask)
        if environment is not None and ask == "nobody" and rows.action.dtype.kind == "f":
            _check_bounds(rows.action, environment, name, notes)
    return without_mask(observation_space, action_space), action_space


def _whole_episodes(rows: _Rows, has_timeouts: bool, name: str, notes: list[str]) -> _Rows:
    """The rows to keep, with exactly one flag at the end of every episode, and what follows each step."""
    terminal = rows.terminal
    timeout = np.zeros(len(terminal), dtype=bool) if rows.timeout is None else rows.timeout
    both = terminal & timeout
    if both.any():
        notes.append(f"{count(int(both.sum()), 'step')} had both flags: taken as terminal")
        timeout = timeout & ~terminal
    unknown = "next_observations" if rows.following is None else "next_action_mask"
    known = rows.following is not None and (rows.mask is None or rows.next_mask is not None)
    keep, timeout = close(terminal, timeout, rows.ends, None if known else unknown, has_timeouts, notes)
    # After a terminal state nothing is bootstrapped, so any observation, and any mask, does.
    ahead = np.arange(len(terminal)) + (keep & ~terminal)
    following, next_mask = rows.following, rows.next_mask
    if following is None:
        following = take(rows.observation, ahead)
    if rows.mask is not None:
        from lightning_offrl.data.readers.action_masks import check_goes_on

        next_mask = take(rows.mask, ahead) if next_mask is None else next_mask
        check_goes_on(next_mask, keep & ~terminal, rows.ends, name)
    if not keep.any():
        raise InputError(
            f"{name} is empty once the last step of each unfinished episode is dropped (what came after it is "
            f"unknown); give {unknown}, or longer episodes"
        )
    rows = replace(rows, following=following, next_mask=next_mask, timeout=timeout, ends=terminal | timeout)
    return rows if keep.all() else _Rows(**{key: take(value, keep) for key, value in vars(rows).items()})


def _table(rows: _Rows, spec: Spec) -> TensorDict:
    """The rows in the form of `Episodes.data`."""
    size = [len(rows.reward)]
    data: dict[str, Any] = {
        "observation": nested(rows.observation, size),
        "action": from_numpy(rows.action),
        "next": {
            "observation": nested(rows.following, size),
            "reward": from_numpy(rows.reward.astype(np.float32)),
            "terminated": from_numpy(rows.terminal),
            "truncated": from_numpy(rows.timeout),
        },
    }
    if rows.log_prob is not None:
        data["behavior_log_prob"] = from_numpy((rows.log_prob + log_volume(spec)).astype(np.float32))
    if rows.mask is not None:
        data["action_mask"], data["next"]["action_mask"] = from_numpy(rows.mask), from_numpy(rows.next_mask)
    return TensorDict(data, batch_size=size)


def _check_bounds(action: np.ndarray, environment: str, name: str, notes: list[str]) -> None:
    """Say that the bounds are not known, or refuse actions that show that they are others than [-1, 1]."""
    from lightning_offrl.envs.make import environment_name, may_be_made

    if not may_be_made(environment):
        return
    shown = environment_name(environment)
    how = f"offrl data convert reads the file once with those of {shown}"
    if np.abs(action).max() > 1.0 + OVERSHOOT:
        raise InputError(
            f"{name} does not store the bounds of its actions, and some lie outside of [-1, 1]; {how}: offrl data "
            f"convert FILE {name.replace('_', '-')}/data-v0, with --environment ID for another one"
        )
    notes.append(f"the bounds of the actions are not stored: taken as [-1, 1]; {how}")


def _references(value: Any, name: str) -> tuple[float, float] | None:
    if value is None:
        return None
    low, high = (float(v) for v in value)
    if not (np.isfinite([low, high]).all() and low < high):
        raise InputError(f"the reference returns of {name} must be two numbers, low < high, got {low:g} and {high:g}")
    return low, high
