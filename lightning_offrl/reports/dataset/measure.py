"""The measures of a dataset report, without judgment.

Each measure is defined in the module that computes it:

    statistics   returns, lengths, endings, rewards, actions, imbalance, drift
    copies       duplicated episodes, and what a split leaks through them
    states       coverage, the map of states, which episodes meet
    mixture      behavior entropy, effective number of policies
    stitching    what recombining episodes could gain

What follows from them is in `findings` (each check), `verdict` and `advice`; `document` lays the report out and `write`
writes it, as ``offrl data report`` does.

Large data is sampled where a measure compares everything with everything; the measures say how much they saw.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_offrl.data.episodes import Episodes, leaves
from lightning_offrl.data.readers import load
from lightning_offrl.data.strata import episode_hashes
from lightning_offrl.errors import InputError
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
        source: the data as the user named it, for commands.
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

    def observation_name(self, name: str) -> str:
        """``observation 3`` as the log called it, where that is known."""
        word, _, index = name.rpartition(" ")
        column = self._column("observation", int(index)) if word == "observation" and index.isdigit() else {}
        return str(column.get("name", name))

    def observation_unit(self, index: int) -> str:
        """The unit of a number of the observation, or nothing where it is not known."""
        return str(self._column("observation", index).get("unit") or "")

    def action_name(self, index: int) -> str:
        """What the log called a dimension of the action, else its number."""
        return str(self._column("action", index).get("name", f"dimension {index}"))

    def action_unit(self, index: int) -> str:
        """The unit of a dimension of the action, or nothing where it is not known."""
        return str(self._column("action", index).get("unit") or "")

    def action_label(self, index: int) -> str:
        """What the log called a discrete action, else its number."""
        labels = self.columns.get("action_labels")
        return str(labels[index]) if isinstance(labels, list) and index < len(labels) else f"action {index}"

    def _column(self, kind: str, index: int) -> dict[str, Any]:
        columns = self.columns.get(kind)
        return columns[index] if isinstance(columns, list) and index < len(columns) else {}


def measure(
    source: Any, *, discount: float = 0.99, seed: int = 0, cache_dir: str | Path | None = None
) -> DatasetMeasures:
    """Measure a dataset.

    Args:
        source: anything that `load` takes.
        discount: of the values that an algorithm would learn.
        seed: of what is sampled; the same seed gives the same report.
        cache_dir: see `lightning_offrl.data.readers.cache.directory`.

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
