"""Arrays in memory to `Episodes`: where every source ends up, and where everything is checked."""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensordict import TensorDict
from torch import from_numpy

from lightning_offrl.batch import Spec, encode_observation, log_volume, make_spec, nested, scale_action
from lightning_offrl.data.episodes import Episodes
from lightning_offrl.errors import InputError

# Logged actions may overshoot their bounds by rounding, up to this share of the range; they are clipped.
OVERSHOOT = 1e-4
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
}
SETTINGS = ("observation_space", "action_space", "spec", "name", "environment", "references")
REQUIRED = ("observations", "actions", "rewards", "terminated")


def read(arrays: Mapping[str, Any], *, name: str = "arrays", strict: bool = True, **settings: Any) -> Episodes:
    """Episodes from a dictionary of arrays.

    Args:
        arrays: flat arrays under one of the names in `NAMES`; the values in `SETTINGS` may stand beside them.
        name: used where the dictionary holds no ``name``.
        strict: refuse keys that mean nothing here, as they may be misspelt; keys with a slash (D4RL's ``infos/...``,
            ``metadata/...``) are always let through.
        settings: further arguments of `from_arrays`.

    Raises:
        InputError: for a missing or unknown key, and all that `from_arrays` raises.
    """
    found: dict[str, Any] = {}
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
    return from_arrays(**found, **{"name": name, **settings})


def from_arrays(
    observations: Any,
    actions: Any,
    rewards: Any,
    terminated: Any,
    truncated: Any = None,
    *,
    next_observations: Any = None,
    behavior_log_prob: Any = None,
    lengths: Any = None,
    observation_space: Any = None,
    action_space: Any = None,
    spec: Spec | None = None,
    name: str = "arrays",
    environment: str | None = None,
    references: tuple[float, float] | None = None,
) -> Episodes:
    """Check flat arrays, find the episodes, scale the actions.

    An episode ends where a flag is set, where the stored next observation is not the following row's observation, and at
    the last row. Where both flags are set the terminal wins. An episode that ends with neither is kept as truncated
    where its last next observation is stored. Without ``next_observations`` the following row is taken, so the last row
    of every truncated or unmarked episode is dropped: its next observation is unknown. The notes of the result say how
    often each of this happened.

    Args:
        observations: ``[T, ...]`` array, or nested dictionary of these; ``[T]`` integers with a Discrete space.
        actions: ``[T, A]`` numbers in the units of the environment, or ``[T]`` integers.
        rewards: ``[T]``.
        terminated: ``[T]`` flags of real ends.
        truncated: ``[T]`` flags of episodes cut from outside; None: found by continuity of ``next_observations``.
        next_observations: as ``observations``.
        behavior_log_prob: ``[T]`` log density (mass) of the action, in the units of the environment.
        lengths: ``[E]`` steps of each episode, where the source knows; flags inside an episode are then an error.
        observation_space: Gymnasium space; None: a Box of the shape seen.
        action_space: Gymnasium space; None: that of the environment if it can be made, else a Box with the bounds
            [-1, 1] for floats, and as many actions as were seen for integers.
        spec: instead of the two spaces.
        name: for messages and reports.
        environment: Gymnasium id.
        references: raw returns that score 0 and 100.

    Raises:
        InputError: for arrays that do not fit together, values that are not finite, actions out of range.
    """
    notes: list[str] = []
    reward = _column(rewards, "rewards", name)
    rows = len(reward)
    if rows == 0:
        raise InputError(f"{name} is empty: it has no transitions")
    if spec is not None:
        observation_space, action_space = _spaces_of(spec, observations)
    raw, raw_next = _arrays(observations), None if next_observations is None else _arrays(next_observations)
    for label, value in (("observations", raw), ("next_observations", raw_next)):
        for path, leaf in () if value is None else _leaves(value, label):
            _check_rows(leaf, path, rows, name)
    action = _arrays(actions)
    if isinstance(action, dict):
        raise InputError(f"actions of {name} are a dictionary; actions may be one Box or Discrete array")
    _check_rows(action, "actions", rows, name)
    terminal = _flags(terminated, "terminated", rows, name)
    timeout = None if truncated is None else _flags(truncated, "truncated", rows, name)

    # Borders that are known before the numbers are looked at, to say where a bad one is.
    ends = terminal if timeout is None else terminal | timeout
    if lengths is not None:
        ends = _ends_of(np.asarray(lengths, dtype=np.int64), ends, name)
    log_prob = None if behavior_log_prob is None else _column(behavior_log_prob, "behavior_log_prob", name)
    if log_prob is not None:
        _check_rows(log_prob, "behavior_log_prob", rows, name)
    columns = [("rewards", reward), ("actions", action), *_leaves(raw, "observations")]
    columns += [] if raw_next is None else [*_leaves(raw_next, "next_observations")]
    columns += [] if log_prob is None else [("behavior_log_prob", log_prob)]
    for label, column in columns:
        _check_finite(column, label, ends, name)

    if observation_space is None:
        observation_space = _infer_observation_space(raw, "observations", name)
    if action_space is None:
        action_space = _infer_action_space(action, environment, name, notes)
    spec = make_spec(observation_space, action_space)
    scaled = _scale(action, spec, ends, name)
    observation = _encode(raw, observation_space, "observations", ends, name)
    following = None if raw_next is None else _encode(raw_next, observation_space, "next_observations", ends, name)

    if lengths is None:
        ends = ends.copy()
        if following is not None:
            jumps = np.append(_differ(following, observation), False) & ~ends
            if timeout is not None and jumps.any():
                notes.append(
                    f"in {_count(int(jumps.sum()), 'place')} the stored next observation is not the following row's "
                    "although no flag is set: taken as the end of an episode"
                )
            if jumps.sum() > rows // 2:
                notes.append(
                    "most rows do not follow each other (shuffled?): returns, n-step rewards and Monte-Carlo returns of "
                    "this dataset mean nothing"
                )
            ends |= jumps
        elif timeout is None:
            raise InputError(
                f"{name} has neither timeouts nor next_observations, so it cannot be seen where episodes end; give one "
                "of them (timeouts of zeros if every episode ends in a terminal state)"
            )
        ends[-1] = True
    timeout = np.zeros(rows, dtype=bool) if timeout is None else timeout.copy()
    both = terminal & timeout
    if both.any():
        notes.append(f"{_count(int(both.sum()), 'step')} had both flags: taken as terminal")
        timeout &= ~terminal
    keep = _close(terminal, timeout, ends, following is not None, truncated is not None, notes)
    if following is None:
        shifted = np.minimum(np.arange(rows) + 1, rows - 1)
        # After a terminal state nothing is bootstrapped, so any observation does.
        following = _take(observation, np.where(ends & terminal, np.arange(rows), shifted))
    if not keep.any():
        raise InputError(
            f"{name} is empty once the last step of each unfinished episode is dropped (its next observation is "
            "unknown); give next_observations, or longer episodes"
        )
    if not keep.all():
        columns_kept = (observation, following, scaled, reward, terminal, timeout, log_prob)
        observation, following, scaled, reward, terminal, timeout, log_prob = (_take(c, keep) for c in columns_kept)
    last = np.flatnonzero(terminal | timeout)
    length = np.diff(last, prepend=-1)

    size = [len(reward)]
    data = {
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
    return Episodes(
        data=TensorDict(data, batch_size=size),
        start=from_numpy(last - length + 1),
        length=from_numpy(length),
        spec=spec,
        name=name,
        environment=environment,
        references=_references(references, name),
        notes=notes,
    )


def _close(
    terminal: np.ndarray, timeout: np.ndarray, ends: np.ndarray, has_next: bool, has_timeouts: bool, notes: list[str]
) -> np.ndarray:
    """Give every episode exactly one flag at its last kept row, in place; returns the rows to keep."""
    unmarked = ends & ~terminal & ~timeout
    keep = np.ones(len(ends), dtype=bool)
    if has_next:
        if unmarked.any():
            why = "with neither flag" if has_timeouts else "without a terminal state, and timeouts are not stored"
            notes.append(
                f"{_count(int(unmarked.sum()), 'episode')} ended {why}: kept as truncated, as the last next observation "
                "is stored"
            )
        timeout |= unmarked
        return keep
    cut = ends & ~terminal
    if cut.any():
        parts = [
            _count(int(mask.sum()), "episode") + what
            for mask, what in ((timeout & cut, " ended in a timeout"), (unmarked, " ended with neither flag"))
            if mask.any()
        ]
        notes.append(
            f"{' and '.join(parts)}: the last step of each was cut, because next_observations are not stored and the one "
            "after it is unknown"
        )
    keep &= ~cut
    before = np.flatnonzero(cut) - 1
    before = before[before >= 0]
    before = before[~ends[before]]
    timeout[before] = True
    timeout &= keep
    return keep


def _column(value: Any, label: str, name: str) -> np.ndarray:
    """One number per row as float64; ``[T, 1]`` is taken as ``[T]``."""
    array = _numbers(value, label)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(f"{label} of {name} has shape {list(array.shape)}, expected one number per transition, [T]")
    return array.astype(np.float64)


def _flags(value: Any, label: str, rows: int, name: str) -> np.ndarray:
    array = _column(value, label, name)
    _check_rows(array, label, rows, name)
    bad = np.flatnonzero((array != 0) & (array != 1))
    if len(bad):
        raise InputError(f"{label} of {name} must be true or false (1 or 0), but row {bad[0]} holds {array[bad[0]]:g}")
    return array.astype(bool)


def _numbers(value: Any, label: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "fiub":
        raise InputError(
            f"{label} must be a rectangular array of numbers, got {type(value).__name__} of type {array.dtype}; episodes "
            "of different length are put one after the other"
        )
    return array


def _arrays(value: Any, label: str = "observations") -> Any:
    if isinstance(value, Mapping):
        return {key: _arrays(inner, f"{label}.{key}") for key, inner in sorted(value.items())}
    return _numbers(value, label)


def _leaves(value: Any, label: str) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{label}.{key}")
    else:
        yield label, value


def _take(value: Any, rows: np.ndarray) -> Any:
    if isinstance(value, dict):
        return {key: _take(inner, rows) for key, inner in value.items()}
    return None if value is None else value[rows]


def _check_rows(array: np.ndarray, label: str, rows: int, name: str) -> None:
    if array.ndim == 0 or len(array) != rows:
        got = "is a single number" if array.ndim == 0 else f"has {len(array)} rows"
        raise InputError(f"{label} of {name} {got} but rewards has {rows}: all arrays need one row per transition")


def _place(row: int, ends: np.ndarray) -> str:
    """Which episode and step a row is, both from 0."""
    before = np.flatnonzero(ends[:row])
    step = row - (int(before[-1]) + 1 if len(before) else 0)
    return f"episode {len(before)}, step {step} (row {row})"


def _check_finite(array: np.ndarray, label: str, ends: np.ndarray, name: str) -> None:
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    bad = ~np.isfinite(array)
    row = int(np.flatnonzero(bad.reshape(len(array), -1).any(1))[0])
    value = array[row][bad[row]].reshape(-1)[0] if array.ndim > 1 else array[row]
    raise InputError(
        f"{label} of {name} holds {value} at {_place(row, ends)}, and {int(bad.sum())} values that are not finite in "
        "all; repair or drop these episodes"
    )


def _ends_of(lengths: np.ndarray, flagged: np.ndarray, name: str) -> np.ndarray:
    if int(lengths.sum()) != len(flagged) or (lengths < 1).any():
        raise InputError(
            f"the episode lengths of {name} add up to {int(lengths.sum())}, but there are {len(flagged)} transitions"
        )
    ends = np.zeros(len(flagged), dtype=bool)
    ends[lengths.cumsum() - 1] = True
    inside = np.flatnonzero(flagged & ~ends)
    if len(inside):
        raise InputError(
            f"{name} sets terminated or truncated at {_place(int(inside[0]), ends)}, before the last step of the episode; "
            "only the last step may end it: split the episode there"
        )
    return ends


def _infer_observation_space(value: Any, label: str, name: str) -> Any:
    from gymnasium import spaces

    if isinstance(value, dict):
        return spaces.Dict({k: _infer_observation_space(v, f"{label}.{k}", name) for k, v in value.items()})
    if value.ndim < 2:
        raise InputError(
            f"{label} of {name} has shape {list(value.shape)}, expected [T, D]: a single feature is written [T, 1], and "
            "numbered states need observation_space=gymnasium.spaces.Discrete(n)"
        )
    if value.dtype == np.uint8:
        return spaces.Box(0, 255, value.shape[1:], np.uint8)
    return spaces.Box(-np.inf, np.inf, value.shape[1:], np.float32)


def _infer_action_space(action: np.ndarray, environment: str | None, name: str, notes: list[str]) -> Any:
    from gymnasium import spaces

    integers = action.dtype.kind in "iu"
    if integers and action.ndim == 2 and action.shape[1] > 1:
        raise InputError(
            f"actions of {name} are integers of shape {list(action.shape)}: several discrete actions per step are not "
            "supported; number the combinations as one, or convert to float if they are continuous"
        )
    if not integers and action.ndim < 2:
        raise InputError(
            f"actions of {name} has shape {list(action.shape)}, expected [T, A]: a single dimension is written [T, 1]"
        )
    space = _environment_action_space(environment)
    if integers:
        if isinstance(space, spaces.Discrete):
            return space
        count = int(action.max()) + 1
        notes.append(f"the number of actions is not stored: taken as {count}, one more than the largest seen")
        return spaces.Discrete(count)
    width = int(np.prod(action.shape[1:]))
    if isinstance(space, spaces.Box) and int(np.prod(space.shape)) == width and space.is_bounded():
        return space
    return spaces.Box(-1.0, 1.0, (width,), np.float32)


def _environment_action_space(environment: str | None) -> Any:
    if environment is None:
        return None
    import gymnasium

    if environment not in gymnasium.registry:
        return None
    try:
        env = gymnasium.make(environment)
        try:
            return env.action_space
        finally:
            env.close()
    except Exception:  # its simulator may not be installed; the data can be used all the same
        return None


def _spaces_of(spec: Spec, observations: Any) -> tuple[Any, Any]:
    from gymnasium import spaces

    def observation(shape: Any, value: Any) -> Any:
        if isinstance(shape, Mapping):
            given = value if isinstance(value, Mapping) else {}
            return spaces.Dict({key: observation(inner, given.get(key)) for key, inner in shape.items()})
        if getattr(value, "dtype", None) == np.uint8:
            return spaces.Box(0, 255, tuple(shape), np.uint8)
        return spaces.Box(-np.inf, np.inf, tuple(shape), np.float32)

    space = observation(spec["observation_shape"], observations)
    if spec["action_kind"] == "discrete":
        return space, spaces.Discrete(spec["action_size"])
    return space, spaces.Box(np.asarray(spec["action_low"]), np.asarray(spec["action_high"]), dtype=np.float64)


def _scale(action: np.ndarray, spec: Spec, ends: np.ndarray, name: str) -> np.ndarray:
    """Checked actions: ``[T, A]`` float32 in [-1, 1], or ``[T]`` int64."""
    rows, size = len(action), spec["action_size"]
    if spec["action_kind"] == "discrete":
        flat = action.reshape(rows, -1)
        if flat.shape[1] != 1:
            raise InputError(f"actions of {name} has shape {list(action.shape)}, expected [T] for a Discrete space")
        number = flat[:, 0].astype(np.int64)
        bad = np.flatnonzero((number != flat[:, 0]) | (number < 0) | (number >= size))
        if len(bad):
            raise InputError(
                f"actions of {name} holds {flat[bad[0], 0]} at {_place(int(bad[0]), ends)}, expected a whole number from "
                f"0 to {size - 1}"
            )
        return number
    # In float64, so that float32 actions within [-1, 1] come out bit for bit.
    flat = action.reshape(rows, -1).astype(np.float64)
    if action.ndim < 2 and size != 1 or flat.shape[1] != size:
        raise InputError(f"actions of {name} has shape {list(action.shape)}, expected [{rows}, {size}]")
    scaled = np.asarray(scale_action(flat, spec))
    over = np.abs(scaled) - 1.0
    bad = np.argwhere(over > 2.0 * OVERSHOOT)
    if len(bad):
        row, dim = (int(i) for i in bad[0])
        raise InputError(
            f"actions of {name} holds {flat[row, dim]:g} in dimension {dim} at {_place(row, ends)}, outside of the bounds "
            f"[{spec['action_low'][dim]:g}, {spec['action_high'][dim]:g}]; give the action_space they were logged in, or "
            "clip them if the environment did"
        )
    return np.clip(scaled, -1.0, 1.0).astype(np.float32)


def _encode(value: Any, space: Any, label: str, ends: np.ndarray, name: str) -> Any:
    """Checked against the space, then as the package stores it."""
    from gymnasium import spaces

    def check(value: Any, space: Any, label: str) -> None:
        if isinstance(space, spaces.Dict):
            if not isinstance(value, dict) or set(value) != set(space.spaces):
                got = sorted(value) if isinstance(value, dict) else f"an array of shape {list(value.shape)}"
                raise InputError(f"{label} of {name} must have the keys {sorted(space.spaces)}, got {got}")
            for key, inner in space.spaces.items():
                check(value[key], inner, f"{label}.{key}")
            return
        want = tuple(getattr(space, "shape", ()) or ())
        if isinstance(value, dict):
            raise InputError(f"{label} of {name} has the keys {sorted(value)}, expected one array of shape [T, ...]")
        if value.shape[1:] != want:
            raise InputError(f"{label} of {name} has shape {list(value.shape)}, expected {[len(value), *want]}")
        if isinstance(space, spaces.Discrete):
            index = value - space.start
            bad = np.flatnonzero((index < 0) | (index >= space.n) | (index != np.floor(index)))
            if len(bad):
                raise InputError(
                    f"{label} of {name} holds {value[bad[0]]} at {_place(int(bad[0]), ends)}, expected a whole number "
                    f"from {space.start} to {space.start + space.n - 1}"
                )

    check(value, space, label)
    encoded = encode_observation(value, space)
    for path, leaf in _leaves(encoded, label):
        # A float64 may be too large for float32.
        _check_finite(leaf, path, ends, name)
    return encoded


def _differ(following: Any, observation: Any) -> np.ndarray:
    """Rows (all but the last) whose next observation is not the following row's observation."""
    if isinstance(observation, dict):
        return np.any([_differ(following[key], observation[key]) for key in observation], axis=0)
    left, right = following[:-1], observation[1:]
    if left.dtype == np.uint8:
        unequal = left != right
    else:
        unequal = np.abs(left - right) > SAME_STATE * np.maximum(1.0, np.abs(right))
    return unequal.reshape(len(left), -1).any(1)


def _references(value: Any, name: str) -> tuple[float, float] | None:
    if value is None:
        return None
    low, high = (float(v) for v in value)
    if not (np.isfinite([low, high]).all() and low < high):
        raise InputError(f"the reference returns of {name} must be two numbers, low < high, got {low:g} and {high:g}")
    return low, high


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def read_npz(path: Path) -> Episodes:
    """Episodes from an ``.npz`` with the arrays of `NAMES`; settings may stand beside them as arrays of one text.

    Raises:
        InputError: for a damaged file, and all that `read` raises.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as problem:
        raise InputError(f"{path} cannot be read as an .npz of numeric arrays ({problem})") from problem
    for key in ("name", "environment"):
        if key in found:
            found[key] = str(found[key])
    return read(found, name=path.stem)
