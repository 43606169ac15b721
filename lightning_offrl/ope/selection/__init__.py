"""Choosing among policies: ranking, confidence sets, a plan of first real episodes."""

from lightning_offrl.training import old_names

__getattr__ = old_names.attributes_of(__name__)
