"""A simulated sepsis ward whose values are known exactly, as a Gymnasium environment."""

from lightning_offrl.envs.sepsis.environment import Sepsis as Sepsis
from lightning_offrl.envs.sepsis.registration import ENTRY_POINT as ENTRY_POINT
from lightning_offrl.envs.sepsis.registration import register
from lightning_offrl.training.old_code import attributes_of

__all__ = ["ENTRY_POINT", "Sepsis"]

__getattr__ = attributes_of(__name__)
register()
