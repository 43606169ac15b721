"""Policies as densities and samplers: the policy to evaluate, and the behavior policy that made the data."""

from lightning_offrl.training import old_names

__getattr__ = old_names.attributes_of(__name__)
