"""Policies as densities and samplers: the policy to evaluate, and the behavior policy that made the data."""
