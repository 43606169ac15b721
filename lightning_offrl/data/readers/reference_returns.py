"""Published returns that count as 0 and 100, for datasets that carry none."""

from __future__ import annotations

import re
from dataclasses import replace

from lightning_offrl.data.episodes import Episodes

# D4RL, d4rl/infos.py (Fu et al. 2020): mean returns of a random policy and of a trained SAC, by environment family.
D4RL = {
    "Hopper": (-20.272305, 3234.3),
    "HalfCheetah": (-280.178953, 12135.0),
    "Walker2d": (1.629008, 4592.3),
    "Ant": (-325.6, 3879.7),
}
REFERENCES_NOTE = "no reference returns are stored: scores of 0-100 use D4RL's published ones"


def known_references(environment: str | None) -> tuple[float, float] | None:
    """D4RL's reference returns for an environment of exactly one of its families (``Hopper-v2`` to ``Hopper-v5``).

    >>> known_references("Hopper-v5")
    (-20.272305, 3234.3)
    >>> known_references("HopperBulletEnv-v0") is None
    True
    """
    match = re.fullmatch(r"(\w+)-v\d+", environment or "")
    return D4RL.get(match[1]) if match else None


def with_known_references(episodes: Episodes) -> Episodes:
    """The same episodes, with D4RL's references and a note of it where they carry none and it has some."""
    known = known_references(episodes.environment)
    if episodes.references is not None or known is None:
        return episodes
    note = f"{REFERENCES_NOTE} for {episodes.environment}, {known[0]:g} and {known[1]:g}"
    return replace(episodes, references=known, notes=[*episodes.notes, note])
