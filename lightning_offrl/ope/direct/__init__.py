"""Estimators that fit values, density ratios or a model to the data and ask them for V(s0)."""
