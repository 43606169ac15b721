"""A GridWorld whose values are solved exactly, as a Gymnasium environment."""

from lightning_offrl.envs.gridworld.environment import ENTRY_POINT as ENTRY_POINT
from lightning_offrl.envs.gridworld.environment import GridWorld as GridWorld
from lightning_offrl.training.old_code import attributes_of

__all__ = ["ENTRY_POINT", "GridWorld"]

__getattr__ = attributes_of(__name__)
