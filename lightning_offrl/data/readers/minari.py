"""Minari datasets, by id from the local store (downloaded by Minari where missing) or by directory.

Minari episodes hold T + 1 observations, so every last observation is real, also where an episode was truncated. Masks
of legal actions are read from dictionary observations or from ``infos``, both under ``action_mask``.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np
import torch

from lightning_offrl.data.episodes import Episodes
from lightning_offrl.data.readers.arrays import NAMES, Ask, from_arrays
from lightning_offrl.data.readers.checks import usable_log_prob
from lightning_offrl.errors import InputError

VERSION = 2
"""Raised when the same dataset would be read differently, so that caches of before are not used."""

LOG = "infos/log"
"""Where times and groups of imported logs stand."""
STEPS = ("actions", "rewards", "terminations", "truncations")
"""What Minari stores once for every step; of observations there is one more."""

# Minari's own pattern (minari.dataset.minari_dataset), with the version it then needs; here so that a cached dataset
# is opened without importing Minari.
_ID = re.compile(r"^([-_\w][-_\w/]*[-_\w]+/)?[-_\w]+?-v\d+$")


def root() -> Path:
    """Minari's local store: MINARI_DATASETS_PATH, or ``~/.minari/datasets``."""
    given = os.environ.get("MINARI_DATASETS_PATH")
    return Path(given) if given is not None else Path.home() / ".minari" / "datasets"


def is_id(text: str) -> bool:
    """Whether a text has the form of a Minari id, ``namespace/name-v0``."""
    return _ID.match(text) is not None


def local_ids() -> list[str]:
    """Ids of the datasets in the local store, sorted."""
    found = root().glob("**/data/metadata.json") if root().is_dir() else []
    ids = (path.parent.parent.relative_to(root()) for path in found)
    return sorted(i.as_posix() for i in ids if not any(part.startswith(".") for part in i.parts))


def data_directory(source: str | Path) -> Path | None:
    """The directory with ``metadata.json`` of an id in the local store, or of a path; None if there is none."""
    candidates = [Path(source) / "data", Path(source)]
    if isinstance(source, str) and is_id(source):
        candidates.insert(0, root() / source / "data")
    return next((path for path in candidates if (path / "metadata.json").is_file()), None)


def download(dataset_id: str) -> Path:
    """Let Minari fetch a dataset into the local store; returns its data directory.

    Raises:
        InputError: if that fails, with the nearest ids in the local store.
    """
    missing = f"there is no Minari dataset {dataset_id!r} in {root()}, and Minari could not download it"
    host = _unreachable()
    if host is not None:
        raise InputError(f"{missing} ({host} is not reachable); {nearest(dataset_id)}")
    try:
        import minari

        minari.download_dataset(dataset_id)  # its load_dataset also opens it, see `open_dataset`
    except Exception as problem:
        raise InputError(f"{missing} ({_first_line(problem)}); {nearest(dataset_id)}") from problem
    directory = data_directory(dataset_id)
    if directory is None:
        raise InputError(f"Minari downloaded {dataset_id!r}, but it is not in {root()}; see MINARI_DATASETS_PATH")
    return directory


def _unreachable() -> str | None:
    """The host of Minari's datasets if its name does not resolve: the download would retry for half a minute first."""
    if os.environ.get("MINARI_REMOTE") or getproxies():
        return None
    host = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").hostname or ""
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return host
    return None


def nearest(dataset_id: str) -> str:
    """Half a sentence with the local ids most like this one."""
    ids = local_ids()
    if not ids:
        return "no dataset is there yet: `offrl collect` makes one"
    near = difflib.get_close_matches(dataset_id, ids, 3, cutoff=0.5)
    if near:
        return f"nearest there: {', '.join(near)}"
    return f"there are: {', '.join(ids[:8])}{', ...' if len(ids) > 8 else ''}"


def files(directory: Path) -> list[Path]:
    """All files that make up the dataset."""
    return sorted(path for path in directory.rglob("*") if path.is_file())


def open_dataset(directory: Path) -> Any:
    """Minari's dataset in a directory, whose spaces must be stored.

    Where one is not, Minari would call whatever the dataset's ``env_spec`` names to make the environment and ask it.

    Raises:
        InputError: a space is missing.
    """
    import minari
    from gymnasium import spaces
    from minari.serialization import deserialize_space

    metadata = json.loads((directory / "metadata.json").read_text(encoding="utf-8"))
    for key in ("observation_space", "action_space"):
        text = metadata.get(key) if isinstance(metadata, dict) else None
        if not (isinstance(text, str) and isinstance(deserialize_space(text), spaces.Space)):
            raise InputError(
                f"the Minari dataset in {directory} does not store its {key}, and no environment is made to learn it; "
                f"add it to metadata.json (minari.serialization.serialize_space), or download or collect it again"
            )
    return minari.MinariDataset(directory)


def read(directory: Path, environment: str | None = None, ask: Ask = "nobody") -> Episodes:
    """All episodes of a dataset.

    Args:
        directory: the one with ``metadata.json``.
        environment: not used: a Minari dataset keeps its own.
        ask: not used: the spaces are always stored.

    Raises:
        InputError: for a damaged dataset, unsupported spaces, or numbers that cannot be used.
    """
    try:
        dataset = open_dataset(directory)
        metadata = dataset.storage.metadata
        episodes = [_episode(episode) for episode in dataset.iterate_episodes()]
    except InputError:
        raise
    except Exception as problem:
        raise InputError(
            f"the Minari dataset in {directory} cannot be read ({_first_line(problem)}); download or collect it again"
        ) from problem
    name = str(metadata["dataset_id"])
    if not episodes:
        raise InputError(f"{name} is empty: it has no transitions")
    for number, episode in enumerate(episodes):
        _check_lengths(episode, number, name)
    logged = ["behavior_log_prob" in episode for episode in episodes]
    notes: list[str] = []
    log_prob = None
    if all(logged):
        log_prob = np.concatenate([episode["behavior_log_prob"] for episode in episodes])
        log_prob = usable_log_prob(log_prob, "behavior_log_prob", notes)
    elif any(logged):
        notes.append(f"behavior_log_prob is logged in {sum(logged)} of {len(logged)} episodes only: left out")
    discrete = hasattr(dataset.spec.action_space, "n")
    mask, next_mask = _masks(episodes, notes) if discrete else (None, None)
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    whole = {key: _concatenate([episode[key] for episode in episodes]) for key in STEPS}
    out = from_arrays(
        {
            **whole,
            "observations": _concatenate([_slice(episode["observations"], slice(None, -1)) for episode in episodes]),
            "next_observations": _concatenate(
                [_slice(episode["observations"], slice(1, None)) for episode in episodes]
            ),
            "behavior_log_prob": log_prob,
            "action_mask": mask,
            "next_action_mask": next_mask,
            "observation_space": dataset.spec.observation_space,
            "action_space": dataset.spec.action_space,
            "environment": _environment(metadata),
            "references": None if low is None or high is None else (low, high),
        },
        name=name,
        lengths=[len(episode["rewards"]) for episode in episodes],
    )
    out.notes.extend(notes)
    columns = metadata.get("columns")
    if isinstance(columns, dict):  # of `offrl data import`
        out.columns = columns
        if columns.get("log") and all("log" in episode for episode in episodes):
            out.data["log"] = torch.from_numpy(np.concatenate([episode["log"] for episode in episodes]))
    return out


def unread(directory: Path) -> set[str]:
    """Names of the infos in the first episode that `read` leaves out."""
    first = next(iter(open_dataset(directory).iterate_episodes([0])))
    return {f"infos/{key}" for key in first.infos or {}} - {name for names in NAMES.values() for name in names} - {LOG}


def _episode(episode: Any) -> dict[str, Any]:
    out = {key: getattr(episode, key) for key in ("observations", *STEPS)}
    mask = (episode.infos or {}).get("action_mask")
    if mask is not None:
        out["action_mask"] = np.asarray(mask)
    log_prob = (episode.infos or {}).get("behavior_log_prob")
    if log_prob is not None:
        # Minari's own collector also stores the info of the reset, first.
        steps = len(out["rewards"])
        out["behavior_log_prob"] = log_prob[1:] if len(log_prob) == steps + 1 else log_prob
    log = (episode.infos or {}).get("log")
    if isinstance(log, np.ndarray) and log.ndim == 2:
        out["log"] = log
    return out


def _check_lengths(episode: dict[str, Any], number: int, name: str) -> None:
    steps = len(episode["rewards"])
    for key, value in episode.items():
        both = key == "action_mask" and len(value) == steps + 1  # with that of the reset, or without
        want = steps + 1 if key == "observations" or both else steps
        for got in _lengths(value):
            if got != want:
                raise InputError(
                    f"episode {number} of {name} has {steps} rewards but {got} {key}, expected {want}; collect or "
                    "download it again"
                )


def _masks(episodes: list[dict[str, Any]], notes: list[str]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Masks of all observations and of all next ones, from the infos; the latter only where T + 1 are stored.

    With T masks, each is that of the observation acted on; the mask after the last step is not known then.
    """
    found = [episode.get("action_mask") for episode in episodes]
    logged = [mask for mask in found if mask is not None]
    if not logged:
        return None, None
    steps = [len(episode["rewards"]) for episode in episodes]
    if len(logged) < len(found):
        notes.append(
            f"action_mask is logged in {len(logged)} of {len(found)} episodes only: all actions of the others are "
            "taken as legal"
        )
        size = logged[0].shape[-1]
        logged = [np.ones((t + 1, size)) if m is None else m for m, t in zip(found, steps, strict=True)]
    now = np.concatenate([mask[:length] for mask, length in zip(logged, steps, strict=True)])
    whole = all(len(mask) == length + 1 for mask, length in zip(logged, steps, strict=True))
    return now, np.concatenate([mask[1:] for mask in logged]) if whole else None


def _lengths(value: Any) -> list[int]:
    if isinstance(value, dict):
        return [length for inner in value.values() for length in _lengths(inner)]
    return [] if isinstance(value, tuple) else [len(value)]


def _slice(value: Any, part: slice) -> Any:
    if isinstance(value, dict):
        return {key: _slice(inner, part) for key, inner in value.items()}
    return value if isinstance(value, tuple) else value[part]


def _concatenate(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: _concatenate([value[key] for value in values]) for key in values[0]}
    # Tuple and Text spaces are refused by their space, with a sentence.
    return np.concatenate(values) if isinstance(values[0], np.ndarray) else np.empty((0,))


def _environment(metadata: dict[str, Any]) -> str | None:
    """The environment meant for evaluation if the dataset names one, else the one it was collected in.

    Its Gymnasium id; where it was made with arguments or wrappers, which the id alone would lose, the whole
    specification as JSON, from which `lightning_offrl.envs.make.make_environment` makes it as well.
    """
    text = metadata.get("eval_env_spec") or metadata.get("env_spec")
    if not text:
        return None
    spec = json.loads(text)
    return text if spec.get("kwargs") or spec.get("additional_wrappers") else spec.get("id")


def _first_line(problem: BaseException) -> str:
    text = str(problem).strip()
    return text.splitlines()[0].rstrip(".") if text else type(problem).__name__
