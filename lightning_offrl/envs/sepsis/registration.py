"""The ids under which Gymnasium makes a `Sepsis` environment."""

from __future__ import annotations

from typing import Any

import gymnasium

from lightning_offrl.envs.sepsis.environment import HORIZON, Sepsis

ENTRY_POINT = "lightning_offrl.envs.sepsis:Sepsis"


def sepsis_id(*, max_episode_steps: int = HORIZON, **arguments: Any) -> str:
    """The name of a bed of your own wherever the id of an environment is needed: its specification as JSON.

    Args:
        max_episode_steps: when episodes are truncated.
        arguments: those of `Sepsis`.
    """
    from gymnasium.envs.registration import EnvSpec

    Sepsis(**arguments)  # refuse here what could not be made later
    spec = EnvSpec("offrl/Sepsis-v0", entry_point=ENTRY_POINT, max_episode_steps=max_episode_steps, kwargs=arguments)
    return str(spec.to_json())


def register() -> None:
    """Make Gymnasium know ``offrl/Sepsis-v0`` and its variants; done when this package is imported."""
    ids: dict[str, dict[str, Any]] = {
        "offrl/Sepsis-v0": {},
        "offrl/Sepsis-confounded-v0": {"hidden_diabetes": True},
        "offrl/Sepsis-missing-v0": {"missing": 0.2},
    }
    for name, arguments in ids.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=ENTRY_POINT, max_episode_steps=HORIZON, kwargs=arguments)
