"""Policies as densities and samplers: the policy to evaluate, and the behavior policy that made the data."""

from lightning_offrl.training.old_code import attributes_of

__getattr__ = attributes_of(__name__)
