"""Direct methods: estimates of a policy's value from fitted values, density ratios or models of the environment."""

from lightning_offrl.training.old_code import attributes_of

__getattr__ = attributes_of(__name__)
