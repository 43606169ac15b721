"""A GridWorld whose values are solved exactly, as a Gymnasium environment."""

from lightning_offrl.envs.gridworld.environment import ENTRY_POINT as ENTRY_POINT
from lightning_offrl.envs.gridworld.environment import GridWorld as GridWorld
from lightning_offrl.training import old_names

__all__ = ["ENTRY_POINT", "GridWorld"]

__getattr__ = old_names.attributes_of(__name__)
