"""Environments: making them, the built-in behavior policies, collection, evaluation, video."""
