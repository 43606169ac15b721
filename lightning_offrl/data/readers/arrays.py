"""Arrays in memory to `Episodes`: where every source ends up, and where everything is checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from tensordict import TensorDict
from torch import from_numpy

from lightning_offrl.batch import log_volume, nested
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers.action_masks import check_goes_on, holds_mask, masks
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

# Largest difference between a next observation and the following row's observation that is still the same state.
SAME_STATE = 1e-6

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
    name, environment = settings.get("name", name), settings.get("environment")
    observation_space, action_space = settings.get("observation_space"), settings.get("action_space")
    observations, next_observations = found["observations"], found.get("next_observations")
    truncated, behavior_log_prob = found.get("truncated"), found.get("behavior_log_prob")
    action_mask, next_action_mask = found.get("action_mask"), found.get("next_action_mask")
    notes: list[str] = []
    reward = column(found["rewards"], "rewards", name)
    rows = len(reward)
    if rows == 0:
        raise InputError(f"{name} is empty: it has no transitions")
    if settings.get("spec") is not None:
        observation_space, action_space = spaces_of(settings["spec"], observations)
    raw, raw_next = as_arrays(observations), None if next_observations is None else as_arrays(next_observations)
    action = as_arrays(found["actions"], "actions")
    if isinstance(action, dict):
        raise InputError(f"actions of {name} are a dictionary, but must be one array; put them side by side")
    if action.dtype.kind in "iub" and holds_mask(raw, observation_space, action_space):
        inside = raw.pop("action_mask"), raw_next.pop("action_mask", None) if isinstance(raw_next, dict) else None
        action_mask, next_action_mask = inside if action_mask is None else (action_mask, next_action_mask)
    log_prob = None if behavior_log_prob is None else column(behavior_log_prob, "behavior_log_prob", name)
    columns = [("rewards", reward), ("actions", action), *array_leaves(raw, "observations")]
    columns += [] if raw_next is None else array_leaves(raw_next, "next_observations")
    columns += [] if log_prob is None else [("behavior_log_prob", log_prob)]
    for label, one in columns:
        check_rows(one, label, rows, name)
    terminal = flags(found["terminated"], "terminated", rows, name)
    timeout = None if truncated is None else flags(truncated, "truncated", rows, name)
    # The borders that are known before the numbers are looked at, to say where a bad number is.
    ends = terminal.copy() if timeout is None else terminal | timeout
    if lengths is not None:
        ends = ends_of(np.asarray(lengths, dtype=np.int64), ends, name)
    for label, one in columns:
        check_finite(one, label, ends, name)

    if observation_space is None:
        observation_space = infer_observation_space(raw, "observations", name)
    if action_space is None:
        known = None
        if environment is not None and ask != "nobody":
            known = environment_action_space(environment, trusted=ask == "typed")
        action_space = infer_action_space(action, known, name, notes, action_mask)
        if environment is not None and ask == "nobody" and action.dtype.kind == "f":
            _check_bounds(action, environment, name, notes)
    observation_space = without_mask(observation_space, action_space)
    spec = make_spec(observation_space, action_space)
    scaled = scale(action, spec, ends, name)
    observation = encode(raw, observation_space, "observations", ends, name)
    following = None if raw_next is None else encode(raw_next, observation_space, "next_observations", ends, name)
    mask, next_mask = masks(action_mask, next_action_mask, scaled, spec, ends, name)

    if lengths is None:
        ends = _borders(ends, observation, following, timeout is not None, name, notes)
    timeout = np.zeros(rows, dtype=bool) if timeout is None else timeout
    both = terminal & timeout
    if both.any():
        notes.append(f"{count(int(both.sum()), 'step')} had both flags: taken as terminal")
        timeout = timeout & ~terminal
    unknown = "next_observations" if following is None else "next_action_mask"
    known = following is not None and (mask is None or next_mask is not None)
    keep, timeout = _close(terminal, timeout, ends, None if known else unknown, truncated is not None, notes)
    # After a terminal state nothing is bootstrapped, so any observation, and any mask, does.
    ahead = np.arange(rows) + (keep & ~terminal)
    if following is None:
        following = take(observation, ahead)
    if mask is not None:
        next_mask = take(mask, ahead) if next_mask is None else next_mask
        check_goes_on(next_mask, keep & ~terminal, ends, name)
    if not keep.any():
        raise InputError(
            f"{name} is empty once the last step of each unfinished episode is dropped (what came after it is "
            f"unknown); give {unknown}, or longer episodes"
        )
    if not keep.all():
        observation, following, scaled, reward, terminal, timeout, log_prob, mask, next_mask = (
            take(one, keep)
            for one in (observation, following, scaled, reward, terminal, timeout, log_prob, mask, next_mask)
        )
    last = np.flatnonzero(terminal | timeout)
    length = np.diff(last, prepend=-1)

    size = [len(reward)]
    data: dict[str, Any] = {
        "observation": nested(observation, size),
        "action": from_numpy(scaled),
        "next": {
            "observation": nested(following, size),
            "reward": from_numpy(reward.astype(np.float32)),
            "terminated": from_numpy(terminal),
            "truncated": from_numpy(timeout),
        },
    }
    if log_prob is not None:
        data["behavior_log_prob"] = from_numpy((log_prob + log_volume(spec)).astype(np.float32))
    if mask is not None:
        data["action_mask"], data["next"]["action_mask"] = from_numpy(mask), from_numpy(next_mask)
    return Episodes(
        data=TensorDict(data, batch_size=size),
        start=from_numpy(last - length + 1),
        length=from_numpy(length),
        spec=spec,
        name=name,
        environment=environment,
        references=_references(settings.get("references"), name),
        notes=notes,
    )


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


def _borders(
    ends: np.ndarray, observation: Any, following: Any, has_timeouts: bool, name: str, notes: list[str]
) -> np.ndarray:
    """Last steps of all episodes, ``[T]`` bool: where a flag is, where the observations jump, and the last row."""
    ends = ends.copy()
    if following is not None:
        jumps = np.append(differ(following, observation), False) & ~ends
        if has_timeouts and jumps.any():
            notes.append(
                f"in {count(int(jumps.sum()), 'place')} the stored next observation is not the following row's "
                "although no flag is set: taken as the end of an episode"
            )
        if jumps.sum() > len(ends) // 2:
            notes.append(
                "most rows do not follow each other (shuffled?), so returns, n-step rewards and Monte-Carlo returns of "
                "this dataset mean nothing"
            )
        ends |= jumps
    elif not has_timeouts:
        raise InputError(
            f"{name} has neither timeouts nor next_observations, so it cannot be seen where episodes end; give one of "
            "them (timeouts of zeros if every episode ends in a terminal state)"
        )
    ends[-1] = True
    return ends


def _close(
    terminal: np.ndarray,
    timeout: np.ndarray,
    ends: np.ndarray,
    unknown: str | None,
    has_timeouts: bool,
    notes: list[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Give every episode exactly one flag at its last kept row; returns the rows to keep, and the timeouts.

    ``unknown`` names what is not known after the last row of an episode; None: everything is.
    """
    unmarked = ends & ~terminal & ~timeout
    if unknown is None:
        if unmarked.any():
            why = "with neither flag" if has_timeouts else "without a terminal state, and timeouts are not stored"
            notes.append(
                f"{count(int(unmarked.sum()), 'episode')} ended {why}: kept as truncated, because the last next "
                "observation is stored"
            )
        return np.ones(len(ends), dtype=bool), timeout | unmarked
    cut = ends & ~terminal
    if cut.any():
        parts = [
            f"{count(int(mask.sum()), 'episode')} ended {how}"
            for mask, how in ((timeout, "in a timeout"), (unmarked, "with neither flag"))
            if mask.any()
        ]
        notes.append(
            f"{' and '.join(parts)}: the last step of each was cut, because {unknown} is not stored and what came "
            "after it is unknown"
        )
    # The row before a cut one is now the last of its episode, unless the episode had no other row.
    before = np.append(cut[1:], False) & ~ends
    return ~cut, before


def differ(following: Any, observation: Any, tolerance: float = SAME_STATE) -> np.ndarray:
    """Whether each row's next observation is another state than the following row's, ``[T - 1]`` bool."""
    if isinstance(observation, dict):
        return np.any([differ(following[key], observation[key], tolerance) for key in observation], axis=0)
    left, right = following[:-1], observation[1:]
    if left.dtype == np.uint8:
        unequal = left != right
    else:
        unequal = np.abs(left - right) > tolerance * np.maximum(1.0, np.abs(right))
    return unequal.any(axis=tuple(range(1, unequal.ndim)))


def _references(value: Any, name: str) -> tuple[float, float] | None:
    if value is None:
        return None
    low, high = (float(v) for v in value)
    if not (np.isfinite([low, high]).all() and low < high):
        raise InputError(f"the reference returns of {name} must be two numbers, low < high, got {low:g} and {high:g}")
    return low, high
