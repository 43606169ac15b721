"""Direct methods: estimates of a policy's value from fitted values, density ratios or models of the environment."""

from lightning_offrl.training import old_names

__getattr__ = old_names.attributes_of(__name__)
