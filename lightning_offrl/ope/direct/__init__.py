"""Estimators that fit values, density ratios or a model to the data and ask them for V(s0)."""

from lightning_offrl.training import old_names

__getattr__ = old_names.attributes_of(__name__)
