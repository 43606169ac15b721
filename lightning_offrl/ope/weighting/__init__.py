"""Estimators that weight logged returns by how likely the policy's actions were, and their intervals."""
