"""What is evaluated and what made the data: policies as densities and samplers."""
