"""Environments: making them, the built-in behaviour policies, collection, evaluation, video."""
