"""The dataset doctor: what a dataset is, what is wrong with it, and what may be expected of it.

`examine` measures, `write` makes one HTML page and one JSON file; ``offrl data report`` does both. Every measure is
defined where it is computed:

    dataset_facts       returns, lengths, endings, rewards, actions, imbalance, drift
    dataset_copies      duplicated and leaking episodes
    dataset_states      coverage, the map of states, which episodes meet
    dataset_policies    behavior entropy, effective number of policies
    dataset_stitching   what recombining episodes could gain
    dataset_findings    each check, judged
    dataset_notes       what cannot be told, and all definitions in words
    dataset_advice      verdict and advice, each sentence with its evidence

Large data is sampled where a measure compares everything with everything; the measures say how much they saw.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_offrl.data.episodes import Episodes, leaves
from lightning_offrl.data.readers import load
from lightning_offrl.data.strata import episode_hashes
from lightning_offrl.errors import InputError
from lightning_offrl.reports import html
from lightning_offrl.reports.dataset.copies import Copies, find_copies
from lightning_offrl.reports.dataset.mixture import Policies, find_policies
from lightning_offrl.reports.dataset.states import Links, StateSpace, find_links, fit_scale, row_hashes, state_space
from lightning_offrl.reports.dataset.statistics import (
    Actions,
    Change,
    Endings,
    Imbalance,
    Rewards,
    Summary,
    actions,
    drift,
    endings,
    imbalance,
    rewards,
    summary,
)
from lightning_offrl.reports.dataset.stitching import Stitching, stitching


@dataclass(frozen=True)
class DatasetMeasures:
    """All that was measured; no judgment.

    Attributes:
        source: as the user named it, for commands.
        episodes: the data.
        discount: of values and of stitching.
        columns: what the source says of the columns (names, units), or empty; written by ``offrl data import``.
        returns: undiscounted, per episode.
        score: the same as 0-100 between the references, or None.
        lengths: steps per episode.
        hashes: of each episode's content.
    """

    source: str
    episodes: Episodes
    discount: float
    columns: dict[str, Any]
    returns: Summary
    score: Summary | None
    lengths: Summary
    endings: Endings
    rewards: Rewards
    actions: Actions
    imbalance: Imbalance
    drift: list[Change]
    copies: Copies
    states: StateSpace
    policies: Policies
    links: Links
    stitching: Stitching
    hashes: list[str] = field(repr=False)

    @property
    def copied_steps(self) -> int:
        """Steps of episodes that are exact copies of earlier ones."""
        first: set[str] = set()
        total = 0
        for one, length in zip(self.hashes, self.episodes.length.tolist(), strict=True):
            total += length if one in first else 0
            first.add(one)
        return total


def examine(
    source: Any, *, discount: float = 0.99, seed: int = 0, cache_dir: str | Path | None = None
) -> DatasetMeasures:
    """Measure a dataset.

    Args:
        source: anything that `load` takes.
        discount: of the values that an algorithm would learn.
        seed: of what is sampled; the same seed gives the same report.
        cache_dir: see `lightning_offrl.data.cache.directory`.

    Raises:
        InputError: if the source cannot be read, or the discount is not in [0, 1).
    """
    if not 0.0 <= discount < 1.0:
        raise InputError(f"the discount of a report must lie in [0, 1), got {discount}")
    episodes = load(source, cache_dir=cache_dir)
    scale = fit_scale(episodes, seed)
    observed = _tables(episodes.data["observation"])
    following = _tables(episodes.data["next", "observation"])
    state, next_state = row_hashes(*observed), row_hashes(*following)
    step = row_hashes(*observed, episodes.data["action"], episodes.data["next", "reward"], *following)
    hashes = episode_hashes(episodes)
    returns = episodes.returns()
    score = None
    if episodes.references is not None:
        low, high = episodes.references
        score = summary(100.0 * (returns - low) / (high - low))
    links = find_links(episodes, scale, seed)
    return DatasetMeasures(
        source=str(source) if isinstance(source, str | Path) else episodes.name,
        episodes=episodes,
        discount=discount,
        columns=episodes.columns,
        returns=summary(returns),
        score=score,
        lengths=summary(episodes.length),
        endings=endings(episodes, state, next_state),
        rewards=rewards(episodes, discount),
        actions=actions(episodes),
        imbalance=imbalance(episodes),
        drift=drift(episodes, scale),
        copies=find_copies(episodes, hashes, step),
        states=state_space(episodes, scale, seed),
        policies=find_policies(episodes, scale, seed),
        links=links,
        stitching=stitching(links, discount),
        hashes=hashes,
    )


def _tables(observation: Any) -> list[Tensor]:
    return [observation] if isinstance(observation, Tensor) else [leaf for _, leaf in leaves(observation)]


def as_dict(seen: DatasetMeasures) -> dict[str, Any]:
    """Everything as plain numbers, ready for JSON: nan and inf as None, pictures left out.

    ``episode_policies`` maps each episode's content hash to the number of its policy, for
    `lightning_offrl.data.strata.Sampling`.
    """
    from lightning_offrl.reports.dataset.advice import assess

    episodes, opinion = seen.episodes, assess(seen)
    facts: dict[str, Any] = {
        "format": 1,
        "source": seen.source,
        "name": episodes.name,
        "environment": episodes.environment,
        "fingerprint": episodes.fingerprint,
        "episodes": episodes.n_episodes,
        "transitions": len(episodes),
        "spec": episodes.spec,
        "references": episodes.references,
        "notes": episodes.notes,
        "columns": seen.columns,
        "discount": seen.discount,
        "verdict": opinion.verdict,
        "advice": opinion.advice,
        "findings": opinion.findings,
    }
    for name in ("returns", "score", "lengths", "endings", "rewards", "actions", "imbalance", "drift", "copies"):
        facts[name] = getattr(seen, name)
    facts["states"] = _without(seen.states, "map", "map_rows")
    facts["policies"] = _without(seen.policies, "of_episode")
    facts["links"] = _without(seen.links, "episodes", "chosen", "neighbors", "state", "cut")
    facts["links"]["sampled_episodes"] = seen.links.episodes.n_episodes
    facts["links"]["sampled_steps"] = len(seen.links.episodes)
    facts["stitching"] = seen.stitching
    facts["episode_policies"] = dict(zip(seen.hashes, seen.policies.of_episode.tolist(), strict=True))
    return _plain(facts)


def _without(value: Any, *names: str) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.name not in names}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def text(seen: DatasetMeasures) -> str:
    """Verdict, problems and warnings for a terminal."""
    from lightning_offrl.reports.dataset.advice import assess, command

    opinion = assess(seen)
    lines = [opinion.verdict.headline, *(f"  {sentence}" for sentence in opinion.verdict.sentences)]
    for level, word in (("problem", "repair"), ("warning", "know")):
        lines += [f"{word}: {one.sentence}" for one in opinion.findings if one.level == level]
    lines.append(f"train: {command(seen, opinion)}")
    return "\n".join(lines)


def write(seen: DatasetMeasures, output: str | Path | None = None) -> tuple[Path, Path]:
    """Write the page and the numbers.

    Args:
        seen: from `examine`.
        output: path of the page (``.html``), or a directory; None: ``NAME-report.html`` in the working directory. The
            numbers lie beside it, as ``.json``.

    Returns:
        The paths of the page and of the numbers.

    Raises:
        InputError: for a path that does not end in ``.html`` and is no directory, or cannot be written.
    """
    from lightning_offrl.reports.dataset.page import document

    name = re.sub(r"[^\w.-]+", "-", seen.episodes.name).strip("-.") or "dataset"
    path = Path(output).expanduser() if output is not None else Path()
    if path.is_dir():
        path = path / f"{name}-report.html"
    if path.suffix != ".html":
        raise InputError(f"the report is written as .html (and .json beside it), got the path {path}")
    numbers = path.with_suffix(".json")
    try:
        html.write(numbers, json.dumps(as_dict(seen), indent=1, allow_nan=False) + "\n")
        html.write(path, document(seen))
    except OSError as problem:
        raise InputError(
            f"the report cannot be written to {path} ({problem.strerror}); name another place"
        ) from problem
    return path, numbers
