"""What is evaluated and what made the data: policies as densities and samplers."""

from lightning_offrl.training import old_names

__getattr__ = old_names.attributes_of(__name__)
