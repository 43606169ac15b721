"""A GridWorld whose values are solved exactly, as a Gymnasium environment."""

from lightning_offrl.envs.gridworld.environment import ENTRY_POINT as ENTRY_POINT
from lightning_offrl.envs.gridworld.environment import GridWorld as GridWorld

__all__ = ["ENTRY_POINT", "GridWorld"]
