"""Choosing among policies: ranking, confidence sets, a plan of first real episodes."""

from lightning_offrl.training.old_code import attributes_of

__getattr__ = attributes_of(__name__)
