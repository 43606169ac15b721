"""A simulated sepsis ward whose values are known exactly, as a Gymnasium environment."""

from lightning_offrl.envs.sepsis.environment import Sepsis as Sepsis
from lightning_offrl.envs.sepsis.registration import ENTRY_POINT as ENTRY_POINT
from lightning_offrl.envs.sepsis.registration import register

__all__ = ["ENTRY_POINT", "Sepsis"]

register()
